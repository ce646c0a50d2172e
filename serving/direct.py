"""The commonest request, rows to predict by the release in production, without Starlette's router, request and response.

These take more time than the checks, the encoder and the network together. What is answered is the same.
"""

from typing import Any

import orjson
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from serving import tensorflow_rest
from serving.batch_service import is_batch
from serving.batching import Batcher, is_crowded
from serving.log import REQUEST_ID, PredictionLog, name_of, score
from serving.models import Model, Models, Served
from serving.replies import read_body, refuse
from serving.request import RequestError, parse_rows

FRONT, VERB = "/v1/models/", ":predict"


class Direct:
    """Answers POST /v1/models/NAME:predict; everything else goes on to the app."""

    def __init__(self, app: ASGIApp, models: Models, max_body: int, log: PredictionLog | None) -> None:
        self.app, self.max_body, self.log = app, max_body, log
        self.paths = {f"{FRONT}{name}{VERB}": model for name, model in models.of.items()}
        self.batchers = {name: Batcher(model) for name, model in models.of.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        model = self.paths.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if model is None or is_batch(scope):
            await self.app(scope, receive, send)
            return
        try:
            served = model.pick(Headers(scope=scope)) if model.canary else model.current
            body = await read_body(receive, self.max_body, scope)
            if is_crowded(scope):
                served, content, name = await predict_with_others(self.batchers[model.name], served, body, scope, self.log)
            else:
                served, content, name = predict(model, served, body, scope, self.log)
        except RequestError as error:
            await refuse(Request(scope), error)(scope, receive, send)
            return
        headers = [*served.raw_headers, (b"content-length", b"%d" % len(content)), (b"content-type", b"application/json")]
        if name is not None:
            headers.append((REQUEST_ID, name.encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


def predict(model: Model, served: Served, body: bytes, scope: Scope, log: PredictionLog | None) -> tuple[Served, bytes, str | None]:
    """The answers to the body's rows as JSON, who made them, and the request's id, if a log is kept."""
    rows, in_columns = parse_rows(body, served.bundle.encoder)
    served, scores, name = score(model, served, rows, scope, log)
    return served, render(served.bundle.respond(scores), in_columns), name


async def predict_with_others(
    batcher: Batcher, served: Served, body: bytes, scope: Scope, log: PredictionLog | None
) -> tuple[Served, bytes, str | None]:
    """As `predict`, in one call of the network with the requests that came at the same time."""
    rows, in_columns = parse_rows(body, served.bundle.encoder)
    if not batcher.takes(rows):
        return predict(batcher.model, served, body, scope, log)
    scores, answer = await batcher.score(served, rows)
    name = None
    if log is not None:
        name = name_of(scope)
        log.record(served.bundle, name, rows, scores, channel=batcher.model.channel_of(served), key=scope.get("key"))
    return served, render(answer, in_columns), name


def render(answer: dict[str, list[Any]], in_columns: bool) -> bytes:
    """The body of an answer, in the form of its request."""
    return orjson.dumps(tensorflow_rest.outputs(answer) if in_columns else answer)

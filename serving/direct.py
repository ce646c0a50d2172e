"""The commonest request, rows to predict by the release in production, without Starlette's router, request and response.

These take more time than the checks, the encoder and the network together. What is answered is the same.
"""

import orjson
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from serving import tensorflow_rest
from serving.batch_service import is_batch
from serving.log import REQUEST_ID, PredictionLog, score
from serving.models import Model, Models, Served
from serving.replies import read_body, refuse
from serving.request import RequestError, parse_rows

FRONT, VERB = "/v1/models/", ":predict"


class Direct:
    """Answers POST /v1/models/NAME:predict; everything else goes on to the app."""

    def __init__(self, app: ASGIApp, models: Models, max_body: int, log: PredictionLog | None) -> None:
        self.app, self.max_body, self.log = app, max_body, log
        self.paths = {f"{FRONT}{name}{VERB}": model for name, model in models.of.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        model = self.paths.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if model is None or is_batch(scope):
            await self.app(scope, receive, send)
            return
        try:
            served = model.pick(Headers(scope=scope)) if model.canary else model.current
            served, content, name = predict(model, served, await read_body(receive, self.max_body), scope, self.log)
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
    answer = served.bundle.respond(scores)
    return served, orjson.dumps(tensorflow_rest.outputs(answer) if in_columns else answer), name

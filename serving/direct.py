"""The commonest request, rows to predict by the release in production, answered as soon as its last byte is read.

The way through ASGI, a task, a cycle of messages and Starlette, takes more time than the checks, the encoder and the network
together. What is answered is the same: what is odd in any way, and what has to wait for something, goes that way.
"""

import logging
import time
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from starlette.datastructures import Headers
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from serving import tensorflow_rest
from serving.batch_service import is_batch
from serving.batching import MOST_ROWS, Batcher, Scored
from serving.doors import Doors
from serving.log import REQUEST_ID, PredictionLog, name_of, score
from serving.middleware import check_head
from serving.models import Model, Models, Served
from serving.replies import CRASH, refusal
from serving.request import RequestError, parse_rows
from serving.traffic import Traffic

FRONT, VERB = "/v1/models/", ":predict"
ROUTE = "predict"

Scope = MutableMapping[str, Any]  # as ASGI has it: of a request that no app sees, the headers and whose key was taken
logger = logging.getLogger("serving")
Reply = Callable[[bytes, bytes, bool], None]  # the status line and headers, the body, and whether the connection ends with them


@dataclass(slots=True)
class Asked:
    """A request whose rows are to be scored."""

    scope: Scope
    served: Served
    rows: list[dict[str, Any]]
    in_columns: bool
    since: float
    reply: Reply


class Direct:
    """Answers POST /v1/models/NAME:predict where the whole request is there."""

    def __init__(self, models: Models, traffic: Traffic, doors: Doors, max_body: int, log: PredictionLog | None) -> None:
        self.traffic, self.doors, self.max_body, self.log = traffic, doors, max_body, log
        self.paths = {f"{FRONT}{name}{VERB}".encode(): model for name, model in models.of.items()}
        self.batcher = Batcher()

    def takes(self, headers: Iterable[tuple[bytes, bytes]], path: bytes) -> bool:
        """Whether a POST to the path can be answered here, if its body is what the headers say."""
        if path not in self.paths or self.doors.provider:  # whose keys may have to be fetched
            return False
        length = b""
        for name, value in headers:
            if name == b"content-length":
                length = value
        return length.isdigit() and len(length) < 16 and int(length) <= self.max_body and not is_batch(headers)

    def answer(self, headers: list[tuple[bytes, bytes]], path: bytes, body: bytes, reply: Reply, alone: bool) -> None:
        """`reply` is called with the answer: now, if the request is `alone`, else at the end of the event loop's turn."""
        since, model = time.perf_counter(), self.paths[path]
        scope: Scope = {"headers": headers}
        started = self.traffic.begin()
        try:
            self.traffic.admit(started)
            check_head("POST", headers)
            if self.doors.locked:
                scope["key"] = self.doors.check(path.decode(), dict(headers))
            served = model.pick(Headers(scope=scope)) if model.canary else model.current
            rows, in_columns = parse_rows(body, served.bundle.encoder)
            asked = Asked(scope, served, rows, in_columns, since, reply)
            if len(rows) <= MOST_ROWS and not alone and model.canary is model.shadow is None:
                self.batcher.add(served, rows, partial(self._told, model, asked))
            else:  # of trials each request is one, whoever comes with it
                asked.served, content, name = predict(model, served, rows, in_columns, scope, self.log)
                self._well(asked, content, name)
        except RequestError as error:
            self._refuse(error, since, reply)
        except Exception:
            logger.exception("a request failed")
            self._refuse(CRASH, since, reply)

    def flush(self) -> None:
        """Nobody waits for the turn's end any more."""
        self.batcher.flush()

    def _told(self, model: Model, asked: Asked, outcome: Scored | RequestError) -> None:
        if isinstance(outcome, RequestError):
            self._refuse(outcome, asked.since, asked.reply)
            return
        try:
            scores, answer = outcome
            name = None
            if self.log is not None:
                name, key = name_of(asked.scope), asked.scope.get("key")
                self.log.record(asked.served.bundle, name, asked.rows, scores, channel=model.channel_of(asked.served), key=key)
            self._well(asked, render(answer, asked.in_columns), name)
        except Exception:
            logger.exception("a request failed")
            self._refuse(CRASH, asked.since, asked.reply)

    def _well(self, asked: Asked, content: bytes, name: str | None) -> None:
        named = b"" if name is None else b"%s: %s\r\n" % (REQUEST_ID, name.encode())
        asked.reply(b"%s%scontent-length: %d\r\n" % (asked.served.head, named, len(content)), content, False)
        self.traffic.end(ROUTE, 200, time.perf_counter() - asked.since)

    def _refuse(self, error: RequestError, since: float, reply: Reply) -> None:
        answer = refusal(error)
        head = [STATUS_LINE[answer.status_code], *(b"%s: %s\r\n" % header for header in answer.raw_headers)]
        reply(b"".join(head), bytes(answer.body), answer.headers.get("connection") == "close")
        self.traffic.end(ROUTE, answer.status_code, time.perf_counter() - since)


def predict(
    model: Model, served: Served, rows: list[dict[str, Any]], in_columns: bool, scope: Scope, log: PredictionLog | None
) -> tuple[Served, bytes, str | None]:
    """Who made the answers to the rows, these as JSON, and the request's id, if a log is kept."""
    served, scores, name = score(model, served, rows, scope, log)
    return served, render(served.bundle.respond(scores), in_columns), name


def render(answer: dict[str, list[Any]], in_columns: bool) -> bytes:
    """The body of an answer, in the form of its request."""
    return orjson.dumps(tensorflow_rest.outputs(answer) if in_columns else answer)

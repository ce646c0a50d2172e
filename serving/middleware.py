"""What every request passes: it is counted, timed and, when too many are under way or the doors say so, sent away."""

import asyncio
import time

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.doors import OPEN, Doors
from serving.metrics import Metrics
from serving.replies import refuse
from serving.request import RequestError

VERBS = (":predict", ":explain", ":refresh", ":feedback", "/infer")
PLAIN = frozenset({"/", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/v1/models", "/v2", *OPEN})


class Measure:
    """Counts each request and times it, by the route that it took; one that finds `most` others under way is sent away."""

    def __init__(self, app: ASGIApp, metrics: Metrics, most: int) -> None:
        self.app, self.metrics, self.most, self.waiting = app, metrics, most, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, started = 500, time.perf_counter()

        async def listen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.waiting += 1
        self.metrics.waiting.set(self.waiting)
        try:
            if self.waiting > self.most and scope["path"] not in OPEN:
                full = RequestError(503, f"{self.most} requests are under way; come again", retry_after=1)
                await refuse(Request(scope), full)(scope, receive, listen)
            else:
                await self.app(scope, receive, listen)
        finally:
            self.waiting -= 1
            self.metrics.waiting.set(self.waiting)
            self.metrics.answered(route_of(scope["path"]), status, time.perf_counter() - started)


class Guard:
    """Lets through whom the doors let through, before anything is read of the body."""

    def __init__(self, app: ASGIApp, doors: Doors) -> None:
        self.app, self.doors = app, doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.doors.locked:
            try:
                asked = (scope["path"], dict(scope["headers"]))
                if self.doors.provider:  # whose keys may have to be fetched
                    scope["key"] = await asyncio.to_thread(self.doors.check, *asked)
                else:
                    scope["key"] = self.doors.check(*asked)
            except RequestError as error:
                await refuse(Request(scope), error)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def route_of(path: str) -> str:
    """What is asked for, of which there are few, whatever a client writes."""
    for verb in VERBS:
        if path.endswith(verb):
            return verb[1:]
    return path if path in PLAIN else "other"

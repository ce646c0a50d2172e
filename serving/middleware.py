"""What every request passes: it is counted, timed and, when too many are under way or the doors say so, sent away."""

import asyncio
import time
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.doors import OPEN, Doors
from serving.replies import refusal
from serving.request import RequestError
from serving.traffic import STARTED, Traffic

VERBS = (":predict", ":explain", ":refresh", ":feedback", "/infer")
PLAIN = frozenset({"/", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/v1/models", "/v2", *OPEN})


class Measure:
    """Counts each request and times it, by the route that it took; one that came behind too many others is sent away."""

    def __init__(self, app: ASGIApp, traffic: Traffic) -> None:
        self.app, self.traffic = app, traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, since, waits, traffic = 500, time.perf_counter(), 0, self.traffic

        async def hear() -> Message:
            begin()
            try:
                return await receive()
            finally:
                end()

        async def listen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            begin()
            try:
                await send(message)
            finally:
                end()

        def begin() -> None:  # of a wait for the client; who sends a file also listens whether its client is still there
            nonlocal waits
            waits += 1
            traffic.idle += waits == 1

        def end() -> None:
            nonlocal waits
            waits -= 1
            traffic.idle -= not waits

        started = scope.get("extensions", {}).get(STARTED) or traffic.begin()
        traffic.tell()
        try:
            try:
                if scope["path"] not in OPEN:
                    traffic.admit(started)
            except RequestError as full:
                await refusal(full)(scope, receive, listen)
                return
            await self.app(scope, hear, listen)
        finally:
            traffic.end(route_of(scope["path"]), status, time.perf_counter() - since)
            traffic.tell()


class Guard:
    """Lets through whom the doors let through, and what can be understood, before anything is read of the body."""

    def __init__(self, app: ASGIApp, doors: Doors) -> None:
        self.app, self.doors = app, doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                check_head(scope["method"], scope["headers"])
                await self._check(scope)
            except RequestError as error:
                await refusal(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _check(self, scope: Scope) -> None:
        if not self.doors.locked:
            return
        asked = (scope["path"], dict(scope["headers"]))
        if self.doors.provider:  # whose keys may have to be fetched
            scope["key"] = await asyncio.to_thread(self.doors.check, *asked)
        else:
            scope["key"] = self.doors.check(*asked)


def check_head(method: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """RequestError 415 for a packed body, 403 for what a browser sends from a page of another site.

    A browser adds the key that a person gave it to whatever such a page makes it send (CSRF).
    """
    for name, value in headers:
        if name == b"content-encoding" and value.lower() not in (b"", b"identity"):
            raise RequestError(415, f"Content-Encoding {value[:40].decode('latin-1')!r} is not taken; send the body as it is")
        if name == b"sec-fetch-site" and value in (b"cross-site", b"same-site") and method not in ("GET", "HEAD"):
            raise RequestError(403, "a page of another site sent this; only this service's own pages may")


def route_of(path: str) -> str:
    """What is asked for, of which there are few, whatever a client writes."""
    for verb in VERBS:
        if path.endswith(verb):
            return verb[1:]
    return path if path in PLAIN else "other"

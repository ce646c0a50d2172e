"""An ASGI application as a function: API Gateway's HTTP APIs and function URLs (payload format 2.0) in, the same out, no socket.

Mangum would do, but that it starts and ends the application with each invocation (its issue 342), and what follows the store with
it.
"""

import asyncio
import base64
import binascii
from contextlib import AsyncExitStack
from typing import Any

import httpx
from starlette.applications import Starlette

from serving.log import PredictionLog

# Of one connection, which API Gateway holds and not the function.
HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})
TEXTS = ("text/", "application/json", "application/problem+json")


class Function:
    """An application on an event loop that is kept between invocations."""

    def __init__(self, app: Starlette, log: PredictionLog | None) -> None:
        """Everything that the application does when it starts was done."""
        self.app, self.log, self.loop, self.stack = app, log, asyncio.new_event_loop(), AsyncExitStack()
        self.loop.run_until_complete(self.stack.enter_async_context(app.router.lifespan_context(app)))

    def __call__(self, event: dict[str, Any], context: object) -> dict[str, Any]:
        """The application's answer to the event, in the form of payload 2.0; ValueError for an event of another form.

        Its rows are in the prediction log by then, if one is kept: nothing runs between invocations, and no signal tells the end.
        """
        request, client = to_request(event), (event["requestContext"]["http"].get("sourceIp", ""), 0)
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, client=client)
        answer = self.loop.run_until_complete(self._answer(transport, request))
        if self.log is not None:
            self.log.write_out()
        return answer

    async def _answer(self, transport: httpx.ASGITransport, request: httpx.Request) -> dict[str, Any]:
        response = await transport.handle_async_request(request)
        return to_answer(response.status_code, response.headers, await response.aread())


def to_request(event: dict[str, Any]) -> httpx.Request:
    """The request that the event tells of; the name of a stage before the path is taken off."""
    if event.get("version") != "2.0" or "http" not in event.get("requestContext", {}):
        raise ValueError(f"an event of version {event.get('version')!r}; expected payload format 2.0")
    told, path = event["requestContext"], event["rawPath"]
    stage = "/" + told.get("stage", "$default")
    if path == stage or path.startswith(stage + "/"):
        path = path[len(stage) :] or "/"
    body = (event.get("body") or "").encode()
    try:
        body = base64.b64decode(body, validate=True) if event.get("isBase64Encoded") else body
    except binascii.Error as error:
        raise ValueError(f"the event's body is not base64: {error}") from error
    headers = [(name, value) for name, value in event.get("headers", {}).items() if name.lower() not in HOP]
    if cookies := event.get("cookies"):
        headers.append(("cookie", "; ".join(cookies)))
    url = httpx.URL(f"https://{told.get('domainName', 'localhost')}", path=path, query=event.get("rawQueryString", "").encode())
    return httpx.Request(told["http"]["method"], url, headers=headers, content=body)


def to_answer(status: int, headers: httpx.Headers, body: bytes) -> dict[str, Any]:
    """The answer in the form of payload 2.0: text as it is, anything else in base64."""
    text = headers.get("content-type", "").startswith(TEXTS) and "content-encoding" not in headers
    return {
        "statusCode": status,
        "headers": {name: value for name, value in headers.items() if name not in HOP and name != "set-cookie"},
        "cookies": headers.get_list("set-cookie"),
        "body": body.decode() if text else base64.b64encode(body).decode(),
        "isBase64Encoded": not text,
    }

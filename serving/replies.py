"""Bodies in, answers out: what every handler reads and says, errors as RFC 9457 problems."""

import asyncio
from http import HTTPStatus

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from serving.request import RequestError

BODY_SECONDS = 30.0
# Errors that are told before the whole body was read.
EARLY = {401, 403, 408, 413, 429, 503}


async def read_body(receive: Receive, most: int) -> bytes:
    """The whole body; RequestError 413 when it is larger than `most`.

    Of what is too large no more than `most` is kept, and 20 times that is read: a client that is still sending when the
    connection closes would find it broken, and not the answer.
    """
    parts: list[bytes] = []
    length, more = 0, True
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while more and length <= 20 * most:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RequestError(400, "the client went away before its body ended")
                length += len(part := message.get("body", b""))
                if length <= most:
                    parts.append(part)
                more = message.get("more_body", False)
    except TimeoutError as error:
        raise RequestError(408, f"the body did not end within {BODY_SECONDS:g} s") from error
    if length > most:
        raise RequestError(413, f"the body is larger than {most:,} bytes; send fewer rows at a time")
    return b"".join(parts)


def reply(
    content: object, status: int = 200, headers: dict[str, str] | None = None, media_type: str = "application/json"
) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type)


def refuse(request: Request, error: RequestError) -> Response:
    """An RFC 9457 problem; `error` is where TensorFlow Serving's clients look."""
    problem = {
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": error.detail,
        "error": error.detail,
        "errors": [{"field": field, "detail": detail} for field, detail in error.faults],
    }
    # What was not read of the body would be taken for the connection's next request.
    headers = {"connection": "close"} if error.status in EARLY else {}
    if error.retry_after:
        headers["retry-after"] = str(error.retry_after)
    answer = reply(problem, error.status, headers, "application/problem+json")
    if error.status == HTTPStatus.UNAUTHORIZED:
        for challenge in ("Bearer", 'Basic realm="a key as the password"'):  # of two in one line Chromium reads the first alone
            answer.headers.append("www-authenticate", challenge)
    return answer


def refuse_http(request: Request, error: HTTPException) -> Response:
    answer = refuse(request, RequestError(error.status_code, f"{request.method} {request.url.path}: {error.detail}"))
    answer.headers.update(error.headers or {})
    return answer

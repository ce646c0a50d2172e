"""Bodies in, answers out: what every handler reads and says, errors as RFC 9457 problems."""

import asyncio
from dataclasses import dataclass
from http import HTTPStatus

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from serving.request import RequestError

BODY_SECONDS = 30.0
DRAINED = 100_000_000  # bytes of a body that is too large, which are read and thrown away
MOST_HELD = 256_000_000  # bytes of all bodies together that have not ended yet
# Errors that are told before the whole body was read.
EARLY = {401, 403, 408, 413, 415, 429, 431, 503}

CRASH = RequestError(500, "the service failed to answer this; its log says why")


@dataclass
class Held:
    """Bytes of bodies that have not ended yet."""

    size: int = 0


HELD = Held()


async def read_body(receive: Receive, most: int) -> bytes:
    """The whole body; RequestError 413 when it is larger than `most`, 503 when too many others have not ended yet.

    Of what is too large no more than `most` is kept, and DRAINED is read: a client that is still sending when the connection
    closes would find it broken, and not the answer.
    """
    parts: list[bytes] = []
    length, held, more = 0, 0, True
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while more and length <= max(most, DRAINED):
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RequestError(400, "the client went away before its body ended")
                length += len(part := message.get("body", b""))
                more = message.get("more_body", False)
                if length <= most:
                    parts.append(part)
                    if more:
                        held += len(part)
                        HELD.size += len(part)
                        if HELD.size > MOST_HELD:
                            raise RequestError(503, "too many bodies are under way; come again", retry_after=5)
                elif held:
                    parts.clear()
                    HELD.size -= held
                    held = 0
    except TimeoutError as error:
        raise RequestError(408, f"the body did not end within {BODY_SECONDS:g} s") from error
    finally:
        HELD.size -= held
    if length > most:
        raise RequestError(413, f"the body is larger than {most:,} bytes; send fewer rows at a time")
    return b"".join(parts)


def reply(
    content: object, status: int = 200, headers: dict[str, str] | None = None, media_type: str = "application/json"
) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type)


def problem(error: RequestError) -> tuple[HTTPStatus, dict[str, str], bytes]:
    """Status, headers and content of an RFC 9457 problem; its `error` is where TensorFlow Serving's clients look."""
    status = HTTPStatus(error.status)
    content = {
        "title": status.phrase,
        "status": error.status,
        "detail": error.detail,
        "error": error.detail,
        "errors": [{"field": field, "detail": detail} for field, detail in error.faults],
    }
    headers = {"content-type": "application/problem+json", "x-content-type-options": "nosniff"}
    # What was not read of the body would be taken for the connection's next request.
    if error.status in EARLY:
        headers["connection"] = "close"
    if error.retry_after:
        headers["retry-after"] = str(error.retry_after)
    return status, headers, orjson.dumps(content)


def refuse(request: Request, error: RequestError) -> Response:
    """What Starlette calls for an error."""
    return refusal(error)


def refusal(error: RequestError) -> Response:
    """The problem as a response."""
    status, headers, content = problem(error)
    answer = Response(content, status, headers)
    if status == HTTPStatus.UNAUTHORIZED:
        for challenge in ("Bearer", 'Basic realm="a key as the password"'):  # of two in one line Chromium reads the first alone
            answer.headers.append("www-authenticate", challenge)
    return answer


def refuse_http(request: Request, error: HTTPException) -> Response:
    answer = refusal(RequestError(error.status_code, f"{request.method} {request.scope['path'][:100]}: {error.detail}"))
    answer.headers.update(error.headers or {})
    return answer


def refuse_crash(request: Request, error: Exception) -> Response:
    """The answer to a fault of ours, which is told in the log alone."""
    return refusal(CRASH)

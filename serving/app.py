"""The prediction service of one bundle: predict, explain, status, health, documents and a page to try it."""

import asyncio
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path

import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from swagger_ui_bundle import swagger_ui_path

from serving import openapi
from serving.bundle import Bundle
from serving.request import RequestError, parse_rows

MOST_EXPLAINED = 16  # rows of a request
PAGES = Environment(loader=FileSystemLoader(Path(__file__).parent / "pages"), autoescape=True, undefined=StrictUndefined)


def make_app(bundle: Bundle, *, max_body: int) -> Starlette:
    """An ASGI application; bodies of more than `max_body` bytes are refused."""
    headers = {"x-model-version": bundle.version}
    document = orjson.dumps(openapi.describe(bundle))
    page = render_page(bundle)
    docs = PAGES.get_template("docs.html").render(name=bundle.name)

    async def predict(request: Request) -> Response:
        check_name(request)
        rows = parse_rows(await read_body(request, max_body), bundle.encoder)
        return reply(bundle.respond(rows), headers=headers)

    async def explain(request: Request) -> Response:
        check_name(request)
        rows = parse_rows(await read_body(request, max_body), bundle.encoder)
        if len(rows) > MOST_EXPLAINED:
            raise RequestError(
                422, f"{len(rows):,} rows to explain; at most {MOST_EXPLAINED} at a time, each costs a thousand answers"
            )
        explanations = []
        for row in rows:
            label, found = bundle.explain(row)
            explanations.append({**asdict(found), **({} if label is None else {"class": label})})
            await asyncio.sleep(0)  # whoever waits for a prediction goes first
        return reply({"explanations": explanations}, headers=headers)

    async def status(request: Request) -> Response:
        check_name(request)
        state = {"version": bundle.version, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        return reply({"model_version_status": [state]}, headers=headers)

    async def health(request: Request) -> Response:
        return reply({"status": "ok", "model": bundle.name, "version": bundle.version})

    def check_name(request: Request) -> None:
        name = request.path_params["name"]
        if name.endswith((":predict", ":explain")):  # the path of a verb, asked by another method than its own
            raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, headers={"allow": "POST"})
        if name != bundle.name:
            raise RequestError(404, f"no model {name!r} here; this service has {bundle.name!r}")

    return Starlette(
        routes=[
            Route("/", lambda request: HTMLResponse(page)),
            Route("/healthz", health),
            Route("/openapi.json", lambda request: Response(document, media_type="application/json")),
            Route("/docs", lambda request: HTMLResponse(docs)),
            Mount("/docs/static", StaticFiles(directory=swagger_ui_path)),
            Route("/v1/models/{name}:predict", predict, methods=["POST"]),
            Route("/v1/models/{name}:explain", explain, methods=["POST"]),
            Route("/v1/models/{name}", status),
        ],
        exception_handlers={RequestError: refuse, HTTPException: refuse_http},  # type: ignore[dict-item]
    )


async def read_body(request: Request, most: int) -> bytes:
    """The whole body; RequestError 413 when it is larger than `most`.

    Of what is too large no more than `most` is kept, and 20 times that is read: a client that is still sending when the
    connection closes would find it broken, and not the answer.
    """
    body, length = bytearray(), 0
    try:
        async for chunk in request.stream():
            length += len(chunk)
            if length <= most:
                body += chunk
            elif length > 20 * most:
                break
    except ClientDisconnect as error:
        raise RequestError(400, "the client went away before its body ended") from error
    if length > most:
        raise RequestError(413, f"the body is larger than {most:,} bytes; send fewer rows at a time")
    return bytes(body)


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
    headers = {"connection": "close"} if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE else None
    return reply(problem, error.status, headers, "application/problem+json")


def refuse_http(request: Request, error: HTTPException) -> Response:
    answer = refuse(request, RequestError(error.status_code, f"{request.method} {request.url.path}: {error.detail}"))
    answer.headers.update(error.headers or {})
    return answer


def render_page(bundle: Bundle) -> str:
    """The page at `/`: the model card, and a form with a field for each column, filled with a golden row."""
    card = MarkdownIt("commonmark", {"html": False}).enable("table").render(bundle.card.partition("\n")[2])
    return PAGES.get_template("page.html").render(
        name=bundle.name,
        meaning=bundle.encoder.target.meaning,
        task=bundle.encoder.target.task,
        version=bundle.version,
        encoder=bundle.encoder,
        example=bundle.golden[0],
        card=card,
    )

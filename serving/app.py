"""The prediction service of one bundle: predict, explain, status, health, documents and a page to try it."""

import asyncio
import time
from dataclasses import asdict
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from numpy.typing import NDArray
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from swagger_ui_bundle import swagger_ui_path

from serving import inference, openapi
from serving.bundle import Bundle
from serving.doors import OPEN, Doors
from serving.metrics import Metrics
from serving.request import RequestError, check_rows, parse_rows

MOST_EXPLAINED = 16  # rows of a request
BODY_SECONDS = 30.0
PLAIN = frozenset({"/", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/v2", "/v2/health/live", "/v2/health/ready"})
PAGES = Environment(loader=FileSystemLoader(Path(__file__).parent / "pages"), autoescape=True, undefined=StrictUndefined)


def make_app(bundle: Bundle, doors: Doors, *, max_body: int, max_waiting: int) -> Starlette:
    """An ASGI application; whom `doors` stop, bodies of more than `max_body` bytes and requests beside `max_waiting` others are
    refused."""
    headers = {"x-model-version": bundle.version}
    document = orjson.dumps(openapi.describe(bundle))
    page = render_page(bundle)
    docs = PAGES.get_template("docs.html").render(name=bundle.name)

    metrics = Metrics(bundle)

    def score(rows: list[dict[str, Any]]) -> NDArray[np.float32]:
        encoded = bundle.encode(rows)
        scores = bundle.network(encoded)
        metrics.see(encoded, scores)
        return scores

    async def predict(request: Request) -> Response:
        check_name(request)
        rows = parse_rows(await read_body(request, max_body), bundle.encoder)
        return reply(bundle.respond(score(rows)), headers=headers)

    async def infer(request: Request) -> Response:
        check_name(request)
        check_version(request)
        body = await read_body(request, max_body)
        asked = inference.parse(body, request.headers.get(inference.HEADER), bundle.encoder)
        check_rows(asked.rows, bundle.encoder, "row")
        tensors = inference.answers(bundle.encoder.target, score(asked.rows))
        content, length = inference.render(asked, tensors, bundle.name, bundle.version)
        binary = {} if length is None else {inference.HEADER: str(length)}
        media = "application/json" if length is None else "application/octet-stream"
        return Response(content, headers={**headers, **binary}, media_type=media)

    async def metadata(request: Request) -> Response:
        check_name(request)
        check_version(request)
        return reply(inference.describe(bundle.name, bundle.version, bundle.encoder), headers=headers)

    async def model_ready(request: Request) -> Response:
        check_name(request)
        check_version(request)
        return reply({"name": bundle.name, "ready": True}, headers=headers)

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

    async def server(request: Request) -> Response:
        return reply({"name": "tidemill", "version": version("tidemill"), "extensions": ["binary_tensor_data"]})

    async def live(request: Request) -> Response:
        return reply({"live": True})

    async def ready(request: Request) -> Response:
        return reply({"ready": True, "model": bundle.name, "version": bundle.version})

    def check_version(request: Request) -> None:
        asked = request.path_params.get("version", bundle.version)
        if asked != bundle.version:
            raise RequestError(404, f"no version {asked!r} of {bundle.name!r} here; this service has {bundle.version!r}")

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
            Route("/readyz", ready),
            Route("/metrics", lambda request: Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)),
            Route("/v2", server),
            Route("/v2/health/live", live),
            Route("/v2/health/ready", ready),
            *(
                Route(f"/v2/models/{{name}}{version}{path}", endpoint, methods=methods)
                for version in ("", "/versions/{version}")
                for path, endpoint, methods in (
                    ("", metadata, ["GET"]),
                    ("/ready", model_ready, ["GET"]),
                    ("/infer", infer, ["POST"]),
                )
            ),
        ],
        middleware=[Middleware(Measure, metrics=metrics, most=max_waiting), Middleware(Guard, doors=doors)],
        exception_handlers={RequestError: refuse, HTTPException: refuse_http},  # type: ignore[dict-item]
    )


class Measure:
    """Counts each request and times it, by the route that it took; one that finds `most` others under way is sent away."""

    def __init__(self, app: ASGIApp, metrics: Metrics, most: int) -> None:
        self.app, self.metrics, self.most, self.waiting = app, metrics, most, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, started = "500", time.perf_counter()

        async def listen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
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
            route = route_of(scope["path"])
            self.metrics.requests.labels(route, status).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - started)


class Guard:
    """Lets through whom the doors let through, before anything is read of the body."""

    def __init__(self, app: ASGIApp, doors: Doors) -> None:
        self.app, self.doors = app, doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.doors.locked:
            try:
                asked = (scope["path"], dict(scope["headers"]))
                if self.doors.provider:  # whose keys may have to be fetched
                    await asyncio.to_thread(self.doors.check, *asked)
                else:
                    self.doors.check(*asked)
            except RequestError as error:
                await refuse(Request(scope), error)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def route_of(path: str) -> str:
    """What is asked for, of which there are few, whatever a client writes."""
    for verb in (":predict", ":explain", "/infer"):
        if path.endswith(verb):
            return verb[1:]
    return path if path in PLAIN else "other"


# Errors that are told before the whole body was read.
EARLY = {401, 403, 408, 413, 429, 503}


async def read_body(request: Request, most: int) -> bytes:
    """The whole body; RequestError 413 when it is larger than `most`.

    Of what is too large no more than `most` is kept, and 20 times that is read: a client that is still sending when the
    connection closes would find it broken, and not the answer.
    """
    body, length = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                length += len(chunk)
                if length <= most:
                    body += chunk
                elif length > 20 * most:
                    break
    except ClientDisconnect as error:
        raise RequestError(400, "the client went away before its body ended") from error
    except TimeoutError as error:
        raise RequestError(408, f"the body did not end within {BODY_SECONDS:g} s") from error
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
    headers = {"connection": "close"} if error.status in EARLY else {}
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    if error.retry_after:
        headers["retry-after"] = str(error.retry_after)
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

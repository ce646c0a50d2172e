"""The prediction service: predict, explain, status, health, documents and a page to try it, of one model or several."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope
from swagger_ui_bundle import swagger_ui_path

from serving import inference, openapi, tensorflow_rest
from serving.batch_service import MOST_BODY, BatchService, is_batch
from serving.direct import predict as predict_rows
from serving.doors import Doors
from serving.feedback import parse_truths
from serving.follow import Follower
from serving.history import NO_HISTORY, History
from serving.live import Live
from serving.log import PredictionLog, id_header, score
from serving.metrics import Metrics
from serving.middleware import Guard, Measure
from serving.models import Model, Models, Served
from serving.pages import render_docs, render_home, render_page
from serving.replies import read_body, refuse, refuse_crash, refuse_http, reply
from serving.request import MOST_EXPLAINED, RequestError, check_rows, parse_rows
from serving.traffic import Traffic

FRESH = {"cache-control": "no-store"}


class Assets(StaticFiles):
    """Files that a browser takes for what their names say, and for nothing else."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        answer = await super().get_response(path, scope)
        answer.headers["x-content-type-options"] = "nosniff"
        return answer


def make_app(
    models: Models,
    metrics: Metrics,
    doors: Doors,
    traffic: Traffic,
    *,
    max_body: int,
    followers: Sequence[Follower] = (),
    poll_seconds: float = 0.0,
    max_batch_body: int = MOST_BODY,
    log: PredictionLog | None = None,
) -> Starlette:
    """An ASGI application; whom `doors` stop, bodies of more than `max_body` bytes and requests that `traffic` does not admit are
    refused. `followers` look at their stores every `poll_seconds`; the `log` is written to its end when the application ends."""
    following = {follower.model.name: follower for follower in followers}
    batches = BatchService(max_batch_body)
    histories = {name: History(follower) for name, follower in following.items()}
    lately = Live(metrics)
    heavy = asyncio.Lock()  # of what takes long one piece is done at a time, and whoever asks for a row or two goes between

    async def predict(request: Request) -> Response:
        model, served = choose(request)
        if is_batch(request.scope["headers"]):
            response, count = await batches.answer(request, served.bundle.folder, served.headers)
            served.counts.rows.observe(count)
            return response
        body = await read_body(request.receive, max_body)
        async with heavy:
            rows, in_columns = parse_rows(body, served.bundle.encoder)
            await asyncio.sleep(0)
            served, content, name = predict_rows(model, served, rows, in_columns, request.scope, log)
            await asyncio.sleep(0)
        return Response(content, headers={**served.headers, **id_header(name)}, media_type="application/json")

    async def infer(request: Request) -> Response:
        model, served = choose(request)
        body = await read_body(request.receive, max_body)
        encoder = served.bundle.encoder
        async with heavy:
            asked = inference.parse(body, request.headers.get(inference.HEADER), encoder)
            check_rows(asked.rows, encoder, "row")
            await asyncio.sleep(0)
            served, scores, name = score(model, served, asked.rows, request.scope, log, asked.id)
            await asyncio.sleep(0)
        tensors = inference.answers(served.bundle.encoder.target, scores)
        content, length = inference.render(asked, tensors, model.name, served.version)
        binary = {} if length is None else {inference.HEADER: str(length)}
        media = "application/json" if length is None else "application/octet-stream"
        return Response(content, headers={**served.headers, **id_header(name), **binary}, media_type=media)

    async def feedback(request: Request) -> Response:
        model = named(request)
        if log is None:
            raise RequestError(404, "this service keeps no prediction log, and so no feedback: start it with --log PLACE")
        truths = parse_truths(await read_body(request.receive, max_body), model.current.bundle)
        log.add_truths(truths)
        return reply({"accepted": len(truths)})

    async def explain(request: Request) -> Response:
        _, served = choose(request)
        rows, _ = parse_rows(await read_body(request.receive, max_body), served.bundle.encoder)
        if len(rows) > MOST_EXPLAINED:
            raise RequestError(
                422, f"{len(rows):,} rows to explain; at most {MOST_EXPLAINED} at a time, each costs a thousand answers"
            )
        explanations = []
        for row in rows:
            async with heavy:
                label, found = served.bundle.explain(row)
                await asyncio.sleep(0)
            explanations.append({**asdict(found), **({} if label is None else {"class": label})})
        return reply({"explanations": explanations}, headers=served.headers)

    async def metadata(request: Request) -> Response:
        model, served = choose(request)
        return reply(inference.describe(model.name, served.version, served.bundle.encoder), headers=served.headers)

    async def model_ready(request: Request) -> Response:
        model, served = choose(request)
        return reply({"name": model.name, "ready": True}, headers=served.headers)

    async def status(request: Request) -> Response:
        model = named(request)
        wanted = None
        if "version" in request.path_params or "label" in request.path_params:
            wanted = model.named(request.path_params.get("version"), request.path_params.get("label"))
        return reply(tensorflow_rest.status(model, wanted))

    async def signature(request: Request) -> Response:
        model, served = choose(request)
        return reply(tensorflow_rest.metadata(model.name, served.bundle), headers=served.headers)

    async def refresh(request: Request) -> Response:
        model = named(request)
        if model.name not in following:
            raise RequestError(409, f"{model.name!r} is a bundle that was given by name, and follows no channel")
        try:
            await following[model.name].refresh()
        except TimeoutError as error:
            raise RequestError(503, "the store has not answered yet; it is asked again", retry_after=5) from error
        return reply(tensorflow_rest.status(model, None))

    async def figures(request: Request) -> Response:
        return reply(await lately.tell(named(request)), headers=FRESH)

    async def history(request: Request) -> Response:
        model = named(request)
        trials = await lately.trials(model)
        told = await histories[model.name].tell() if model.name in histories else NO_HISTORY
        return reply({**tensorflow_rest.summary(model), "trials": trials, **told}, headers=FRESH)

    async def every(request: Request) -> Response:
        return reply({"models": [tensorflow_rest.summary(model) for model in models.of.values()]})

    async def health(request: Request) -> Response:
        return reply({"status": "ok", **versions()})

    async def server(request: Request) -> Response:
        return reply({"name": "tidemill", "version": version("tidemill"), "extensions": ["binary_tensor_data"]})

    async def live(request: Request) -> Response:
        return reply({"live": True})

    async def ready(request: Request) -> Response:
        if not models.ready:
            waiting = [model.name for model in models.of.values() if not model.ready]
            raise RequestError(503, f"no release yet of {', '.join(waiting)}", retry_after=5)
        return reply({"ready": True, **versions()})

    async def home(request: Request) -> Response:
        if len(models.of) > 1:
            return render_home(models)
        return render_page(next(iter(models.of.values())).current.bundle, shared=False)

    async def page(request: Request) -> Response:
        return render_page(named(request).current.bundle, shared=len(models.of) > 1)

    async def document(request: Request) -> Response:
        return reply(openapi.describe([model.current.bundle for model in models.of.values()], doors.locked))

    async def docs(request: Request) -> Response:
        return render_docs(", ".join(models.of))

    async def counted(request: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    def versions() -> dict[str, Any]:
        """Of one model its name and version, of several the versions by name."""
        found = {model.name: model.current.version for model in models.of.values() if model.ready}
        if len(models.of) == 1:
            return {key: value for name, one in found.items() for key, value in (("model", name), ("version", one))}
        return {"models": found}

    def named(request: Request) -> Model:
        if any(one.endswith((":predict", ":explain", ":refresh", ":feedback")) for one in request.path_params.values()):
            # The path of a verb, asked by another method than its own.
            raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, headers={"allow": "POST"})
        return models.find(request.path_params["name"])

    def choose(request: Request) -> tuple[Model, Served]:
        """The model of the path, and the release that it or a header names, else that in production."""
        model = named(request)
        wanted, label = request.path_params.get("version"), request.path_params.get("label")
        return model, model.pick(request.headers) if wanted is label is None else model.named(wanted, label)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        lately.start()
        tasks = [asyncio.create_task(lately.follow()), *(asyncio.create_task(one.follow(poll_seconds)) for one in followers)]
        yield
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await batches.stop()
        if log is not None:
            print(await asyncio.to_thread(log.stop), flush=True)

    verbs = [
        (":predict", predict, ["POST"]),
        (":explain", explain, ["POST"]),
        ("/metadata", signature, ["GET"]),
        ("", status, ["GET"]),
    ]
    app = Starlette(
        routes=[
            Route("/v1/models/{name}:refresh", refresh, methods=["POST"]),
            Route("/v1/models/{name}:feedback", feedback, methods=["POST"]),
            *(
                Route(f"/v1/models/{{name}}{which}{verb}", endpoint, methods=methods)
                for verb, endpoint, methods in verbs
                for which in ("", "/versions/{version}", "/labels/{label}")
            ),
            Route("/v1/models/{name}/live", figures),
            Route("/v1/models/{name}/history", history),
            Route("/v1/models", every),
            *(
                Route(f"/v2/models/{{name}}{which}{path}", endpoint, methods=methods)
                for path, endpoint, methods in (
                    ("/infer", infer, ["POST"]),
                    ("", metadata, ["GET"]),
                    ("/ready", model_ready, ["GET"]),
                )
                for which in ("", "/versions/{version}")
            ),
            Route("/v2", server),
            Route("/v2/health/live", live),
            Route("/v2/health/ready", ready),
            Route("/", home),
            Route("/models/{name}", page),
            Route("/healthz", health),
            Route("/readyz", ready),
            Route("/metrics", counted),
            Route("/openapi.json", document),
            Route("/docs", docs),
            Mount("/docs/static", Assets(directory=swagger_ui_path)),
        ],
        middleware=[
            Middleware(Measure, traffic=traffic),
            Middleware(Guard, doors=doors),
        ],
        exception_handlers={RequestError: refuse, HTTPException: refuse_http, Exception: refuse_crash},  # type: ignore[dict-item]
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # to where the Host header says: anywhere
    return app

"""One process of the service: loads what it serves, opens its doors and answers until it is told to end."""

import argparse
import errno
import gc
import resource
import socket
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette

from serving.app import make_app
from serving.bundle import BundleError, load_bundle
from serving.cache import cache_name
from serving.direct import Direct
from serving.doors import DoorError, Doors, KeyRing, Provider
from serving.follow import Follower
from serving.log import PredictionLog
from serving.metrics import Metrics
from serving.models import Model, Models, Served
from serving.protocol import Crowd, PatientProtocol
from serving.traffic import Traffic
from serving.workers import NOT_STARTED
from tasks.cloud.storage import StorageError, open_storage
from tasks.releases import STORE, ReleaseError, Releases, verify_signature

GRACE_SECONDS = 35  # for what is under way when the service is told to end; a body has 30


class StartError(Exception):
    """The service cannot start; the message says why."""


def open_doors(args: argparse.Namespace) -> Doors:
    """The doors that the flags describe; StartError for keys that are none."""
    try:
        return Doors(
            KeyRing(args.keys) if args.keys else None, Provider(args.jwks, args.audience, args.issuer) if args.jwks else None
        )
    except DoorError as error:
        raise StartError(str(error)) from error


def open_log(args: argparse.Namespace, metrics: Metrics) -> PredictionLog | None:
    """The prediction log, if one is to be kept; StartError for a place that cannot be one."""
    if args.log is None:
        return None
    if "://" not in args.log:  # a bucket may be down now and there later
        try:
            Path(args.log).mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=args.log).close()
        except OSError as error:
            if error.errno != errno.ENOSPC:  # which may pass, as it may come at any time
                raise StartError(f"--log {args.log}: {error.strerror}; name a folder that can be written") from error
    try:
        return PredictionLog(
            args.log, registry=metrics.registry, sample=args.log_sample, most_rows=args.log_rows, flush=args.log_flush
        )
    except StorageError as error:
        raise StartError(f"--log: {error}") from error


def load_models(args: argparse.Namespace, metrics: Metrics) -> tuple[Models, list[Follower]]:
    """What the flags name, ready to answer, and what follows the stores among it; StartError when any of it cannot be served."""
    try:
        key = args.verify.read_bytes() if args.verify else None
    except OSError as error:
        raise StartError(f"{args.verify}: {error.strerror}; give the public key of who signs the bundles") from error
    models: list[Model] = []
    followers: list[Follower] = []
    try:
        for folder in args.bundle:
            if key is not None:
                verify_signature(folder, key)
            bundle = load_bundle(folder)
            model = Model(bundle.name, metrics)
            model.production = Served(bundle, metrics)
            metrics.release.labels(bundle.name, bundle.version, bundle.chosen, "production").set(1)
            models.append(model)
        places = [*args.store, *(str(workspace / STORE) for workspace in args.workspace)]
        for place in places or ([] if args.bundle else [STORE]):
            cache = args.cache / cache_name(place)
            follower = Follower(Releases(open_storage(place)), metrics, cache, key, not args.follow_only)
            models.append(follower.start())
            followers.append(follower)
    except (BundleError, StorageError, ReleaseError) as error:
        raise StartError(str(error)) from error
    names = [model.name for model in models]
    if twice := {name for name in names if names.count(name) > 1}:
        raise StartError(f"two of the models are called {sorted(twice)}; a service has one of each name")
    return Models(models), followers


@dataclass(frozen=True)
class Service:
    """What one process serves, the two ways to it, and where it is logged."""

    models: Models
    traffic: Traffic
    app: Starlette
    direct: Direct
    log: PredictionLog | None


def open_service(args: argparse.Namespace, metrics: Metrics) -> Service:
    """The service that the flags describe; StartError when there cannot be one."""
    doors, traffic = open_doors(args), Traffic(metrics, args.max_waiting)
    models, followers = load_models(args, metrics)
    log = open_log(args, metrics)
    app = make_app(
        models,
        metrics,
        doors,
        traffic,
        max_body=args.max_body,
        followers=followers,
        poll_seconds=args.poll,
        max_batch_body=args.max_batch_body,
        log=log,
    )
    return Service(models, traffic, app, Direct(models, traffic, doors, args.max_body, log), log)


def serve(args: argparse.Namespace, listener: socket.socket, quiet: bool) -> None:
    """Answers on the listener until SIGTERM or SIGINT; StartError before it begins."""
    allow_connections()
    try:
        metrics = Metrics()
    except OSError as error:
        raise StartError(f"no room for the counters of a worker: {error}; TMPDIR names another place") from error
    service = open_service(args, metrics)
    tls: dict[str, Any] = {"ssl_certfile": args.tls_cert, "ssl_keyfile": args.tls_key} if args.tls_cert else {}
    config = uvicorn.Config(
        service.app,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE_SECONDS,
        server_header=False,
        proxy_headers=False,  # X-Forwarded-* is what anyone can write
        ws="none",
        http=partial(PatientProtocol, Crowd(service.traffic, service.direct)),  # type: ignore[arg-type]
        **tls,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise StartError(f"{args.tls_cert} and {args.tls_key} are no certificate and key: {error}") from error
    if not quiet:
        served = ", ".join(map(str, service.models.of.values()))
        host, port = listener.getsockname()[:2]
        print(f"{served} at {'https' if args.tls_cert else 'http'}://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    gc.collect()
    gc.freeze()  # what is there now stays: looking through it again and again would only cost time
    with suppress(KeyboardInterrupt):  # raised again once all is answered and closed
        uvicorn.Server(config).run(sockets=[listener])


def allow_connections() -> None:
    """As many open connections as the system lets this process have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def run(args: argparse.Namespace, listener: socket.socket, quiet: bool) -> int:
    """Serve, and the exit code."""
    try:
        serve(args, listener, quiet)
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if args.listener is None else NOT_STARTED
    return 0

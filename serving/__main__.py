"""`python -m serving`: the prediction service of the released model, on loopback unless told otherwise."""

import argparse
import socket
import sys
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import uvicorn

from serving.app import make_app
from serving.bundle import BundleError, load_bundle
from serving.doors import DoorError, Doors, KeyRing, Provider
from serving.protocol import PatientProtocol
from tasks.cloud.storage import StorageError
from tasks.releases import FETCHED, ReleaseError, open_releases


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m serving", description=__doc__)
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder with releases/ (here)")
    parser.add_argument("--bundle", type=Path, help="a bundle's folder, instead of the workspace's production release")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=port, default=8080, help="port to listen on (8080)")
    parser.add_argument("--max-body", type=positive, default=1_000_000, metavar="BYTES", help="largest body taken (1,000,000)")
    parser.add_argument("--max-waiting", type=positive, default=512, metavar="N", help="requests at once, beyond which 503 (512)")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain in PEM: HTTPS instead of HTTP")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key in PEM")
    guard = parser.add_argument_group("who may ask")
    guard.add_argument("--keys", type=Path, help="file of keys, which `python -m serving.keys` writes")
    guard.add_argument("--jwks", help="a provider's public keys, a URL or a file: its tokens are taken too")
    guard.add_argument("--audience", help="whom its tokens must be for; needed with --jwks")
    guard.add_argument("--issuer", help="who must have made them")
    guard.add_argument("--no-auth", action="store_true", help="anyone, even beyond this machine")
    args = parser.parse_args()
    if bool(args.tls_cert) != bool(args.tls_key):
        parser.error("--tls-cert and --tls-key go together")
    if args.jwks and not args.audience:
        parser.error("--jwks needs --audience: a token for another service must not open this one")
    try:
        doors = Doors(
            KeyRing(args.keys) if args.keys else None, Provider(args.jwks, args.audience, args.issuer) if args.jwks else None
        )
    except DoorError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    if not doors.locked and not args.no_auth and not is_loopback(args.host):
        print(
            f"error: {args.host} is reached from other machines, and nobody would be asked for a key: give --keys or --jwks, "
            "listen on 127.0.0.1, or say --no-auth",
            file=sys.stderr,
        )
        sys.exit(2)
    try:
        bundle = load_bundle(args.bundle or find_production(args.workspace))
    except BundleError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    try:
        listener = socket.create_server((args.host, args.port), family=socket.AF_INET6 if ":" in args.host else socket.AF_INET)
    except OSError as error:
        print(f"error: cannot listen on {args.host}, port {args.port}: {error}; choose another by --port", file=sys.stderr)
        sys.exit(1)
    print(
        f"{bundle.name} {bundle.version} ({bundle.chosen}) at {'https' if args.tls_cert else 'http'}://{args.host}:{listener.getsockname()[1]}",
        flush=True,
    )
    app = make_app(bundle, doors, max_body=args.max_body, max_waiting=args.max_waiting)
    tls: dict[str, Any] = {"ssl_certfile": args.tls_cert, "ssl_keyfile": args.tls_key} if args.tls_cert else {}
    config = uvicorn.Config(app, log_level="warning", timeout_keep_alive=30, server_header=False, http=PatientProtocol, **tls)
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        print(f"error: {args.tls_cert} and {args.tls_key} are no certificate and key: {error}", file=sys.stderr)
        sys.exit(1)
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt):  # raised again once all is answered and closed
        server.run(sockets=[listener])


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address; a name counts as what it resolves to."""
    try:
        return all(ip_address(found[4][0]).is_loopback for found in socket.getaddrinfo(host, None))
    except (OSError, ValueError):
        return False


def port(text: str) -> int:
    """A port's number, 0 for any that is free; ValueError for what is none."""
    if not 0 <= int(text) <= 65_535:
        raise ValueError
    return int(text)


def positive(text: str) -> int:
    """A whole number above 0; ValueError for what is none."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def find_production(workspace: Path) -> Path:
    """The folder of the release in production."""
    try:
        releases = open_releases(workspace)
        found = releases.channel("production")
        if found is None:
            raise BundleError(f"{releases.storage.place} has no release in production; `python -m flows.train` makes one")
        return releases.fetch(found[0].version, workspace / FETCHED)
    except (ReleaseError, StorageError) as error:
        raise BundleError(str(error)) from error


if __name__ == "__main__":
    main()

"""`python -m serving`: the prediction service of the released model, on loopback unless told otherwise."""

import argparse
import socket
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from serving.cache import default_cache


def parse(words: Sequence[str]) -> argparse.Namespace:
    """What the flags say; ends the process when they cannot be, or would leave the service open to all unasked."""
    parser = argparse.ArgumentParser(prog="python -m serving", description=__doc__)
    what = parser.add_argument_group("what is served", "each may be given more than once, for several models")
    what.add_argument("--workspace", type=Path, action="append", default=[], help="a workspace, whose releases/ is followed (here)")
    what.add_argument(
        "--store", action="append", default=[], metavar="PLACE", help="a release store: a folder or s3://BUCKET/PREFIX"
    )
    what.add_argument("--bundle", type=Path, action="append", default=[], help="a bundle's folder, which no channel moves")
    what.add_argument("--poll", type=seconds, default=5.0, metavar="SECONDS", help="between two looks at a store's channels (5)")
    what.add_argument("--verify", type=Path, metavar="FILE", help="public key in PEM: only bundles that it signed are served")
    what.add_argument("--follow-only", action="store_true", help="end a canary here by its rule, but move no channel of the store")
    what.add_argument("--cache", type=Path, default=default_cache(), metavar="DIR", help="for bundles of a store that is no folder")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=port, default=8080, help="port to listen on (8080)")
    parser.add_argument("--workers", type=positive, default=1, metavar="N", help="processes that answer (1)")
    parser.add_argument("--max-body", type=positive, default=1_000_000, metavar="BYTES", help="largest body taken (1,000,000)")
    parser.add_argument(
        "--max-batch-body", type=positive, default=100_000_000, metavar="BYTES", help="largest Arrow or Parquet body (100,000,000)"
    )
    parser.add_argument("--max-waiting", type=positive, default=512, metavar="N", help="requests at once, beyond which 503 (512)")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain in PEM: HTTPS instead of HTTP")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key in PEM")
    parser.add_argument("--listener", type=int, help=argparse.SUPPRESS)  # a worker's, from its supervisor
    kept = parser.add_argument_group("prediction log", "what was answered, as Parquet, and what clients say became true")
    kept.add_argument("--log", metavar="PLACE", help="a folder or s3://BUCKET/PREFIX (no log)")
    kept.add_argument("--log-sample", type=share, default=1.0, metavar="SHARE", help="of the requests that are logged (1)")
    kept.add_argument(
        "--log-rows", type=positive, default=100_000, metavar="N", help="rows not yet written, beyond which some are lost (100,000)"
    )
    kept.add_argument("--log-flush", type=seconds, default=60.0, metavar="SECONDS", help="that a row waits at most (60)")
    guard = parser.add_argument_group("who may ask")
    guard.add_argument("--keys", type=Path, help="file of keys, which `python -m serving.keys` writes")
    guard.add_argument("--jwks", help="a provider's public keys, a URL or a file: its tokens are taken too")
    guard.add_argument("--audience", help="whom its tokens must be for; needed with --jwks")
    guard.add_argument("--issuer", help="who must have made them")
    guard.add_argument("--no-auth", action="store_true", help="anyone, even beyond this machine")
    args = parser.parse_args(words)
    if bool(args.tls_cert) != bool(args.tls_key):
        parser.error("--tls-cert and --tls-key go together")
    if args.jwks and not args.audience:
        parser.error("--jwks needs --audience: a token for another service must not open this one")
    if not (args.keys or args.jwks or args.no_auth or is_loopback(args.host)):
        print(
            f"error: {args.host} is reached from other machines, and nobody would be asked for a key: give --keys or --jwks, "
            "listen on 127.0.0.1, or say --no-auth",
            file=sys.stderr,
        )
        sys.exit(2)
    return args


def main() -> None:
    args = parse(sys.argv[1:])
    if args.listener is not None:
        listener = socket.socket(fileno=args.listener)
    else:
        try:
            listener = socket.create_server(
                (args.host, args.port), family=socket.AF_INET6 if ":" in args.host else socket.AF_INET, backlog=2048
            )
        except OSError as error:
            print(f"error: cannot listen on {args.host}, port {args.port}: {error}; choose another by --port", file=sys.stderr)
            sys.exit(1)
    if args.workers > 1 and args.listener is None:
        from serving.workers import supervise  # which stays small: it loads no model

        sys.exit(supervise(args.workers, listener, sys.argv[1:]))
    from serving.server import run

    sys.exit(run(args, listener, quiet=False))


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


def share(text: str) -> float:
    """A share from 0 to 1; ValueError for what is none."""
    if not 0 <= float(text) <= 1:
        raise ValueError
    return float(text)


def seconds(text: str) -> float:
    """A span of time above 0; ValueError for what is none."""
    if not 0 < float(text) < float("inf"):
        raise ValueError
    return float(text)


if __name__ == "__main__":
    main()

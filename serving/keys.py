"""`python -m serving.keys {add,list,remove}`: the keys of a service, in a file that holds their hashes alone."""

import argparse
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from serving.doors import SCOPES, DoorError, load_keys, make_key, save_keys

MOST_DAYS = 36_500.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m serving.keys", description=__doc__)
    parser.add_argument(
        "--keys", type=Path, default=Path("keys.json"), help="the file (keys.json); give it to python -m serving too"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="make a key and show it, this once")
    add.add_argument("name", type=word)
    add.add_argument("--scope", action="append", choices=SCOPES, help="what it is for; more than once for more (predict)")
    add.add_argument("--days", type=days, help="until it expires (never)")
    add.add_argument("--per-second", type=limit, default=0.0, help="requests that it is good for (0: no limit)")
    commands.add_parser("list", help="names, scopes and ends")
    remove = commands.add_parser("remove", help="a running service refuses it within a second or two")
    remove.add_argument("name")
    args = parser.parse_args()
    try:
        keys = load_keys(args.keys) if args.keys.exists() else []
        match args.command:
            case "add":
                if any(key.name == args.name for key in keys):
                    raise DoorError(f"{args.keys} has a key {args.name!r}; remove it first, or take another name")
                ends = (datetime.now(UTC) + timedelta(days=args.days)).isoformat(timespec="seconds") if args.days else None
                secret, key = make_key(args.name, tuple(dict.fromkeys(args.scope or ["predict"])), ends, args.per_second)
                save_keys(args.keys, [*keys, key])
                print(secret)
                print(f"kept in {args.keys} by its hash alone: this is the only time that it is shown", file=sys.stderr)
            case "list":
                for key in keys:
                    end = "has ended" if key.ended else f"until {key.expires}" if key.expires else "no end"
                    rate = f", {key.per_second:g} a second" if key.per_second else ""
                    print(f"{key.name}: {', '.join(key.scopes)}; {end}{rate}")
            case "remove":
                if args.name not in {key.name for key in keys}:
                    raise DoorError(f"{args.keys} has no key {args.name!r}; it has {[key.name for key in keys]}")
                save_keys(args.keys, [key for key in keys if key.name != args.name])
    except DoorError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def word(text: str) -> str:
    """A name that can be read; ValueError for what is none."""
    if not text.strip() or not text.isprintable():
        raise ValueError
    return text


def days(text: str) -> float:
    """Days above 0 that a calendar holds; ValueError for what is none."""
    if not 0 < float(text) <= MOST_DAYS:
        raise ValueError
    return float(text)


def limit(text: str) -> float:
    """A rate of 0 or more; ValueError for what is none."""
    if not 0 <= float(text) < float("inf"):
        raise ValueError
    return float(text)


if __name__ == "__main__":
    main()

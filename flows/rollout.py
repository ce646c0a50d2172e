"""Which release is served: `python -m flows.rollout`; needs the store alone and no server, as it is for the worst of nights."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.exits import EXITS
from tasks import params, rollout
from tasks.core.errors import TidemillError
from tasks.releases import CHANNELS, Channel, Releases, open_releases, telling


def main(words: Sequence[str] | None = None) -> int:
    """Parse the command line, or these words of one, and do it; returns the exit code."""
    args = _parser().parse_args(words)
    try:
        workspace = args.workspace.resolve()
        values = params.Params.load(workspace / "params.yaml").release
        with telling():
            args.act(args, open_releases(workspace, values.store, values.kms_key), workspace, values)
    except TidemillError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {error.strerror or error}: {error.filename or args.workspace}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def show_list(args: argparse.Namespace, releases: Releases, workspace: Path, values: params.Release) -> None:
    """Every version is on the screen."""
    listed = rollout.list_versions(releases)
    if args.json:
        print_json([asdict(one) for one in listed])
        return
    names = list(dict.fromkeys(name for one in listed for name in one.metrics))
    figures = [*names, "network", "bundle", "age"]
    table = _table(["version", "chosen", *figures, "signed", "channels"], right=figures)
    for one in listed:
        measured = [f"{one.metrics[name]:,.4f}" if name in one.metrics else "" for name in names]
        sizes = [f"{one.network_bytes:,} B", f"{one.bytes:,} B", rollout.age(one.published)]
        rest = ["yes" if one.signed else "no", ", ".join(one.channels)]
        table.add_row(one.version, escape(one.chosen), *measured, *sizes, *rest, style="bold" if one.channels else "")
    show(table)
    print(f"{len(listed)} version{'s' * (len(listed) != 1)} in {releases.storage.place}")


def promote(args: argparse.Namespace, releases: Releases, workspace: Path, values: params.Release) -> None:
    """Production serves the version."""
    version = rollout.resolve(releases, args.version)
    _tell(args, "production", rollout.promote(releases, workspace, values, version, args.why or "promoted by hand"))


def try_out(args: argparse.Namespace, releases: Releases, workspace: Path, values: params.Release) -> None:
    """The canary or shadow is of the version."""
    version, name = rollout.resolve(releases, args.version), args.command
    share = args.share or (values.canary.share if name == "canary" else 1.0)
    _tell(
        args, name, rollout.try_out(releases, workspace, values, name, version, share, args.header, args.why or "started by hand")
    )


def close(args: argparse.Namespace, releases: Releases, workspace: Path, values: params.Release) -> None:
    """The canary or shadow is over."""
    rollout.end(releases, args.channel, args.why or "closed by hand")
    if args.json:
        print_json({"channel": args.channel, "version": None})
    else:
        print(f"{args.channel} is closed")


def roll_back(args: argparse.Namespace, releases: Releases, workspace: Path, values: params.Release) -> None:
    """Production serves what it served before."""
    _tell(args, "production", rollout.roll_back(releases, workspace, values, args.why or "rolled back by hand"))


def _tell(args: argparse.Namespace, name: str, channel: Channel) -> None:
    if args.json:
        print_json({"channel": name, **asdict(channel)})
        return
    more = f"; before it, {channel.previous}" if channel.previous else ""
    more += f"; {channel.share:.4g} of the requests" if name != "production" else ""
    more += f", and those with {channel.header!r}" if channel.header else ""
    print(f"{name} serves {channel.name} {channel.version} ({channel.chosen}){more}")


def show_diff(args: argparse.Namespace, releases: Releases, workspace: Path, values: params.Release) -> None:
    """What differs between two versions is on the screen."""
    before, after = (rollout.resolve(releases, version) for version in (args.before, args.after))
    found = rollout.diff(releases, before, after)
    if args.json:
        print_json({"before": before, "after": after, "differences": [asdict(one) for one in found]})
        return
    table, last = _table(["of", "what", before, after]), ""
    for one in found:
        table.add_row("" if one.of == last else one.of, escape(one.what), _short(one.before), _short(one.after))
        last = one.of
    show(table)


def show_history(args: argparse.Namespace, releases: Releases, workspace: Path, values: params.Release) -> None:
    """Every move that took effect is on the screen."""
    moves = releases.history(args.most)
    if args.json:
        print_json([asdict(move) for move in moves])
        return
    table = _table(["when (UTC)", "channel", "version", "by", "why"])
    for move in moves:
        table.add_row(move.since[:19].replace("T", " "), move.channel, move.version or "closed", escape(move.by), escape(move.why))
    show(table)


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=1, ensure_ascii=False))


def show(table: Table) -> None:
    """The table, on a terminal as wide as that, elsewhere as wide as it needs."""
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(table)


def _table(columns: Sequence[str], right: Sequence[str] = ()) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in right else "left")
    return table


def _short(value: Any) -> str:
    plain = "" if value is None else " ".join(str(value).split())
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else plain
    return escape(text if len(text) <= 60 else f"{text[:57]}...")


def share(text: str) -> float:
    """A share above 0, up to 1; ValueError for what is none."""
    if not 0 < float(text) <= 1:
        raise ValueError
    return float(text)


def header(text: str) -> str:
    """A header and its value, `x-canary: yes`; ValueError for what is none."""
    name, _, value = text.partition(":")
    if not value.strip() or not value.isprintable() or not name.isascii() or not name.replace("-", "").isalnum():
        raise ValueError
    return f"{name.lower()}: {value.strip()}"


def count(text: str) -> int:
    """A whole number above 0; ValueError for what is none."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flows.rollout", description="Which release is served.", epilog=EXITS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, act: Callable[..., None], what: str, *versions: str, moves: bool = False) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=EXITS)
        for word in versions:
            command.add_argument(word, help="its first characters, or a channel's name")
        command.add_argument("--workspace", type=Path, default=Path(), help="folder with params.yaml (here)")
        command.add_argument("--json", action="store_true", help="for programs")
        if moves:
            command.add_argument("--why", metavar="TEXT", help="for the history")
        command.set_defaults(act=act)
        return command

    add("list", show_list, "every version: what was chosen, how good and large it is, how old, where it is served")
    add("promote", promote, "production serves the version from now on", "version", moves=True)
    for name, what in (
        ("canary", "a share of the requests is answered by the version, until the rule in params.yaml decides on it"),
        ("shadow", "the version sees a share of the requests too, and nobody its answers"),
    ):
        command = add(name, try_out, what, "version", moves=True)
        command.add_argument("--share", type=share, help="of the requests, above 0 and up to 1")
        command.add_argument("--header", type=header, metavar="'NAME: VALUE'", help="requests with it go there, whatever the share")
    command = add("close", close, "end the canary or shadow", moves=True)
    command.add_argument("channel", choices=CHANNELS[1:])
    add("rollback", roll_back, "production serves again what it served before", moves=True)
    add("diff", show_diff, "two versions side by side: code, data, params, metrics, size", "before", "after")
    command = add("history", show_history, "every move of a channel, the last one first")
    command.add_argument("--most", type=count, default=20, metavar="N", help="moves of each channel (20)")
    return parser


if __name__ == "__main__":
    sys.exit(main())

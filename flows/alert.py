"""Whom alerts reach and which troubles are open: `python -m flows.alert`; needs no server."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tasks import alert
from tasks.core.errors import TidemillError
from tasks.deliver import place
from tasks.params import Params
from tasks.releases import telling

EXITS = "exit codes: 0 done, 1 a channel or the store failed, 2 params.yaml or a flag"


def main(words: Sequence[str] | None = None) -> int:
    """Parse the command line, or these words of one, and do it; returns the exit code."""
    args = _parser().parse_args(words)
    try:
        with telling():
            done: int = args.act(args, args.workspace.resolve())
        return done
    except TidemillError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def test(args: argparse.Namespace, workspace: Path) -> int:
    """Every channel was sent a message, and what became of each is on the screen."""
    told, channels = alert.try_channels(workspace), Params.load(workspace / "params.yaml").alert.channels
    return _show(args, told, {name: place(channel) for name, channel in channels.items()})


def show_list(args: argparse.Namespace, workspace: Path) -> int:
    """Every trouble that is not over is on the screen."""
    troubles = alert.open_alerts(workspace)
    if args.json:
        print(json.dumps([one.to_json() for one in troubles], indent=1, ensure_ascii=False))
        return 0
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("since (UTC)", "severity", "key", "what", "raised", "told"):
        table.add_column(column, overflow="fold")
    for one in troubles:
        since = one.since[:19].replace("T", " ")
        table.add_row(since, one.severity, escape(one.key), escape(one.title), f"{one.times}x", escape(", ".join(one.told)))
    console = Console() if sys.stdout.isatty() else Console(width=200)
    if troubles:
        console.print(table)
    print(f"{len(troubles)} open")
    return 0


def resolve(args: argparse.Namespace, workspace: Path) -> int:
    """The trouble of that key is over, and who was told of it knows."""
    told = alert.resolve_alert(workspace, args.key, args.why or "Somebody says that it is over.")
    if told.silent and not args.json:
        print(f"{args.key}: nobody was told: {told.silent}")
        return 0
    return _show(args, told, {})


def _show(args: argparse.Namespace, told: alert.Told, places: dict[str, str]) -> int:
    """A line for each channel; 1 when one failed, 2 when there is none."""
    if args.json:
        print(json.dumps(asdict(told), indent=1, ensure_ascii=False))
    else:
        for name in told.sent:
            print(f"{name}: sent" + (f" to {places[name]}" if name in places else ""))
        for name, why in told.failed.items():
            print(f"{name}: failed: {why}", file=sys.stderr)
        if not told.sent and not told.failed:
            print("alert.channels in params.yaml names none: add one, its comment shows how", file=sys.stderr)
            return 2
    return 1 if told.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flows.alert", description="Whom alerts reach, and what is open.", epilog=EXITS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, act, what in (
        ("test", test, "send a message over every channel, to see that it arrives"),
        ("list", show_list, "every trouble that is not over"),
        ("resolve", resolve, "a trouble is over: it is told, and told again only when it comes back"),
    ):
        command = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=EXITS)
        command.add_argument("--workspace", type=Path, default=Path(), help="folder with params.yaml (here)")
        command.add_argument("--json", action="store_true", help="for programs")
        if name == "resolve":
            command.add_argument("key", help="of `list`")
            command.add_argument("--why", metavar="TEXT", help="for those who were told of it")
        command.set_defaults(act=act)
    return parser


if __name__ == "__main__":
    sys.exit(main())

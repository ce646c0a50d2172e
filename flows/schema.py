"""Shows where the table and its schema differ, and accepts differences: `python -m flows.schema [--accept COLUMN ...]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.exits import EXITS
from tasks import claim
from tasks.core.change import Change
from tasks.core.errors import TidemillError
from tasks.evolve import SCHEMA, accept_changes, find_changes

COLOURS = {"stops the run": "red", "warns": "yellow", "passes": "green"}


def main() -> int:
    """Show, or accept and say what is left."""
    parser = argparse.ArgumentParser(prog="python -m flows.schema", description=__doc__, epilog=EXITS)
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder with params.yaml and data/schema.pbtxt (here)")
    parser.add_argument(
        "--accept", nargs="+", default=[], metavar="COLUMN", help="make these columns' differences allowed, or: all"
    )
    args = parser.parse_args()
    workspace = args.workspace.resolve()
    try:
        (workspace / claim.LOCK).parent.mkdir(parents=True, exist_ok=True)
        with claim.claim_lock(workspace):
            found = find_changes(workspace)
            if args.accept:
                left = accept_changes(workspace, found, args.accept)
                print(f"accepted {len(found) - len(left)} of {len(found)} columns; look at {SCHEMA} and commit it")
                found = left
        if found or not args.accept:
            show(found)
    except TidemillError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def show(found: Sequence[Change]) -> None:
    """A table on a terminal, a line for each column elsewhere."""
    console = Console()
    if not found:
        print(f"the table is as {SCHEMA} says; nothing to do")
    elif console.is_terminal:
        table = Table("column", "role", "difference", "a run", box=None, header_style="dim", padding=(0, 2, 0, 0))
        for one in found:
            verdict = f"[{COLOURS[one.verdict]}]{one.verdict}[/]"
            table.add_row(escape(one.column), one.role or "-", escape("\n".join(one.said)), verdict)
        console.print(table)
    else:
        for one in found:
            print(f"{one.column} ({one.role or 'no role'}): {'; '.join(one.said)} [{one.verdict}]")
    if found:
        print(f"accept with: python -m flows.schema --accept {' '.join(map(repr, [one.column for one in found][:2]))}, or: all")


if __name__ == "__main__":
    sys.exit(main())

"""Looks a machine and a workspace over: `python -m flows.doctor`; a line for each check, and what to do where one is not well."""

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tasks.health import Check, machine_checks
from tasks.health_workspace import workspace_checks

COLOURS = {"ok": "green", "warning": "yellow", "fault": "bold red"}


def main(words: Sequence[str] | None = None) -> int:
    """Run every check and show what it found; returns 1 when one found a fault, else 0."""
    parser = argparse.ArgumentParser(prog="python -m flows.doctor", description="Check a machine and a workspace; changes nothing.")
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder with params.yaml and dvc.yaml (here)")
    workspace = parser.parse_args(words).workspace.resolve()
    looks = [*machine_checks(workspace), *workspace_checks(workspace)]
    with ThreadPoolExecutor(len(looks)) as pool:  # most of them wait for an answer
        found = [check for checks in pool.map(_look, looks) for check in checks]
    show(found)
    return 1 if any(check.state == "fault" for check in found) else 0


def _look(look: Callable[[], list[Check]]) -> list[Check]:
    return look()


def show(checks: Sequence[Check]) -> None:
    """A table on a terminal, plain lines elsewhere; the last line counts."""
    counted = {state: sum(check.state == state for check in checks) for state in COLOURS}
    last = f"{counted['ok']} ok, " + ", ".join(f"{counted[of]} {of}{'s' * (counted[of] != 1)}" for of in ("warning", "fault"))
    if not sys.stdout.isatty():
        for check in checks:
            print(f"{check.state}: {check.what}: {check.found}" + (f"; {check.remedy}" if check.remedy else ""))
        print(last)
        return
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("", "check", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for check in checks:
        state = f"[{COLOURS[check.state]}]{check.state}[/]"
        table.add_row(state, *map(escape, (check.what, check.found, check.remedy)))
    console = Console()
    console.print(table)
    console.print(last, highlight=False)


if __name__ == "__main__":
    sys.exit(main())

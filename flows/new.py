"""Makes a workspace for any table: `python -m flows.new DIR --data SOURCE --target COLUMN`; no server is needed for that."""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tasks.core.errors import ParamsError, TidemillError
from tasks.draft import draft
from tasks.params import Params, Source
from tasks.plan import Plan, Request, make_plan
from tasks.workspace import building, fill, refuse_workspace

DATABASES = re.compile(r"(sqlite|postgres|postgresql|mysql|mariadb|mssql|oracle|duckdb)(\+\w+)?://")
COLOURS = {"target": "bold", "outcome": "yellow", "left out": "dim", "dropped": "yellow"}


def main(words: Sequence[str] | None = None) -> int:
    """Parse the command line, or these words of one, and make the workspace; returns the exit code."""
    args = _parser().parse_args(words)
    try:
        new(args)
    except TidemillError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {error.strerror or error}: {error.filename or args.folder}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; nothing was made", file=sys.stderr)
        return 130
    return 0


def new(args: argparse.Namespace) -> None:
    """The folder is a workspace for the source, and what was decided of each column stands on the screen."""
    folder = args.folder.absolute()
    refuse_workspace(folder)
    request = Request(
        name=_name(args.name, folder),
        source=read_source(args),
        target=args.target,
        time=args.time,
        task=args.task,
        outcomes=tuple(args.outcome),
        features=tuple(args.feature),
    )
    with building(folder) as aside:
        with chdir(aside):  # where the source lands, as in every stage
            plan = make_plan(request, say=lambda text: print(f"{text} ...", flush=True))
        text = draft(plan)
        Params.parse(text, "params.yaml")
        fill(aside, folder, text)
    show(plan, args.folder)


def read_source(args: argparse.Namespace) -> Source:
    """The source that the flags name; ParamsError when they name none."""
    known = {key: value for key, value in (("table", args.table), ("query", args.query), ("password", args.password)) if value}
    if DATABASES.match(args.data):
        document = {"kind": "sql", "url": _absolute_database(args.data), **known}
    elif "table" in known or "query" in known:
        raise ParamsError("--table and --query belong to a database; --data should be a URL such as sqlite:///shop.db")
    elif args.rows is not None:
        document = {"kind": "api", "url": args.data, "rows": args.rows, "missing": args.missing}
    else:
        place = args.data if "://" in args.data else str(Path(args.data).expanduser().absolute())
        document = {"kind": "file", "file": place, "missing": args.missing, **known}
    adapter: TypeAdapter[Source] = TypeAdapter(Source)
    try:
        return adapter.validate_python(document, strict=False)
    except ValidationError as error:
        said = error.errors(include_url=False, include_input=False)[0]["msg"].removeprefix("Value error, ")
        raise ParamsError(f"--data: {said}") from None  # whose cause would quote the URL, and a password in it


def _absolute_database(url: str) -> str:
    """SQLite's file by its whole path, since stages run in another folder."""
    scheme, slashes, path = url.partition(":///")
    if scheme.startswith(("sqlite", "duckdb")) and slashes and path and path != ":memory:":
        return f"{scheme}:///{Path(path).absolute()}"
    return url


def _name(asked: str | None, folder: Path) -> str:
    name = asked or re.sub(r"[^A-Za-z0-9_-]+", "-", folder.name).strip("-_")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise ParamsError(f"{name or folder.name!r} cannot name a model; give --name of letters, digits, - and _")
    return name


def show(plan: Plan, folder: Path) -> None:
    """What was decided, a line for each column, and the next command."""
    console = Console() if sys.stdout.isatty() else Console(width=200)
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("column", "becomes", "because"):
        table.add_column(column, overflow="fold")
    rows = [(one.name, one.role, one.why) for one in plan.decided]
    for name, role, why in [*rows, *((name, "dropped", f"personal? {why}") for name, why in plan.dropped.items())]:
        table.add_row(*map(_plain, (name, role, why)), style=COLOURS.get(role, ""))
    console.print(table)
    for doubt in plan.doubts:
        console.print(f"note: {_plain(doubt)}", style="yellow", highlight=False, soft_wrap=True)
    split = f"by {plan.time}, test from {plan.cut.test_from}" if plan.cut else "by chance"
    for line in (
        f"{plan.facts.rows:,} rows, {plan.target.task} target {plan.target.name!r}, split {split}",
        f"wrote {folder / 'params.yaml'}: look through it, then train with",
        f"  python -m flows.train --workspace {shlex.quote(str(folder))}",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _plain(text: str) -> str:
    """The text without what Rich would take for markup, on one line."""
    return escape(" ".join(text.split()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flows.new", description="Make a workspace for a table, every value guessed.")
    flag = parser.add_argument
    flag("folder", type=Path, help="the workspace to make; it may exist, without a workspace in it")
    flag("--data", required=True, metavar="SOURCE", help="path, glob or URL of files; or of a database, or an API")
    flag("--target", required=True, metavar="COLUMN", help="what to predict")
    flag("--name", help="of the model (that of the folder)")
    flag("--time", metavar="COLUMN", help="when a row became predictable (guessed)")
    flag("--task", choices=["binary", "multiclass", "regression"], help="(guessed)")
    flag("--missing", action="append", default=[], metavar="WORD", help="that means no value; may be repeated")
    flag("--outcome", action="append", default=[], metavar="COLUMN", help="known too late to predict with; may be repeated")
    flag("--feature", action="append", default=[], metavar="COLUMN", help="to keep, whatever it looks like; may be repeated")
    flag("--table", help="of the database")
    flag("--query", help="of the database, instead of a table")
    flag("--password", metavar="env:NAME", help="the secret of the database, or of {password} in a URL")
    flag("--rows", metavar="PATH", help="where an API's answer holds its rows: data.items; '' for the answer itself")
    return parser


if __name__ == "__main__":
    sys.exit(main())

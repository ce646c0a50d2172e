"""Live rows beside those a release was tested on: `python -m flows.monitor`; each window is judged once, and once by truths."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from prefect import flow, get_run_logger
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows import command
from tasks import claim
from tasks.core.errors import ParamsError
from tasks.core.verdict import DriftReport
from tasks.exported import note_end
from tasks.params import Params
from tasks.run import begin, name_run
from tasks.times import parse_time
from tasks.told import Told
from tasks.trouble import tell_failure, tell_recovery
from tasks.unlock import unlock

EXITS = (
    "exit codes: 0 done, 1 failed, 2 params.yaml or a flag, 3 data, 130 and 143 stopped; with --exit-code 6 where a look raised "
    "drift, 7 where one could not say and none raised drift"
)
DRIFT, UNKNOWN = 6, 7


@flow(
    name="monitor",
    flow_run_name=name_run,
    on_completion=[note_end, tell_recovery],
    on_failure=[note_end, tell_failure],
    on_crashed=[note_end],
)
def monitor(
    workspace: Path,
    start: str = "",
    end: str = "",
    table: str = "",
    now: str = "",
    evidently: bool = False,
) -> list[DriftReport]:
    """Judge the prediction log's windows that are due, each once: by its rows, and later by what came.

    Args:
        workspace: The folder with params.yaml; `.` is the one that was deployed.
        start: Of one window alone (ISO 8601, UTC); empty: every window that is due.
        end: Of that window, exclusive.
        table: A file in place of the log, with nothing recorded; empty: the log.
        now: The time to take for the present, for logs of the past; empty: the present.
        evidently: Its report too, of the last look, from samples.
    """
    from tasks import monitor as effect  # NumPy and Arrow, which a refusal need not wait for

    workspace = begin(workspace)
    check(start, end, table, now)
    unlock(workspace)
    if table:
        found = [effect.look_at_table(workspace, table, now)]
    else:
        found = [effect.judge_window(workspace, span, look, now) for span, look in effect.find_due(workspace, start, end, now)]
        effect.write_metrics(workspace, now)
        if not found and (blind := effect.is_blind(workspace, now)):
            get_run_logger().warning("nothing can be said: %s", blind)
    if evidently and found:
        effect.write_evidently(workspace, found[-1], table, now)
    return [judged.report for judged in found]


def check(start: str, end: str, table: str, now: str) -> None:
    """ParamsError for what cannot go together, and for times that are none."""
    if table and (start or end):
        raise ParamsError("a table is looked at whole; leave out --start and --end, or --table")
    for text, flag in ((now, "--now"), (start, "--start"), (end, "--end")):
        if text:
            parse_time(text, flag)


def main(words: Sequence[str] | None = None) -> int:
    """Parse the command line, or these words of one, and run the flow; returns the exit code."""
    args = _parser().parse_args(words)
    workspace = args.workspace.resolve()
    told = Told.of("monitor", workspace, args.json)

    def work() -> int:
        Params.load(workspace / "params.yaml")
        table = str(args.table.resolve()) if args.table else ""
        check(args.start, args.end, table, args.now)  # before anything is started
        command.connect(told)
        with claim.terminable():
            reports = monitor(workspace, args.start, args.end, table, args.now, args.evidently)
        from tasks.monitor import is_blind  # which the flow has imported by now

        blind = "" if reports else is_blind(workspace, args.now)
        verdicts = {report.verdict for report in reports}
        code = 0 if not args.exit_code else DRIFT if "drift" in verdicts else UNKNOWN if blind or "unknown" in verdicts else 0
        if args.json:
            unknown = {"unknown": blind} if blind else {}
            told.outcome("Completed", code, reports=[report.to_json() for report in reports], **unknown)
        else:
            show(reports, told.to, blind)
        return code

    return command.guard(told, work, "what was judged is on record")


def show(reports: Sequence[DriftReport], to: TextIO, blind: str) -> None:
    """A line for each look, and where the last one's page is; without one, whether there is nothing to look at."""
    console = Console(file=to) if to.isatty() else Console(file=to, width=200)
    if not reports:
        nothing = f"nothing can be said: {blind}" if blind else "nothing is due: every window that is over was judged"
        console.print(nothing, markup=False, soft_wrap=True)
        return
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("window", "rows", "with truth", "verdict", "why"):
        table.add_column(column, overflow="fold", justify="right" if column in ("rows", "with truth") else "left")
    colours = {"none": "green", "drift": "bold red", "unknown": "yellow"}
    for report in reports:
        window = f"{_short(report.start)} to {_short(report.end)}" if report.start else "table"
        labelled = f"{report.labelled:,}" if report.labelled else ""
        verdict = f"[{colours[report.verdict]}]{report.verdict}[/]"
        table.add_row(window, f"{report.rows:,}", labelled, verdict, escape(report.why))
    console.print(table)
    console.print(f"report: {reports[-1].report}", highlight=False, soft_wrap=True)


def _short(time: str) -> str:
    return time.removesuffix("Z").removesuffix(":00").replace("T", " ").removesuffix(" 00:00")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.monitor", description="Live rows beside the rows that the release was tested on.", epilog=EXITS
    )
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder with params.yaml (here)")
    parser.add_argument("--start", default="", metavar="TIME", help="of one window, ISO 8601, UTC (every window that is due)")
    parser.add_argument("--end", default="", metavar="TIME", help="of it, exclusive")
    parser.add_argument("--table", type=Path, metavar="FILE", help="Parquet, Arrow or CSV in place of the log; nothing is recorded")
    parser.add_argument("--now", default="", metavar="TIME", help="the time to take for the present, for logs of the past")
    parser.add_argument("--evidently", action="store_true", help="reports/evidently.html too, of the last look, from samples")
    parser.add_argument("--json", action="store_true", help="the outcome as JSON on stdout, all else on stderr")
    parser.add_argument("--exit-code", action="store_true", help="6 for drift and 7 for unknown in place of 0")
    return parser


if __name__ == "__main__":
    sys.exit(main())

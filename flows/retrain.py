"""Trains the model anew and lets it prove itself: `python -m flows.retrain`; an automation runs it when drift is found."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from flows import command
from flows.train import STAGES, bring_up_to_date
from tasks.claim import BusyError, claim, leave, tell
from tasks.core.errors import GateError, ParamsError
from tasks.cost import write_cost
from tasks.exported import note_end
from tasks.publish import publish
from tasks.retraining import (
    Journal,
    Retraining,
    await_word,
    failing,
    finish,
    hold_against,
    new_journal,
    open_journal,
    publish_outcome,
    roll_out,
    trained,
)
from tasks.run import begin, name_run
from tasks.server import bury
from tasks.times import parse_time
from tasks.told import Told
from tasks.trouble import tell_failure, tell_recovery

EXITS = (
    "exit codes: 0 promoted, tried, held or nothing new, 1 failed, 2 params.yaml or a flag, 3 data, 4 the challenger was dropped, "
    "5 busy, or not yet by the rules of retrain, 130 and 143 stopped"
)
CODES = {"dropped": 4, "skipped": 5}


@flow(
    name="retrain",
    flow_run_name=name_run,
    on_completion=[note_end, tell_recovery],
    on_failure=[note_end, tell_failure],
    on_crashed=[note_end],
)
def retrain(
    workspace: Path,
    why: str = "",
    window_start: str = "",
    window_end: str = "",
    offline: bool = False,
    force: bool = False,
) -> Retraining:
    """Train a challenger on the data as it is now, and put it in the champion's place if it proves to be better.

    Production moves only then.

    Args:
        workspace: The folder with params.yaml and dvc.yaml; `.` is the one that was deployed.
        why: For the report and the history.
        window_start: Of the rows of the prediction log that decide (ISO 8601, UTC); empty: the newest.
        window_end: Of these rows, exclusive; empty: now.
        offline: Take the data that sources.lock names, without a look at the sources.
        force: Whatever the cool-down and the ceiling of params.yaml say.
    """
    workspace = begin(workspace)
    check_window(window_start, window_end)  # not only after hours of training
    with ExitStack() as held:
        try:
            dead = held.enter_context(claim(workspace))
        except BusyError as busy:
            journal = new_journal(workspace, why, str(busy))
        else:
            tell(workspace, flow_run.id)
            bury(dead, workspace)
            journal = open_journal(workspace, why, force)
        if journal.obstacle:
            done = finish(journal, "skipped", journal.obstacle)
        else:
            with failing(journal):
                done = challenge(journal, window_start, window_end, offline)
            leave(workspace)
    if done.outcome == "canary":  # which others may train and publish beside
        with failing(journal):
            done = finish(journal, *await_word(journal))
    publish_outcome(done)
    return done


def check_window(start: str, end: str) -> None:
    """ParamsError for times that are none, or of which the end is not after the start."""
    first = parse_time(start, "window_start") if start else None
    last = parse_time(end, "window_end") if end else None
    if first and last and first >= last:
        raise ParamsError(f"window_start {start} is not before window_end {end}")


def challenge(journal: Journal, start: str, end: str, offline: bool) -> Retraining:
    """A challenger was trained and held against the champion; if it won it is tried, else dropped."""
    try:
        moved = bring_up_to_date(journal.workspace, offline)
    except GateError as error:
        return finish(journal, "dropped", str(error))
    release = publish(journal.workspace, promote=False)
    write_cost(journal.workspace)
    if nothing := trained(journal, moved, release):
        return finish(journal, "unchanged", nothing)
    if not journal.champion:
        return finish(journal, "promoted", "nothing was in production")
    won, said = hold_against(journal, start, end)
    if not won:
        return finish(journal, "dropped", said)
    return finish(journal, *roll_out(journal, said))


def main(words: Sequence[str] | None = None) -> int:
    """Parse the command line, or these words of one, and run the flow; returns the exit code."""
    args = _parser().parse_args(words)
    workspace = args.workspace.resolve()
    told = Told.of("retrain", workspace, args.json)

    def act() -> Retraining:
        return retrain(workspace, args.why, args.start, args.end, args.offline, args.force)

    def show(done: Retraining, seconds: float, url: str) -> int:
        code = CODES.get(done.outcome, 0)
        if args.json:
            told.outcome("Completed", code, retraining=done.to_json())
        else:
            told.say(f"{done.headline}: {done.reason}")
            told.say(f"{seconds:.1f} s in all" + (f"; report {workspace / done.report}" if done.report else ""))
        return code

    return command.conduct(told, ("poll", *STAGES, "publish", "compare", "canary"), [], act, show)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flows.retrain", description=retrain.description, epilog=EXITS)
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder with params.yaml and dvc.yaml (here)")
    parser.add_argument("--why", default="", metavar="TEXT", help="for the report and the history")
    parser.add_argument(
        "--start", default="", metavar="TIME", help="of the rows of the prediction log that decide, ISO 8601 (the newest)"
    )
    parser.add_argument("--end", default="", metavar="TIME", help="of these rows")
    parser.add_argument("--offline", action="store_true", help="take the data of sources.lock, do not look for newer")
    parser.add_argument("--force", action="store_true", help="whatever the cool-down and the ceiling say")
    parser.add_argument("--json", action="store_true", help="the outcome as JSON on stdout, all else on stderr")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""Runs a flow as a command: flags, a server to leave its history on, a view of it, and an exit code that says how it ended."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import httpx
from prefect import Flow
from prefect.logging.configuration import setup_logging
from prefect.states import Cancelled
from rich.console import Console
from rich.table import Table

from flows.exits import EXITS
from tasks import automations, claim, server, view
from tasks.core.errors import TidemillError
from tasks.cost import read_cost
from tasks.params import Params, with_values
from tasks.publish import Release, describe
from tasks.told import Told
from tasks.workspace import link_code

Result = TypeVar("Result")


def main(flow: Flow[..., Release], stages: Sequence[str]) -> None:
    """Parse the command line, run the flow, exit."""
    parser = argparse.ArgumentParser(prog=f"python -m flows.{flow.name}", description=summary(flow), epilog=EXITS)
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder with params.yaml and dvc.yaml (here)")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="change params.yaml first")
    parser.add_argument("--offline", action="store_true", help="take the data of sources.lock, do not look for newer")
    parser.add_argument("--json", action="store_true", help="the outcome as JSON on stdout, all else on stderr")
    args = parser.parse_args()
    sys.exit(run(flow, stages, args.workspace.resolve(), args.settings, args.offline, args.json))


def summary(flow: Flow[..., Release]) -> str:
    """What the flow does, without what stands in its form."""
    return (flow.description or "").partition("\n\n")[0]


def run(flow: Flow[..., Release], stages: Sequence[str], workspace: Path, settings: list[str], offline: bool, json: bool) -> int:
    """Run a flow that releases; returns the exit code."""
    told = Told.of(flow.name, workspace, json)

    def act() -> Release:
        return flow(workspace=workspace, settings=settings, offline=offline)

    def show(release: Release, seconds: float, url: str) -> int:
        if json:
            told.outcome("Completed", 0, release=asdict(release))
        if told.lines:
            told.say(describe(workspace, release))
        elif not json:
            summarise(workspace, stages, release, seconds, url)
        return 0

    return conduct(told, stages, settings, act, show)


def conduct(
    told: Told,
    stages: Sequence[str],
    settings: list[str],
    act: Callable[[], Result],
    show: Callable[[Result, float, str], int],
) -> int:
    """Run what `act` calls against a server that keeps its history, with a view of the stages; returns the exit code.

    `show` is given the result, the seconds and the server's URL, and gives the code of a run that came to its end.
    """
    workspace = told.workspace

    def work() -> int:
        check(workspace, settings)
        url = connect(told)
        automations.declare(automations.zombies())
        try:
            with claim.terminable(), view.showing(list(stages), told.to, told.lines) as told.record:
                result = act()
        except (claim.Terminated, KeyboardInterrupt):
            run = claim.read_holder(workspace).get("run")
            began = [str(run)] if run else []
            server.end_runs([*began, *server.find_pending(workspace)], Cancelled(message="stopped by a signal"))
            raise
        return show(result, time.monotonic() - told.started, url)

    return guard(told, work, "every stage that ended is kept")


def guard(told: Told, work: Callable[[], int], kept: str) -> int:
    """The exit code of the work, or of what ended it, which was told without a traceback; `kept` is what a lost server leaves."""
    try:
        return work()
    except (claim.Terminated, KeyboardInterrupt) as stop:
        return told.stopped("stopped; the next run goes on from here", 143 if isinstance(stop, claim.Terminated) else 130)
    except TidemillError as error:
        return told.failed(error)
    except httpx.HTTPError as error:
        gone = f"the Prefect server at {told.url} went away: {error}; {kept}, run again to go on"
        told.failed(TidemillError(gone), look=False)
        os._exit(TidemillError.exit_code)  # Prefect's threads would try for minutes to bring it their last words
    except OSError as error:
        return told.failed(TidemillError(f"{error.strerror or error}: {error.filename or told.workspace}"))


def connect(told: Told) -> str:
    """A server keeps the history of what is run from now on; returns its URL."""
    told.url, said = server.find_server()
    if said:
        told.say(said)
    configure_prefect(told.url)
    return told.url


def check(workspace: Path, settings: list[str]) -> None:
    """TidemillError unless the workspace is one, is free, and its params with the settings in them are valid."""
    params = workspace / "params.yaml"
    Params.load(params)
    Params.parse(with_values(params.read_text(), settings), "--set" if settings else str(params))
    if not (workspace / "dvc.yaml").exists():
        raise TidemillError(f"{workspace} has no dvc.yaml; a workspace holds params.yaml and dvc.yaml")
    link_code(workspace)
    claim.refuse_if_busy(workspace)


def configure_prefect(url: str) -> None:
    """Prefect talks to the server at the URL, and only there: the view tells people the same, shorter."""
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    server.configure(url)
    setup_logging()


def summarise(workspace: Path, stages: Sequence[str], release: Release, seconds: float, url: str) -> None:
    """The final table: what each stage cost when it last ran, what was released, and how good and small it is."""
    console = Console()
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column, justify in (("stage", "left"), ("last run, s", "right"), ("CPU s", "right"), ("peak MB", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    costs = read_cost(workspace)["stages"]
    for stage in (stage for stage in stages if stage in costs):
        cost = costs[stage]
        table.add_row(stage, f"{cost['wall_s']:.1f}", f"{cost['cpu_s']:.1f}", f"{cost['peak_mb']:,}")
    console.print(table)
    console.print(describe(workspace, release), highlight=False, soft_wrap=True)
    console.print(
        f"{seconds:.1f} s in all; history at {url.removesuffix('/api')}; serve it with: python -m serving",
        highlight=False,
        soft_wrap=True,
    )

"""Runs a flow as a command: flags, a server to leave its history on, a view of it, and an exit code that says how it ended."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
from prefect import Flow
from prefect.context import refresh_global_settings_context
from prefect.logging.configuration import setup_logging
from prefect.states import Cancelled
from rich.console import Console
from rich.table import Table

from tasks import claim, view
from tasks.core.errors import TidemillError
from tasks.cost import read_cost
from tasks.params import Params, with_values
from tasks.publish import Release, describe
from tasks.workspace import link_code

EXITS = "exit codes: 0 done, 1 failed, 2 params.yaml or a flag, 3 data, 4 refused by the gate, 5 busy, 130 and 143 stopped"


def main(flow: Flow[..., Release], stages: Sequence[str]) -> None:
    """Parse the command line, run the flow, exit."""
    parser = argparse.ArgumentParser(prog=f"python -m flows.{flow.name}", description=flow.description, epilog=EXITS)
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder with params.yaml and dvc.yaml (here)")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="change params.yaml first")
    parser.add_argument("--offline", action="store_true", help="take the data of sources.lock, do not look for newer")
    args = parser.parse_args()
    sys.exit(run(flow, stages, args.workspace.resolve(), args.settings, args.offline))


def run(flow: Flow[..., Release], stages: Sequence[str], workspace: Path, settings: list[str], offline: bool) -> int:
    """Run the flow against a server that keeps its history; returns the exit code."""
    try:
        check(workspace, settings)
        from tasks import server  # a second of imports that a refusal does not need

        url, said = server.find_server()
        if said:
            print(said, flush=True)
        started = time.monotonic()
        configure_prefect(url, server.HEARTBEAT_SECONDS)
        server.watch_heartbeats()
        try:
            with claim.terminable(), view.showing(list(stages)):
                release = flow(workspace=workspace, settings=settings, offline=offline)
        except (claim.Terminated, KeyboardInterrupt) as stop:
            run = claim.read_holder(workspace).get("run")
            began = [str(run)] if run else []
            server.end_runs([*began, *server.find_pending(workspace)], Cancelled(message="stopped by a signal"))
            print("stopped; the next run goes on from here", file=sys.stderr)
            return 143 if isinstance(stop, claim.Terminated) else 130
    except KeyboardInterrupt:
        print("stopped before anything was started", file=sys.stderr)
        return 130
    except TidemillError as error:
        return fail(error)
    except httpx.HTTPError as error:
        gone = f"the Prefect server at {url} went away: {error}; every stage that ended is kept, run again to go on"
        fail(TidemillError(gone))
        os._exit(TidemillError.exit_code)  # Prefect's threads would try for minutes to bring it their last words
    except OSError as error:
        return fail(TidemillError(f"{error.strerror or error}: {error.filename or workspace}"))
    summarise(workspace, stages, release, time.monotonic() - started, url)
    return 0


def check(workspace: Path, settings: list[str]) -> None:
    """TidemillError unless the workspace is one, is free, and its params with the settings in them are valid."""
    params = workspace / "params.yaml"
    Params.load(params)
    Params.parse(with_values(params.read_text(), settings), "--set" if settings else str(params))
    if not (workspace / "dvc.yaml").exists():
        raise TidemillError(f"{workspace} has no dvc.yaml; a workspace holds params.yaml and dvc.yaml")
    link_code(workspace)
    claim.refuse_if_busy(workspace)


def fail(error: TidemillError) -> int:
    print(f"error: {error}", file=sys.stderr, flush=True)
    return error.exit_code


def configure_prefect(url: str, heartbeat_seconds: int) -> None:
    """Prefect, in all threads, talks to the server at the URL, and only there: the view tells people the same, shorter."""
    os.environ["PREFECT_API_URL"] = url
    os.environ["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] = str(heartbeat_seconds)
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    refresh_global_settings_context()
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

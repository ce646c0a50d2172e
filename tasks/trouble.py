"""What a failed run tells first: what went wrong, where, since when, and what to do about it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Flow, get_client
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.sorting import FlowRunSort, TaskRunSort
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL

from tasks.alert import resolve_alert

LOOKED_AT = 200  # runs of the flow, the latest first
RAISED = re.compile(r"^(?:Flow|Task) run encountered an exception:? ?(?:(?:\w+\.)*(\w+): )?", re.DOTALL)
REMEDY = {
    "ParamsError": "correct the value that is named, and run it again; nothing was started",
    "DataError": "mend the data, or take the new kind of data by `python -m flows.schema --accept COLUMN`, and run it again",
    "PersonalError": "say under `privacy` in params.yaml what becomes of the columns, and run it again",
    "GateError": "read reports/refused.json; then more data, a longer search, or another line under evaluate.gate",
    "BusyError": "wait for the run that has the workspace, or stop it",
    "ReleaseError": "mend what is named of the release store, and run it again",
    "DivergedError": "lower the learning rates under tune.families, and run it again",
}
CRASHED = "its process or its machine died: look there for want of memory or disk, and run it again; it goes on where it was"
OTHERWISE = "mend what is named, and run it again; it goes on where it was"


@dataclass(frozen=True)
class Trouble:
    """A failed run, in words."""

    run: str  # its id
    title: str  # "train flights, data 3f2a91c0 failed in validate"
    stage: str  # "" when none had begun
    what: str
    where: str
    since: str
    todo: str
    page: str  # URL

    def lines(self) -> list[str]:
        """For a terminal or a mail, below what went wrong."""
        return [f"where: {self.where}", f"since: {self.since}", f"to do: {self.todo}", f"run: {self.page}"]

    def markdown(self) -> str:
        fence = "```" if "```" not in self.what else "~~~~"
        rest = "\n".join(f"- **{name}**: {words}" for name, _, words in (line.partition(": ") for line in self.lines()))
        return f"{fence}text\n{self.what}\n{fence}\n\n{rest}\n"


def tell_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """A state hook: the failed run's first artifact says what, where, since when and what to do."""
    with get_client(sync_client=True) as client:
        trouble = describe(client, client.read_flow_run(flow_run.id))
    create_markdown_artifact(trouble.markdown(), key="failure", description=trouble.title)


def tell_recovery(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """A state hook: who was told that the flow failed in the workspace is told that it no longer does."""
    workspace = Path(flow_run.parameters.get("workspace") or ".").resolve()
    resolve_alert(workspace, alert_key(flow.name), f"{flow_run.name} went well")


def alert_key(flow: str) -> str:
    """Of the alert that the flow fails: one trouble, until it goes well."""
    return f"run.{flow}"


def find_failure(flow: str, workspace: Path) -> Trouble | None:
    """What is wrong with the flow's latest run by hand in the workspace; None when it did not fail."""
    with get_client(sync_client=True) as client:
        runs = _runs(client, flow, None, str(workspace))
        return describe(client, runs[0]) if runs and runs[0].state and runs[0].state.is_failed() else None


def describe(client: SyncPrefectClient, run: FlowRun) -> Trouble:
    """What is wrong with the run, which failed or crashed."""
    workspace = str(run.parameters.get("workspace") or ".")
    flow = client.read_flow(run.flow_id).name
    message = (run.state.message if run.state else None) or "it says nothing"
    kind = found[1] if (found := RAISED.match(message)) else None
    stages = client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])), sort=TaskRunSort.END_TIME_DESC, limit=LOOKED_AT
    )
    stage = next((one.name for one in stages if one.state and not one.state.is_completed()), "")
    crashed = run.state is not None and run.state.is_crashed()
    place = workspace if Path(workspace).is_absolute() else "the deployment's folder"
    server = (PREFECT_UI_URL.value() or (PREFECT_API_URL.value() or "").removesuffix("/api")).rstrip("/")
    return Trouble(
        run=str(run.id),
        title=f"{run.name} {'crashed' if crashed else 'failed'}{f' in {stage}' if stage else ''}",
        stage=stage,
        what=RAISED.sub("", message, count=1),
        where=f"{f'stage {stage}, ' if stage else ''}flow {flow}, {place}",
        since=_since(_runs(client, flow, run.deployment_id, workspace), run.id),
        todo=CRASHED if crashed else REMEDY.get(kind or "", OTHERWISE),
        page=f"{server}/runs/flow-run/{run.id}",
    )


def _runs(client: SyncPrefectClient, flow: str, deployment: UUID | None, workspace: str) -> list[FlowRun]:
    """The flow's runs in the workspace that began, by that deployment or by hand, the latest first."""
    runs = client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])), sort=FlowRunSort.START_TIME_DESC, limit=LOOKED_AT
    )
    return [
        run for run in runs if run.start_time and (run.deployment_id, run.parameters.get("workspace")) == (deployment, workspace)
    ]


def _since(runs: list[FlowRun], failed: UUID) -> str:
    """When it last went well, and how often it has not since."""
    ids = [run.id for run in runs]
    before = runs[ids.index(failed) + 1 :] if failed in ids else runs
    failures = 1
    for run in before:
        if run.state and run.state.is_completed():
            at = run.end_time or run.start_time
            times = "this is the first failure since" if failures == 1 else f"{failures} runs in a row failed since"
            return f"the last run that went well ended {at:%Y-%m-%d %H:%M} UTC; {times}"
        failures += run.state is not None and (run.state.is_failed() or run.state.is_crashed())
    return f"no run has gone well here yet; {failures} failed" if failures > 1 else "its first run here"

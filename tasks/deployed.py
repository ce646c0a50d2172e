"""The deployments of deployments/prefect.yaml on the server: their work pool, their queue, and the runs that they missed."""

import hashlib
import json
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType, WorkerStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled
from prefect.workers.process import ProcessWorker
from ruamel.yaml import YAML

from tasks.core.errors import TidemillError
from tasks.stage import content_hash, replacing
from tasks.workspace import CODE

FILE = CODE.parent / "deployments/prefect.yaml"
QUEUE = "workspace"  # of the flows that change the workspace, one run at a time
DEPLOYED = "deployed.json"
GRACE = timedelta(minutes=1)  # a run that is later than this was missed
PAGE = 200  # runs that the server gives at once
DEPLOY_SECONDS = 180
WAITING = ("Scheduled", "Late", "AwaitingConcurrencySlot")


def make_pool(pool: str) -> None:
    """There is a work pool of that name, of type process if it is new, and its queue `workspace` starts one run at a time."""
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(pool)
        except ObjectNotFound:
            template = ProcessWorker.get_default_base_job_template()
            client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=template))
        try:
            client.read_work_queue_by_name(QUEUE, work_pool_name=pool)
        except ObjectNotFound:
            client.create_work_queue(name=QUEUE, concurrency_limit=1, work_pool_name=pool)


def deploy(workspace: Path, folder: Path) -> None:
    """The server has every deployment as the file says, in the workspace; what people changed there stays while the file does.

    `folder` remembers what was deployed. TidemillError with Prefect's own words when they are not taken.
    """
    wanted = {"file": content_hash(FILE), "flows": content_hash_of_flows(), "workspace": str(workspace)}
    names = [f"{_flow(one['entrypoint'])}/{one['name']}" for one in YAML(typ="safe").load(FILE.read_text())["deployments"]]
    record = folder / DEPLOYED
    if record.exists() and json.loads(record.read_text()) == wanted and _are_there(names):
        return
    words = ["-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(FILE)]
    done = subprocess.run([sys.executable, *words], cwd=workspace, capture_output=True, text=True, timeout=DEPLOY_SECONDS)
    if done.returncode or not _are_there(names):
        raise TidemillError(f"{FILE} could not be deployed: {' '.join((done.stdout + done.stderr).split()[-60:])}")
    with replacing(record) as aside:
        aside.write_text(json.dumps(wanted))


def content_hash_of_flows() -> str:
    """Of the code whose signatures make the forms."""
    files = sorted((CODE.parent / "flows").glob("*.py"))
    return hashlib.sha256("".join(content_hash(path) for path in files).encode()).hexdigest()


def _flow(entrypoint: str) -> str:
    return entrypoint.rpartition(".")[2]


def _are_there(names: list[str]) -> bool:
    with get_client(sync_client=True) as client:
        for name in names:
            try:
                client.read_deployment_by_name(name)
            except ObjectNotFound:
                return False
    return True


def is_online(pool: str) -> bool:
    """Whether a worker of the pool is alive."""
    with get_client(sync_client=True) as client:
        return any(worker.status == WorkerStatus.ONLINE for worker in client.read_workers_for_work_pool(pool))


def drop_missed(pool: str, grace: timedelta = GRACE) -> int:
    """Of the scheduled runs that each deployment missed by more than `grace` only the last is still to run; returns how many are
    Cancelled instead.

    After a night without server or worker all of them would start at once (PrefectHQ/prefect 15886).
    """
    dropped = 0
    with get_client(sync_client=True) as client:
        while missed := _missed(client, pool, grace):
            for run in missed:
                client.set_flow_run_state(run.id, Cancelled(message="missed while nothing was up; a later run makes up for it"))
            dropped += len(missed)
    return dropped


def _missed(client: SyncPrefectClient, pool: str, grace: timedelta) -> list[FlowRun]:
    """Runs by schedule that should have begun, but for the last one of each deployment."""
    due = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        expected_start_time=FlowRunFilterExpectedStartTime(before_=datetime.now(UTC) - grace),
    )
    runs = client.read_flow_runs(
        flow_run_filter=due,
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
        limit=PAGE,
    )
    by_deployment: dict[UUID | None, list[FlowRun]] = defaultdict(list)
    for run in runs:
        if run.auto_scheduled and run.state and run.state.name in WAITING:
            by_deployment[run.deployment_id].append(run)
    return [run for waiting in by_deployment.values() for run in waiting[:-1]]

"""The main flow, data to released model: `python -m flows.train`; each stage runs only when something it depends on moved."""

from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from flows import command
from tasks.claim import claim, tell
from tasks.cost import write_cost
from tasks.freeze import freeze_schema
from tasks.params import change_params
from tasks.poll import poll
from tasks.publish import Release, publish
from tasks.remember import remember_release
from tasks.reproduce import reproduce
from tasks.server import bury
from tasks.sources.lock import require_lock
from tasks.unlock import unlock

STAGES = ("ingest", "validate", "preprocess", "tune", "train", "distill", "compress", "evaluate", "export")


@flow(name="train", flow_run_name="train {workspace}")
def train(workspace: Path, settings: list[str] | None = None, offline: bool = False) -> Release:
    """Bring the workspace's model up to date and release it.

    `settings`: KEY=VALUE, written to params.yaml first. `offline`: take the data of sources.lock, do not look for newer.
    """
    with claim(workspace) as dead:
        tell(workspace, flow_run.id)
        bury(dead, workspace)
        change_params(workspace, settings or [])
        unlock(workspace)
        if offline:
            require_lock(workspace / "sources.lock")
        else:
            poll(workspace)
        reproduce("ingest", workspace)
        freeze_schema(workspace)
        remember_release(workspace)
        for stage in STAGES[1:]:
            reproduce(stage, workspace)
        release = publish(workspace)
        write_cost(workspace)
        return release


if __name__ == "__main__":
    command.main(train, ("poll", *STAGES, "publish"))

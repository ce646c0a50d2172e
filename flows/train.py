"""The main flow, data to released model: `python -m flows.train`; each stage runs only when something it depends on moved."""

from pathlib import Path
from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from flows import command
from tasks.artifacts import show_release
from tasks.claim import claim, tell
from tasks.cost import write_cost
from tasks.exported import note_end
from tasks.freeze import freeze_schema
from tasks.params import change_params
from tasks.poll import poll
from tasks.publish import Release, publish
from tasks.remember import remember_release
from tasks.reproduce import reproduce
from tasks.run import begin, name_run, rename_run
from tasks.server import bury
from tasks.sources.lock import require_lock
from tasks.trouble import tell_failure, tell_recovery
from tasks.unlock import unlock

STAGES = ("ingest", "validate", "preprocess", "tune", "train", "distill", "compress", "evaluate", "export")


Setting = Annotated[str, Field(pattern=r"^\s*[^=\s]+\s*=", examples=["train.epochs=5"])]
# No null, for which Prefect's form has no words: 0 leaves the value of params.yaml as it is.
Unset = Annotated[int, Field(ge=0, le=10_000)]


@flow(
    name="train",
    flow_run_name=name_run,
    on_completion=[note_end, tell_recovery],
    on_failure=[note_end, tell_failure],
    on_crashed=[note_end],
)
def train(
    workspace: Path,
    offline: bool = False,
    trials: Unset = 0,
    epochs: Unset = 0,
    settings: tuple[Setting, ...] = (),
) -> Release:
    """Bring the workspace's model up to date and release it; only what changed runs.

    Args:
        workspace: The folder with params.yaml and dvc.yaml; `.` is the one that was deployed.
        offline: Take the data that sources.lock names, without a look at the sources.
        trials: How many configurations the search tries (tune.budget.trials); 0: as params.yaml says.
        epochs: How often each network sees the training data (train.epochs); 0: as params.yaml says.
        settings: Any values of params.yaml, each KEY=VALUE. All of these are written into the file, and stay there.
    """
    chosen = {"tune.budget.trials": trials, "train.epochs": epochs}
    changes = [*(f"{key}={value}" for key, value in chosen.items() if value), *settings]
    workspace = begin(workspace)
    with claim(workspace) as dead:
        tell(workspace, flow_run.id)
        bury(dead, workspace)
        change_params(workspace, changes)
        bring_up_to_date(workspace, offline)
        release = publish(workspace)
        write_cost(workspace)
        show_release(workspace, release)
        return release


def bring_up_to_date(workspace: Path, offline: bool) -> list[str]:
    """Every stage's outs are those of the sources as they are now, or as sources.lock says; returns what moved, in words."""
    unlock(workspace)
    moved: list[str] = []
    if offline:
        require_lock(workspace / "sources.lock")
    else:
        moved = poll(workspace)
    rename_run()
    reproduce("ingest", workspace)
    freeze_schema(workspace)
    remember_release(workspace)
    for stage in STAGES[1:]:
        reproduce(stage, workspace)
    return moved


if __name__ == "__main__":
    command.main(train, ("poll", *STAGES, "publish"))

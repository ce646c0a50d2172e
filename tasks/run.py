"""What every flow run does first, and what it is called: the model, the version of its data, and of its code."""

import hashlib
import logging
import subprocess
from functools import partial
from pathlib import Path

from prefect import get_client
from prefect.runtime import flow_run

from tasks.core.errors import TidemillError
from tasks.params import Params
from tasks.workspace import link_code

GIT_SECONDS = 20


class Plainly(logging.Filter):
    """An error of ours says all in its message: it is logged without a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(error := record.exc_info[1], TidemillError):
            record.msg, record.args, record.exc_info, record.exc_text = str(error), (), None, None
        return True


PLAINLY = Plainly()


def begin(workspace: Path) -> Path:
    """The workspace, absolute, with the code that its graph names; from now on this run's log tells errors of ours plainly.

    TidemillError when it is none.
    """
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(PLAINLY)
    outlive_worker()
    workspace = workspace.resolve()
    Params.load(workspace / "params.yaml")
    if not (workspace / "dvc.yaml").exists():
        raise TidemillError(f"{workspace} has no dvc.yaml; a workspace holds params.yaml and dvc.yaml")
    link_code(workspace)
    return workspace


def outlive_worker() -> None:
    """The run goes on when the worker is killed that reads its output: rich's consoles end the process at a broken pipe."""
    for name in ("", "prefect"):
        for handler in logging.getLogger(name).handlers:
            if console := getattr(handler, "console", None):
                console.on_broken_pipe = partial(setattr, console, "quiet", True)


def name_run() -> str:
    """`train flights, data 3f2a91c0, code cc577fd+`: what the sources were when last looked at, and the workspace's git revision,
    with a plus where files have changed since."""
    workspace = Path(flow_run.parameters.get("workspace") or ".").resolve()
    return ", ".join([f"{flow_run.flow_name} {_model(workspace)}", *_versions(workspace)])


def rename_run() -> None:
    """The run is called by what the sources are now."""
    if (name := name_run()) != flow_run.name:
        with get_client(sync_client=True) as client:
            client.update_flow_run(flow_run.id, name=name)


def _model(workspace: Path) -> str:
    try:
        return Params.load(workspace / "params.yaml").name
    except TidemillError:  # which the run itself will tell
        return workspace.name


def _versions(workspace: Path) -> list[str]:
    lock = workspace / "sources.lock"
    data = [f"data {hashlib.sha256(lock.read_bytes()).hexdigest()[:8]}"] if lock.exists() else []
    revision = _git(workspace, "rev-parse", "--short", "HEAD")
    changed = "+" if revision and _git(workspace, "status", "--porcelain", "-uno") else ""
    return [*data, f"code {revision}{changed}"] if revision else data


def _git(workspace: Path, *words: str) -> str:
    """What git says, or nothing outside a repository."""
    try:
        done = subprocess.run(["git", *words], cwd=workspace, capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()

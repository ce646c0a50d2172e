"""Runs a child process of a flow: its lines streamed to the log and the view, its process group ended with the run."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import psutil
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from tasks import view
from tasks.core.errors import DataError, GateError, ParamsError, TidemillError
from tasks.stage import RUN_PID, replacing

CHILD = Path(".cache/child.json")  # the child under way, for a next run to end if this one is killed
SECONDS_BETWEEN_UPDATES = 2.0
# What DVC says of its own work, and what TensorFlow's C++ says whatever it is told.
NOISE = re.compile(
    r"Running stage|> |Updating lock file|Use `dvc push`|To track the changes|To enable auto staging|\t(git add|dvc config)"
    r"|WARNING: '.*' is empty"
    r"|WARNING: All log messages before absl|[IWE]\d{4} \d\d:|INFO: Created TensorFlow Lite|fully_quantize:|Function `serve`"
    r"|Unable to import IPython|TFDV visualization APIs"
)
# DVC runs a stage by a shell: one that replaced itself by the stage tells the signal, one that waited for it 128 and the signal.
SIGKILLED = re.compile(r"exited with (-9|137)\b")


def run_child(stage: str, arguments: list[str], workspace: Path, log: Any) -> str:
    """Run Python with the arguments, its lines streamed; returns its last words when it failed, else nothing."""
    child = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=workspace,
        env=child_environment(),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    words: list[str] = []
    try:
        with replacing(workspace / CHILD) as aside:
            aside.write_text(json.dumps({"pid": child.pid, "started": psutil.Process(child.pid).create_time()}))
        assert child.stdout is not None
        follow = _follow(stage, log)
        for line in child.stdout:
            if text := line.rstrip():
                words.append(text)
                follow.send(text)
        child.wait()
    finally:
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        if child.stdout is not None:
            child.stdout.close()
        (workspace / CHILD).unlink(missing_ok=True)
    return "\n".join(words[-15:]) or f"exit code {child.returncode}" if child.returncode else ""


def _follow(stage: str, log: Any) -> Any:
    """A coroutine that takes the child's lines to the log, the view and a progress artifact."""

    def follow() -> Any:
        shown, artifact, updated = view.current(), None, 0.0
        while True:
            line = yield
            if NOISE.match(line):
                continue
            log.info(line)
            shown.line(stage, line)
            found = view.PERCENT.search(line)
            if found and time.monotonic() - updated > SECONDS_BETWEEN_UPDATES:
                updated, share = time.monotonic(), float(min(int(found[1]), 100))
                if artifact is None:
                    artifact = cast("UUID", create_progress_artifact(share, key=f"progress-{stage}", description=line))
                else:
                    update_progress_artifact(artifact, share, description=line)

    coroutine = follow()
    next(coroutine)
    return coroutine


def child_environment() -> dict[str, str]:
    """This environment, with this Python first on the path, this process to die with, and TensorFlow's chatter off."""
    here = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": os.pathsep.join([here, os.environ.get("PATH", "")]),
        RUN_PID: str(os.getpid()),
        "PYTHONUNBUFFERED": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # google.api_core warns of Python 3.11's end in every process that imports TensorFlow.
        "PYTHONWARNINGS": "ignore::FutureWarning",
    }


def failure(stage: str, outcome: dict[str, Any] | None, words: str) -> TidemillError:
    """The error that the stage ended with, as it said it; else what is known of its end."""
    if outcome and outcome["error"]:
        kinds = {kind.exit_code: kind for kind in (ParamsError, DataError, GateError)}
        return kinds.get(outcome["exit"], TidemillError)(f"{stage}: {outcome['error']}")
    if outcome is None and SIGKILLED.search(words):
        ended = "was killed; if the system ended it for its memory, lower the batch or the rows in params.yaml"
    else:
        ended = "failed"
    return TidemillError(f"{stage} {ended}. Its last lines:\n{words}")


def end_orphan(workspace: Path) -> None:
    """The child that a killed run left behind is gone, with all its processes."""
    record = workspace / CHILD
    try:
        child = json.loads(record.read_text())
        process = psutil.Process(child["pid"])
        if abs(process.create_time() - child["started"]) < 1:
            os.killpg(child["pid"], signal.SIGKILL)
            process.wait(10)
    except (OSError, ValueError, TypeError, KeyError, psutil.Error):
        pass
    record.unlink(missing_ok=True)

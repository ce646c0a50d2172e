"""One run for each workspace at a time: a lock that dies with its holder, and word of who holds it."""

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from filelock import FileLock, Timeout
from prefect.exceptions import TerminationSignal

from tasks.core.errors import TidemillError
from tasks.reproduce import heal
from tasks.stage import replacing

LOCK, HOLDER = Path(".cache/run.lock"), Path(".cache/run.json")


class BusyError(TidemillError):
    """Another run has the workspace."""

    exit_code = 5


@contextlib.contextmanager
def claim(workspace: Path) -> Iterator[list[str]]:
    """The workspace is this process's alone; gives the id of the Prefect run before, which may have died.

    BusyError at once when another process has it, with that one's run and pid.
    """
    (workspace / LOCK).parent.mkdir(parents=True, exist_ok=True)
    with claim_lock(workspace):
        dead = [str(run)] if (run := read_holder(workspace).get("run")) else []
        heal(workspace)
        yield dead


def refuse_if_busy(workspace: Path) -> None:
    """BusyError when another process has the workspace now."""
    if (workspace / LOCK).exists():
        with claim_lock(workspace):
            pass


@contextlib.contextmanager
def claim_lock(workspace: Path) -> Iterator[None]:
    """The lock is held within the block; BusyError at once when it cannot be."""
    lock = FileLock(workspace / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = read_holder(workspace)
        raise BusyError(
            f"{workspace.resolve()} is in use by run {holder.get('run') or '(starting)'}, pid {holder.get('pid', 'unknown')}; "
            "wait for it, or stop it with `kill` and that pid"
        ) from None
    try:
        yield
    finally:
        lock.release()


def tell(workspace: Path, run: str) -> None:
    """Others that want the workspace are told this process's pid and the id of its Prefect run."""
    with replacing(workspace / HOLDER) as aside:
        aside.write_text(json.dumps({"pid": os.getpid(), "run": run}))


def leave(workspace: Path) -> None:
    """The run goes on without the workspace: whoever claims it next does not take the run for one that was killed."""
    (workspace / HOLDER).unlink(missing_ok=True)


def read_holder(workspace: Path) -> dict[str, int | str]:
    """Pid and run of who holds the workspace, or held it when killed; empty when nothing says so."""
    try:
        holder = json.loads((workspace / HOLDER).read_text())
        return {"pid": int(holder["pid"]), "run": str(UUID(holder["run"]))}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM within the block raises Terminated, as Ctrl-C raises KeyboardInterrupt; neither is lost.

    Python drops what is raised while a destructor runs, and a run that was asked to stop would go on: it is asked again.
    """

    def end(number: int, frame: object) -> None:
        raise Terminated

    def ask_again(lost: "sys.UnraisableHookArgs") -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):
            number = signal.SIGINT
        elif issubclass(lost.exc_type, Terminated | TerminationSignal):
            number = signal.SIGTERM
        else:
            hook(lost)
            return
        again = threading.Timer(0.1, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()

    before, hook = signal.signal(signal.SIGTERM, end), sys.unraisablehook
    sys.unraisablehook = ask_again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, before)


class Terminated(BaseException):
    """The process was asked to end."""

"""The bridge from Prefect to DVC: one generic task that brings a stage up to date, shown as Cached when it was."""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tasks import view
from tasks.child import SIGKILLED, end_orphan, failure, run_child
from tasks.core.errors import TidemillError
from tasks.push import has_remote
from tasks.stage import RECORDS, discard, replacing

MOST_TOLD = 3  # code files that changed are told by name, of more only how many
LOCK_COPY = Path(".cache/dvc.lock")  # DVC writes dvc.lock in place: a kill may cut it short


@task(cache_policy=NO_CACHE, task_run_name="{stage}")
def reproduce(stage: str, workspace: Path) -> State[dict[str, str]]:
    """The stage's outs are those of its present inputs; gives their paths and hashes.

    The final state is Cached where DVC had nothing to do or restored the outs, Completed where the stage ran. Fails with the
    stage's own message.
    """
    log, shown = get_run_logger(), view.current()
    why = explain(stage, workspace)
    if not why:
        shown.end(stage, "Cached", "")
        return Completed(name="Cached", message="inputs, code and outputs match dvc.lock", data=outs(stage, workspace))

    shown.begin(stage, "; ".join(why))
    log.info("runs because: %s", "; ".join(why))
    record = workspace / RECORDS / f"{stage}.json"
    record.unlink(missing_ok=True)
    repro = ["-m", "dvc", "repro", "--single-item", stage]
    pulls = has_remote(workspace)
    failed = run_child(stage, [*repro, "--pull"] if pulls else repro, workspace, log)
    if failed and pulls and not record.exists() and not SIGKILLED.search(failed):
        log.warning("nothing came from DVC's remote; runs instead:\n%s", failed)
        shown.begin(stage, "; ".join([*why, "DVC's remote gave nothing"]))
        failed = run_child(stage, repro, workspace, log)
    if not failed and not record.exists() and (corrupt := drop_corrupt(stage, workspace)):
        why.append(f"DVC's cache held other content than it says for {', '.join(corrupt)}")
        log.warning("%s; runs instead", why[-1])
        shown.begin(stage, "; ".join(why))
        failed = run_child(stage, repro, workspace, log)
    outcome = json.loads(record.read_text()) if record.exists() else None
    if failed:
        shown.end(stage, "Failed", "")
        raise failure(stage, outcome, failed)
    keep_lock(workspace)
    if outcome is None:
        shown.end(stage, "Restored", "; ".join(why))
        return Completed(
            name="Cached", message=f"restored from DVC's cache or remote ({'; '.join(why)})", data=outs(stage, workspace)
        )
    shown.end(stage, "Completed", "; ".join(why))
    cost = f"{outcome['wall_s']:.1f} s, {outcome['cpu_s']:.1f} CPU s, {outcome['peak_mb']:,} MB"
    return Completed(message=f"ran because: {'; '.join(why)}; {cost}", data=outs(stage, workspace))


def explain(stage: str, workspace: Path) -> list[str]:
    """Why DVC would run the stage, one phrase for each input, parameter, code file or output that changed; empty if nothing."""
    from dvc.exceptions import DvcException  # half a second that only a run needs
    from dvc.repo import Repo

    try:
        # DVC's own bars, for a terminal, would break through the view.
        with contextlib.redirect_stderr(io.StringIO()), contextlib.chdir(workspace), Repo() as repo:
            status = repo.status(targets=[stage])
    except DvcException as error:
        raise TidemillError(f"{stage}: DVC: {error}") from error
    locked = _stages(workspace).get(stage)
    if status and locked is None:
        return ["never ran"]
    found = [phrase for changes in status.values() for change in changes for phrase in _phrases(change, stage, workspace)]
    code = [phrase for phrase in found if phrase.startswith("code ")]
    if len(code) <= MOST_TOLD:
        return found
    return [*(phrase for phrase in found if phrase not in code), f"{len(code)} code files changed"]


def _phrases(change: Any, stage: str, workspace: Path) -> Iterator[str]:
    if not isinstance(change, dict):
        yield str(change)
        return
    for kind, items in change.items():
        for path, state in items.items():
            if isinstance(state, dict):
                yield from _parameters(stage, workspace, state)
            elif kind == "changed outs":
                yield f"output {path} is {state}"
            else:
                yield f"{'code' if path.endswith('.py') else 'input'} {path} is {state}"


def _parameters(stage: str, workspace: Path, state: dict[str, str]) -> Iterator[str]:
    """Each changed parameter with its value before and now."""
    before = _flat(_stages(workspace)[stage].get("params", {}).get("params.yaml", {}))
    now = _flat(YAML(typ="safe").load((workspace / "params.yaml").read_text()))
    keys = [key for key in {**before, **now} if any(key == top or key.startswith(f"{top}.") for top in state)]
    differing = [key for key in keys if before.get(key) != now.get(key)]
    yield from (f"{key} {_short(before.get(key, 'absent'))} -> {_short(now.get(key, 'absent'))}" for key in differing)
    if not differing:
        yield from (f"parameter {key} is {how}" for key, how in state.items())


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix[:-1]: node}
    return {key: value for name, child in node.items() for key, value in _flat(child, f"{prefix}{name}.").items()}


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else f"{text[:37]}..."


def outs(stage: str, workspace: Path) -> dict[str, str]:
    """Path and hash of everything that the stage makes, from dvc.lock."""
    return {out["path"]: out["md5"] for out in _stages(workspace)[stage].get("outs", [])}


def drop_corrupt(stage: str, workspace: Path) -> list[str]:
    """Outs that DVC, which does not look, restored from cached files with other content; they and those files are gone."""
    from dvc.repo import Repo

    with contextlib.chdir(workspace), Repo() as repo:
        locate = repo.cache.local.oid_to_path
        corrupt = []
        for path, mark in outs(stage, workspace).items():
            listing = Path(locate(mark))
            parts = [part["md5"] for part in json.loads(listing.read_text())] if mark.endswith(".dir") else []
            cached = {Path(locate(part)): part for part in [*parts, mark]}
            wrong = [file for file, part in cached.items() if file.exists() and not part.startswith(_md5(file))]
            for file in wrong:
                file.unlink()
            if wrong:
                corrupt.append(path)
                discard(workspace / path)
    return corrupt


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _stages(workspace: Path) -> dict[str, Any]:
    lock = workspace / "dvc.lock"
    document = YAML(typ="safe").load(lock.read_text()) if lock.exists() else None
    return dict((document or {}).get("stages") or {})


def keep_lock(workspace: Path) -> None:
    """A copy of dvc.lock, whole."""
    with replacing(workspace / LOCK_COPY) as aside:
        aside.write_bytes((workspace / "dvc.lock").read_bytes())


def heal(workspace: Path) -> None:
    """What a killed run may have left is put right: its children are ended, files that DVC was writing are whole again."""
    end_orphan(workspace)
    lock, rwlock = workspace / "dvc.lock", workspace / ".dvc" / "tmp" / "rwlock"
    if lock.exists() and not _is_whole(lock) and (workspace / LOCK_COPY).exists():
        with replacing(lock) as aside:
            aside.write_bytes((workspace / LOCK_COPY).read_bytes())
    if rwlock.exists():
        try:
            json.loads(rwlock.read_text())
        except ValueError:
            rwlock.unlink()


def _is_whole(lock: Path) -> bool:
    try:
        document = YAML(typ="safe").load(lock.read_text())
    except (YAMLError, UnicodeDecodeError):
        return False
    return isinstance(document, dict) and isinstance(document.get("stages"), dict)

"""Effect poll: looks at every source and rewrites sources.lock when the content of one has moved."""

import io
import json
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from ruamel.yaml import YAML

from tasks import view
from tasks.child import failure, run_child
from tasks.core.errors import TidemillError
from tasks.sources.lock import Mark, read_lock
from tasks.stage import RECORDS, replacing

MARKS = Path(".cache/marks.json")
HEADER = "# What each source was when a run last looked; written by the poll, kept in git, read by `dvc repro`.\n"


@task(cache_policy=NO_CACHE, task_run_name="poll")
def poll(workspace: Path) -> list[str]:
    """sources.lock names the sources' present content; returns what moved, in words, and is empty when nothing did."""
    log, shown = get_run_logger(), view.current()
    shown.begin("poll", "looks at the sources")
    try:
        moved = update_lock(workspace, log)
    except TidemillError:
        shown.end("poll", "Failed", "")
        raise
    said = "; ".join(moved) or "no source has moved"
    log.info(said)
    shown.line("poll", said)
    shown.end("poll", "Completed", said)
    return moved


def update_lock(workspace: Path, log: Any) -> list[str]:
    """Compare every source with sources.lock, and rewrite that when they differ; returns the differences in words."""
    lock = workspace / "sources.lock"
    old, new = read_lock(lock), look_at_sources(workspace, log)
    if new != old:
        text = io.StringIO(HEADER)
        text.seek(0, io.SEEK_END)
        YAML().dump(new, text)
        with replacing(lock) as aside:
            aside.write_text(text.getvalue())
    moved = [f"source {name!r} {_difference(old[name], new[name])}" for name in new if name in old and old[name] != new[name]]
    return [
        *moved,
        *(f"source {name!r} is new" for name in new.keys() - old.keys()),
        *(f"source {name!r} is gone" for name in old.keys() - new.keys()),
    ]


def look_at_sources(workspace: Path, log: Any) -> dict[str, Mark]:
    """What each source is now, as a child says it; fails with the child's own message."""
    record = workspace / RECORDS / "look.json"
    record.unlink(missing_ok=True)
    failed = run_child("poll", ["-m", "tasks.look", "--marks", str(MARKS)], workspace, log)
    if failed:
        raise failure("poll", json.loads(record.read_text()) if record.exists() else None, failed)
    marks: dict[str, Mark] = json.loads((workspace / MARKS).read_text())
    return marks


def _difference(old: Mark, new: Mark) -> str:
    parts = [f"{key} {_short(old.get(key))} -> {_short(new.get(key))}" for key in new if old.get(key) != new.get(key)]
    return f"moved: {', '.join(parts)}"


def _short(value: Any) -> str:
    return str(value)[:10]

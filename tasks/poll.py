"""Effect poll: looks at every source and rewrites sources.lock when the content of one has moved."""

import io
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from ruamel.yaml import YAML

from tasks import view
from tasks.core.errors import TidemillError
from tasks.params import Params
from tasks.sources.land import look
from tasks.sources.lock import Mark, read_lock
from tasks.stage import replacing

HEADER = "# What each source was when a run last looked; written by the poll, kept in git, read by `dvc repro`.\n"


@task(cache_policy=NO_CACHE, task_run_name="poll")
def poll(workspace: Path) -> list[str]:
    """sources.lock names the sources' present content; returns what moved, in words, and is empty when nothing did."""
    shown = view.current()
    shown.begin("poll", "looks at the sources")
    try:
        moved = update_lock(workspace)
    except TidemillError:
        shown.end("poll", "Failed", "")
        raise
    said = "; ".join(moved) or "no source has moved"
    get_run_logger().info(said)
    shown.line("poll", said)
    shown.end("poll", "Completed", said)
    return moved


def update_lock(workspace: Path) -> list[str]:
    """Compare every source with sources.lock, and rewrite that when they differ; returns the differences in words."""
    lock = workspace / "sources.lock"
    params = Params.load(workspace / "params.yaml")
    old = read_lock(lock)
    new = {name: look(name, source, params.privacy, workspace) for name, source in params.sources.items()}
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


def _difference(old: Mark, new: Mark) -> str:
    parts = [f"{key} {_short(old.get(key))} -> {_short(new.get(key))}" for key in new if old.get(key) != new.get(key)]
    return f"moved: {', '.join(parts)}"


def _short(value: Any) -> str:
    return str(value)[:10]

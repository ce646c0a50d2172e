"""Effect remember: keeps the statistics of what the last release learned on, for a table that is new to be held against."""

import json
import shutil
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from ruamel.yaml import YAML

from tasks.core.errors import DataError
from tasks.stage import replacing

RAW, RELEASED, STORE = "data/raw", Path("data/released.pb"), Path("releases")


@task(cache_policy=NO_CACHE, task_run_name="remember the last release")
def remember_release(workspace: Path) -> str | None:
    """data/released.pb holds the statistics of what production learned on; returns its version when it was put there now."""
    version = remember(workspace)
    if version:
        get_run_logger().info("the table is new: it will be held against that of release %s", version)
    return version


def remember(workspace: Path) -> str | None:
    """When the table is another than production's, data/released.pb becomes that release's statistics; else it stays.

    So a run on the table of the last release finds nothing moved. Without a release the file is empty.
    """
    path = workspace / RELEASED
    version = _production(workspace)
    if version and (table := _table_now(workspace)) and table != _table_of(workspace, version):
        reference = workspace / STORE / version / "reference.pb"
        if not path.exists() or path.read_bytes() != reference.read_bytes():
            with replacing(path) as aside:
                shutil.copyfile(reference, aside)
            return version
    if not path.exists():
        with replacing(path) as aside:
            aside.touch()
    return None


def _production(workspace: Path) -> str | None:
    """The version that is served, None before the first release."""
    pointer = workspace / STORE / "production.json"
    if not pointer.exists():
        return None
    version = str(_read(pointer).get("version"))
    if not (workspace / STORE / version / "reference.pb").exists():
        raise DataError(f"{pointer} names release {version!r}, which {STORE} does not hold whole; restore it, or run export again")
    return version


def _table_of(workspace: Path, version: str) -> str | None:
    """The hash of the table that the release learned on, None when it does not say."""
    stages = _read(workspace / STORE / version / "lineage.json").get("stages", {})
    found = stages.get("ingest", {}).get(RAW)
    return str(found) if found else None


def _table_now(workspace: Path) -> str | None:
    """The hash of the table that is there, None when DVC has recorded none."""
    lock = workspace / "dvc.lock"
    stages = (YAML(typ="safe").load(lock.read_text()) or {}).get("stages", {}) if lock.exists() else {}
    return next((str(out["md5"]) for out in stages.get("ingest", {}).get("outs", []) if out["path"] == RAW), None)


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}); restore it, or delete the release and export again") from error

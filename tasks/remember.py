"""Effect remember: keeps the statistics of what the last release learned on, for a table that is new to be held against."""

import json
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from ruamel.yaml import YAML

from tasks.core.errors import DataError
from tasks.params import Params
from tasks.releases import Releases, open_releases, telling
from tasks.stage import replacing

RAW, RELEASED = "data/raw", Path("data/released.pb")


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
    path, values = workspace / RELEASED, Params.load(workspace / "params.yaml").release
    with telling():
        releases = open_releases(workspace, values.store, values.kms_key)
        found = releases.channel("production")
        if found and (table := _table_now(workspace)) and table != _table_of(releases, found[0].version):
            reference = releases.read(found[0].version, "reference.pb")
            if not path.exists() or path.read_bytes() != reference:
                with replacing(path) as aside:
                    aside.write_bytes(reference)
                return found[0].version
    if not path.exists():
        with replacing(path) as aside:
            aside.touch()
    return None


def _table_of(releases: Releases, version: str) -> str | None:
    """The hash of the table that the release learned on, None when it does not say."""
    try:
        stages = json.loads(releases.read(version, "lineage.json"))["stages"]
        found = stages.get("ingest", {}).get(RAW)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"the lineage of release {version} cannot be read ({error!r}); publish it again") from error
    return str(found) if found else None


def _table_now(workspace: Path) -> str | None:
    """The hash of the table that is there, None when DVC has recorded none."""
    lock = workspace / "dvc.lock"
    stages = (YAML(typ="safe").load(lock.read_text()) or {}).get("stages", {}) if lock.exists() else {}
    return next((str(out["md5"]) for out in stages.get("ingest", {}).get("outs", []) if out["path"] == RAW), None)

"""Effect publish: the bundle becomes an immutable release in a folder, and then the one that is served."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from tasks.core.errors import DataError
from tasks.core.metrics import METRICS, WORDS
from tasks.stage import content_hash, replacing

BUNDLE, STORE, EVALUATION = Path("models/release"), Path("releases"), Path("reports/evaluation.json")
PRODUCTION = "production.json"  # names the version that is served


@dataclass(frozen=True)
class Release:
    """What was released."""

    name: str
    version: str
    chosen: str


@task(cache_policy=NO_CACHE, task_run_name="publish")
def publish(workspace: Path) -> Release:
    """releases/VERSION holds the bundle, whole and verified, and releases/production.json names it."""
    release, new = put(workspace)
    get_run_logger().info("%s %s %s", "released" if new else "already released:", release.name, release.version)
    create_markdown_artifact(
        (workspace / BUNDLE / "model_card.md").read_text(), key="model-card", description=f"{release.name} {release.version}"
    )
    return release


def put(workspace: Path) -> tuple[Release, bool]:
    """Copy the bundle into the store and move the pointer; returns whether anything had to be done.

    DataError when the bundle is not what its manifest says; then the store and the pointer are as they were.
    """
    manifest = json.loads((workspace / BUNDLE / "manifest.json").read_text())
    release = Release(manifest["name"], manifest["version"], manifest["chosen"])
    home, pointer = workspace / STORE / release.version, workspace / STORE / PRODUCTION
    if home.exists() and pointer.exists() and json.loads(pointer.read_text()) == asdict(release):
        return release, False
    if not home.exists():
        with replacing(home) as aside:
            shutil.copytree(workspace / BUNDLE, aside)
            if changed := [path for path, mark in manifest["files"].items() if content_hash(aside / path) != mark["sha256"]]:
                raise DataError(f"{BUNDLE} is not what its manifest says: {changed} differ; run export again")
    with replacing(pointer) as aside:
        aside.write_text(json.dumps(asdict(release), indent=1))
    return release, True


def describe(workspace: Path, release: Release) -> str:
    """What was released, how small it is, and how good beside the better of the baselines that learn, in one line."""
    quality = json.loads((workspace / EVALUATION).read_text())
    mine, (_, loss, *_) = quality["candidates"][release.chosen], METRICS[quality["task"]]
    learned = {name: one for name, one in quality["baselines"].items() if name != "constant"}
    peer = min(learned, key=lambda name: learned[name][loss]["value"])
    metrics = METRICS[quality["task"]][:2]
    own = ", ".join(f"{WORDS[metric]} {mine[metric]['value']:,.4f}" for metric in metrics)
    theirs = ", ".join(f"{learned[peer][metric]['value']:,.4f}" for metric in metrics)
    return f"released {release.name} {release.version}: {release.chosen}, {mine['bytes']:,} bytes, {own} ({peer}: {theirs})"

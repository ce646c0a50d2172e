"""Effect publish: data and models go to DVC's remote, the bundle becomes an immutable release, and then the one that is served."""

import json
from dataclasses import dataclass
from pathlib import Path

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from tasks import params, view
from tasks.core.metrics import METRICS, WORDS
from tasks.params import Params
from tasks.push import push
from tasks.releases import FETCHED, open_releases, telling, verify_files, who
from tasks.sign import find_signature, read_public_key

BUNDLE, EVALUATION = Path("models/release"), Path("reports/evaluation.json")


@dataclass(frozen=True)
class Release:
    """What was released; `served` is the version in production, another one after a rollback."""

    name: str
    version: str
    chosen: str
    served: str


@task(cache_policy=NO_CACHE, task_run_name="publish")
def publish(workspace: Path, promote: bool = True) -> Release:
    """The remote holds data and models, the store the bundle, whole and verified, and production names it.

    Without `promote` production stays as it is, unless it serves nothing yet.
    """
    log, shown, values = get_run_logger(), view.current(), Params.load(workspace / "params.yaml").release
    shown.begin("publish", f"to {values.store}")
    try:
        if values.remote:
            push(workspace, values.remote, values.kms_key, log)
        release, new = put(workspace, values, promote=promote)
    except BaseException:
        shown.end("publish", "Failed", "")
        raise
    shown.released(release.name, release.version)
    shown.end("publish", "Completed" if new else "Cached", f"{release.name} {release.version}")
    log.info("%s %s %s", "released" if new else "already released:", release.name, release.version)
    create_markdown_artifact(
        (workspace / BUNDLE / "model_card.md").read_text(), key="model-card", description=f"{release.name} {release.version}"
    )
    return release


def put(workspace: Path, values: params.Release, *, promote: bool = True) -> tuple[Release, bool]:
    """Bring the bundle into the store and, to `promote` it, production to it; returns whether anything had to be done.

    A version that was rolled back stays in the store and is not brought back. What killed publishes left is swept, and no more
    versions are kept than wanted. ReleaseError when the bundle is not what its manifest says, or the store cannot be used; then
    production is as it was.
    """
    with telling():
        releases, bundle = open_releases(workspace, values.store, values.kms_key), workspace / BUNDLE
        manifest = verify_files(bundle)
        version = str(manifest["version"])
        found = releases.channel("production")
        now, tag = found or (None, None)
        signature = find_signature(workspace, values, releases, bundle, version)
        releases.put(bundle, signature)
        if values.verify:
            releases.fetch(version, workspace / FETCHED, read_public_key(workspace, values.verify))
        moves = now is None or (promote and version not in (now.version, now.withdrawn))
        if moves:
            releases.promote(version, tag, by=who(), why="released by python -m flows.train", now=now)
        releases.sweep()
        releases.retain(values.keep)
        serves = version if now is None or moves else now.version
        return Release(manifest["name"], version, manifest["chosen"], serves), moves or signature is not None


def describe(workspace: Path, release: Release) -> str:
    """What was released, how small it is, and how good beside the better of the baselines that learn, in one line."""
    quality = json.loads((workspace / EVALUATION).read_text())
    mine, (_, loss, *_) = quality["candidates"][release.chosen], METRICS[quality["task"]]
    learned = {name: one for name, one in quality["baselines"].items() if name != "constant"}
    peer = min(learned, key=lambda name: learned[name][loss]["value"])
    metrics = METRICS[quality["task"]][:2]
    own = ", ".join(f"{WORDS[metric]} {mine[metric]['value']:,.4f}" for metric in metrics)
    theirs = ", ".join(f"{learned[peer][metric]['value']:,.4f}" for metric in metrics)
    if release.served != release.version:
        again = f"python -m flows.rollout promote {release.version}"
        return f"{release.version} was rolled back: production serves {release.served}; `{again}` brings it back"
    return f"released {release.name} {release.version}: {release.chosen}, {mine['bytes']:,} bytes, {own} ({peer}: {theirs})"

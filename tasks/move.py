"""Effect move: a channel serves another release, told on the run's page and by an event."""

from dataclasses import asdict, dataclass
from pathlib import Path

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from tasks import rollout
from tasks.params import Params
from tasks.releases import CHANNELS, Channel, open_releases, telling


@dataclass(frozen=True)
class Moved:
    """What the channel serves now; no version when it is closed."""

    model: str
    channel: str
    version: str | None
    before: str | None


@task(cache_policy=NO_CACHE, task_run_name="{action}")
def move(workspace: Path, action: str, version: str, share: float | None, header: str | None, why: str) -> Moved:
    """The channel is moved, after the release was verified; as flows.rollout does it by hand."""
    params = Params.load(workspace / "params.yaml")
    values = params.release
    with telling():
        releases = open_releases(workspace, values.store, values.kms_key)
        verb, _, closed = action.partition(" ")
        name = closed or {"promote": "production", "rollback": "production"}.get(verb, verb)
        found = releases.channel(name)
        why = why or "by the flow rollout"
        meant = rollout.resolve(releases, version) if verb in ("promote", "canary", "shadow") else ""
        now: Channel | None
        match verb:
            case "promote":
                now = rollout.promote(releases, workspace, values, meant, why)
            case "canary" | "shadow":
                part = share or (values.canary.share if verb == "canary" else 1.0)
                now = rollout.try_out(releases, workspace, values, verb, meant, part, header, why)
            case "rollback":
                now = rollout.roll_back(releases, workspace, values, why)
            case "close":
                rollout.end(releases, name, why)
                now = None
            case _:
                raise AssertionError(action)
        channels = {one: there[0] for one in CHANNELS if (there := releases.channel(one))}
    moved = Moved(params.name, name, now.version if now else None, found[0].version if found else None)
    get_run_logger().info("%s: %s -> %s", name, moved.before or "nothing", moved.version or "closed")
    create_table_artifact(
        [{"channel": one, **asdict(it)} for one, it in channels.items()], key="channels", description=f"what {params.name} serves"
    )
    emit_event(
        "tidemill.moved",
        resource={"prefect.resource.id": f"tidemill.model.{params.name}", "prefect.resource.name": params.name},
        payload={"workspace": str(workspace), "why": why, **asdict(moved)},
    )
    return moved

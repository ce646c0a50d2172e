"""Effect rollout: what the store holds and which of it is served, told to people; and the channels' moves, verified first."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks import params
from tasks.core.errors import ParamsError
from tasks.core.metrics import METRICS
from tasks.releases import CHANNELS, FETCHED, SIGNATURE, Channel, ReleaseError, Releases, who
from tasks.sign import read_public_key

NETWORK, LINEAGE = "model.tflite", "lineage.json"


@dataclass(frozen=True)
class Listed:
    """A version as people choose among them."""

    version: str
    chosen: str
    metrics: dict[str, float]  # on the test part, the first two of its task
    network_bytes: int
    bytes: int  # of all its files
    published: str  # ISO 8601, UTC
    signed: bool
    channels: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """One thing that two versions may differ in."""

    of: str  # code, data, params, metrics, size
    what: str
    before: Any
    after: Any


def list_versions(releases: Releases) -> list[Listed]:
    """Every version of the store, the latest first, and what it is good for."""
    served = {name: found[0].version for name in CHANNELS if (found := releases.channel(name))}
    signed = {key.partition("/")[0] for key in releases.storage.keys() if key.endswith(f"/{SIGNATURE}")}  # noqa: SIM118  no dict
    listed = []
    for one in releases.versions():
        manifest = releases.manifest(one.version)
        listed.append(
            Listed(
                version=one.version,
                chosen=str(manifest["chosen"]),
                metrics=metrics(lineage(releases, one.version), str(manifest["chosen"])),
                network_bytes=int(manifest["files"].get(NETWORK, {}).get("bytes", 0)),
                bytes=one.bytes,
                published=one.published.isoformat(timespec="seconds"),
                signed=one.version in signed,
                channels=tuple(name for name, version in served.items() if version == one.version),
            )
        )
    return listed


def resolve(releases: Releases, asked: str) -> str:
    """The version that is meant by its first characters, or by a channel's name; ParamsError when it is none, or several."""
    if asked in CHANNELS:
        found = releases.channel(asked)
        if found is None:
            raise ParamsError(f"{asked} serves nothing; name a version of `python -m flows.rollout list`")
        return found[0].version
    there = [one.version for one in releases.versions()]
    fits = [asked] if asked in there else [version for version in there if asked and version.startswith(asked)]
    if len(fits) != 1:
        among = ", ".join(fits or there) or "none, as nothing is released yet"
        raise ParamsError(f"{asked!r} is {'the start of several versions' if fits else 'no version'}; expected one of: {among}")
    return fits[0]


def promote(releases: Releases, workspace: Path, values: params.Release, version: str, why: str) -> Channel:
    """Production serves the version, verified; a canary or shadow of it is over."""
    check(releases, workspace, values, version)
    now, tag = releases.channel("production") or (None, None)
    if now is None or now.version != version:
        releases.promote(version, tag, now=now, by=who(), why=why)
    for name in ("canary", "shadow"):
        found = releases.channel(name)
        if found and found[0].version == version:
            releases.close(name, found[1], who(), "promoted")
    return served(releases, "production")


def try_out(
    releases: Releases, workspace: Path, values: params.Release, name: str, version: str, share: float, header: str | None, why: str
) -> Channel:
    """The canary or shadow, whatever it served, is of the version, verified, with that share of the requests."""
    check(releases, workspace, values, version)
    production, found = releases.channel("production"), releases.channel(name)
    if production is None:
        raise ReleaseError(f"nothing is in production that {version} could be compared with; promote a version first")
    if production[0].version == version:
        raise ReleaseError(f"{version} is in production already; choose another version")
    manifest = releases.manifest(version)
    tried = Channel(
        name=manifest["name"],
        version=version,
        chosen=manifest["chosen"],
        share=share,
        header=header,
        rule=values.canary.model_dump(exclude={"share"}) if name == "canary" else None,
        by=who(),
        why=why,
    )
    releases.move(name, tried, found[1] if found else None)
    return served(releases, name)


def end(releases: Releases, name: str, why: str) -> None:
    """The canary or shadow is over."""
    found = releases.channel(name)
    if found is None:
        raise ReleaseError(f"{name} serves nothing already")
    releases.close(name, found[1], who(), why)


def roll_back(releases: Releases, workspace: Path, values: params.Release, why: str) -> Channel:
    """Production serves what it served before, verified."""
    found = releases.channel("production")
    if found is None or found[0].previous is None:
        raise ReleaseError(f"{releases.storage.place}: production served nothing before; promote another version instead")
    check(releases, workspace, values, found[0].previous)
    releases.promote(found[0].previous, found[1], now=found[0], by=who(), why=why, withdrawn=found[0].version)
    return served(releases, "production")


def check(releases: Releases, workspace: Path, values: params.Release, version: str) -> None:
    """ReleaseError unless the version is whole, and signed where a signature is asked for."""
    releases.fetch(version, workspace / FETCHED, read_public_key(workspace, values.verify) if values.verify else None)


def served(releases: Releases, name: str) -> Channel:
    """What the channel serves now."""
    found = releases.channel(name)
    if found is None:
        raise ReleaseError(f"{name} was closed by another meanwhile")
    return found[0]


def diff(releases: Releases, before: str, after: str) -> list[Difference]:
    """What differs between two versions in code, data and params, and both's metrics and sizes."""
    sides = [(releases.manifest(version), lineage(releases, version)) for version in (before, after)]
    was, now = (dict(_facts(*side)) for side in sides)
    return [
        Difference(*key, was.get(key), now.get(key))
        for key in dict.fromkeys([*was, *now])
        if was.get(key) != now.get(key) or key[0] in ("metrics", "size")
    ]


def lineage(releases: Releases, version: str) -> dict[str, Any]:
    """Where the version came from; ReleaseError when it does not say."""
    try:
        return dict(json.loads(releases.read(version, LINEAGE)))
    except (ValueError, TypeError) as error:
        raise ReleaseError(f"{releases.storage.place}/{version}/{LINEAGE} cannot be read ({error}); publish it again") from error


def metrics(lineage: dict[str, Any], chosen: str) -> dict[str, float]:
    """The first two metrics of the version's task, as evaluated."""
    quality = lineage.get("quality", {})
    figures = quality.get("candidates", {}).get(chosen, {})
    return {metric: figures[metric]["value"] for metric in METRICS.get(quality.get("task"), ())[:2] if metric in figures}


def age(published: str) -> str:
    """How long ago, in the largest unit of which there are two."""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(published)).total_seconds()
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(0, seconds):.0f} s"


def _facts(manifest: dict[str, Any], lineage: dict[str, Any]) -> Iterator[tuple[tuple[str, str], Any]]:
    code = lineage.get("git") or {}
    yield ("code", "git revision"), code.get("revision")
    yield ("code", "files changed since"), len(code.get("changed") or [])
    yield from ((("data", key), value) for key, value in _flat(lineage.get("snapshot") or {}))
    yield from ((("params", key), value) for key, value in _flat(lineage.get("params") or {}))
    yield ("metrics", "chosen"), manifest["chosen"]
    yield from ((("metrics", key), value) for key, value in metrics(lineage, str(manifest["chosen"])).items())
    yield ("size", "network, bytes"), manifest["files"].get(NETWORK, {}).get("bytes")
    yield ("size", "bundle, bytes"), sum(int(mark.get("bytes", 0)) for mark in manifest["files"].values())


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for key, child in node.items():
            yield from _flat(child, f"{prefix}{key}.")
    else:
        yield prefix[:-1], node

"""What the data report says of each column: its role, its statistics, what became of it, and what stands out."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup
from tensorflow_metadata.proto.v0 import statistics_pb2
from tensorflow_metadata.proto.v0.statistics_pb2 import FeatureNameStatistics as Feature

from tasks.core.looks import Days, Finding, Kind, look_at_column
from tasks.core.svg import percent

MOSTLY = 0.5  # missing beyond this share stands out
MORE = 0.1  # and so does as much more than in the last release
FEATURES = {"number", "category", "date", "text"}  # roles of what a model learns from


@dataclass(frozen=True)
class Drift:
    """How far a column is from the last release's data; the distance is None where it cannot be told."""

    distance: float | None
    threshold: float
    measure: str

    @property
    def verdict(self) -> Literal["drifted", "steady", "unknown"]:
        if self.distance is None or math.isnan(self.distance):
            return "unknown"
        return "drifted" if self.distance > self.threshold else "steady"


@dataclass(frozen=True)
class Column:
    """What the page shows of a column; `missing` is None when nothing describes it."""

    name: str
    role: str
    kind: Kind
    missing: float | None
    facts: tuple[tuple[str, str], ...]
    chart: Markup
    drift: Drift | None
    privacy: str
    findings: tuple[Finding, ...]


def columns_from_statistics(
    current: statistics_pb2.DatasetFeatureStatisticsList,
    released: statistics_pb2.DatasetFeatureStatisticsList | None,
    *,
    roles: Mapping[str, str],
    drift: Mapping[str, Drift],
    privacy: Mapping[str, str],
    notes: Mapping[str, Sequence[str]],
    days: Mapping[str, Days] | None = None,
) -> tuple[Column, ...]:
    """A Column for each name of `roles` in its order, then for those that have no role, then for those that privacy dropped.

    `privacy` says what became of `column` or `source.column`, `notes` what the schema has against it, `days` the rows of each
    day of a column of dates. Statistics of a column whose role is date or time are read as seconds since 1970.
    """
    days = days or {}
    described = _features(current)
    before = _features(released) if released else {}
    examples = int(current.datasets[0].num_examples) if current.datasets else 0
    done = {_own_name(name, {*described, *days}): what for name, what in privacy.items()}
    names = list(dict.fromkeys([*roles, *described, *days, *done]))
    return tuple(
        _column(
            name,
            roles.get(name, "unused"),
            (described.get(name), before.get(name)),
            drift.get(name),
            done.get(name, ""),
            notes.get(name, ()),
            days.get(name),
            examples,
        )
        for name in names
    )


def _features(statistics: statistics_pb2.DatasetFeatureStatisticsList) -> dict[str, Feature]:
    return {feature.path.step[0]: feature for data in statistics.datasets[:1] for feature in data.features}


def _own_name(named: str, known: set[str]) -> str:
    """The table's name of a column that privacy may name together with its source."""
    own = named.rpartition(".")[2]
    return own if named not in known and own in known else named


def _column(
    name: str,
    role: str,
    features: tuple[Feature | None, Feature | None],
    drift: Drift | None,
    privacy: str,
    notes: Sequence[str],
    days: Days | None,
    examples: int,
) -> Column:
    now, was = features
    missing = _missing(now) if now is not None else max(1 - sum(days.values()) / examples, 0.0) if days and examples else None
    if now is not None and (was is None or now.WhichOneof("stats") != was.WhichOneof("stats") or _missing(was) == 1):
        was = None  # nothing to lay beside it
    look = look_at_column(role, now, was, days)
    findings = [Finding("schema", note) for note in notes]
    if role != "unused":
        findings += _drifted(drift, look.change)
        findings += _absent(missing, _missing(features[1]) if features[1] is not None else None)
        findings += [found for found in look.findings if role in FEATURES]
    return Column(name, role, look.kind, missing, look.facts, look.chart, drift, privacy, tuple(findings))


def _drifted(drift: Drift | None, change: str) -> Iterator[Finding]:
    if drift and drift.verdict == "drifted":
        yield Finding(
            "drift",
            "drifted from the last release" + (f": {change}" if change else ""),
            f"{drift.distance:.2g}",
            drift.distance or 0,
        )


def _absent(missing: float | None, was: float | None) -> Iterator[Finding]:
    if missing is None:
        return
    grown = was is not None and missing - was > MORE
    told = f"missing in {percent(missing)} of the rows" + (
        f", {percent(was)} in the last release" if grown and was is not None else ""
    )
    if missing == 1:
        yield Finding("empty", "every value is missing" + (" and was not in the last release" if grown else ""))
    elif missing > MOSTLY or grown:
        yield Finding("missing", told, percent(missing), missing)


def _missing(feature: Feature) -> float:
    kind = feature.WhichOneof("stats")
    if kind is None:
        return 1.0
    common = getattr(feature, kind).common_stats
    total = common.num_missing + common.num_non_missing
    return common.num_missing / total if total else 1.0

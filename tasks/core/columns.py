"""What the data report says of each column: facts, a picture and what stands out, from TFDV's statistics."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal

from markupsafe import Markup
from tensorflow_metadata.proto.v0 import statistics_pb2
from tensorflow_metadata.proto.v0.statistics_pb2 import FeatureNameStatistics as Feature

from tasks.core import svg
from tasks.core.bins import choose_bins, tenth_bins
from tasks.core.svg import Word, percent, short

MOSTLY = 0.5  # missing beyond this share stands out
MORE = 0.1  # and so does as much more than in the last release
FEATURES = {"number", "category", "date", "text"}  # roles of what a model learns from
WORDS, LETTERS = 8, 120  # shown of a column, and of a word

Kind = Literal["number", "text", "date", "not in the table"]
# What a finding is about, the gravest first, and how the page's list begins a line of them.
About = Literal["schema", "drift", "empty", "missing", "infinite", "constant", "identifier"]


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
class Finding:
    """Something of a column to look at; `brief` stands behind its name in the list at the top, the weightiest first."""

    about: About
    words: str
    brief: str = ""
    weight: float = 0.0


@dataclass(frozen=True)
class Column:
    """What the page shows of a column; `missing` is None when it is not in the table."""

    name: str
    role: str
    kind: Kind
    missing: float | None
    facts: tuple[tuple[str, str], ...]
    chart: Markup
    drift: Drift | None
    privacy: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class _Look:
    """What the statistics alone say of a column: facts, picture, what changed most, what stands out, and if it is constant."""

    kind: Kind
    facts: tuple[tuple[str, str], ...]
    chart: Markup
    change: str = ""
    findings: tuple[Finding, ...] = ()


Days = Mapping[date, int]


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
    look = _look(role, now, was, days, missing)
    findings = [Finding("schema", note) for note in notes]
    if role != "unused":
        findings += _drifted(drift, look.change)
        findings += _absent(missing, _missing(features[1]) if features[1] is not None else None)
        findings += [found for found in look.findings if role in FEATURES]
    return Column(name, role, look.kind, missing, look.facts, look.chart, drift, privacy, tuple(findings))


def _look(role: str, now: Feature | None, was: Feature | None, days: Days | None, missing: float | None) -> _Look:
    if days:
        return _dates(days)
    if now is None:
        return _Look("not in the table" if missing is None else "date", (), Markup(""))
    match now.WhichOneof("stats"):
        case "num_stats":
            return _number(now, was, "date" if role in ("date", "time") else "number")
        case "string_stats" | "bytes_stats" | None:
            return _text(now, was, role)
        case kind:
            raise AssertionError(f"TFDV described column {now.path.step[0]!r} by {kind!r}")


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


def _number(now: Feature, was: Feature | None, kind: Kind) -> _Look:
    stats, told = now.num_stats, _day if kind == "date" else short
    present = stats.common_stats.num_non_missing
    if not present:
        return _Look(kind, (), Markup(""))
    tenths = tenth_bins(stats)
    middle = (tenths[0].high, stats.median, tenths[-1].low) if tenths else None
    spread = (("mean", told(stats.mean)), ("sd", short(stats.std_dev)), ("zeros", percent(stats.num_zeros / present)))
    facts = [
        ("min", told(stats.min)),
        *([("10%", told(middle[0]))] if middle else []),
        ("median", told(stats.median)),
        *([("90%", told(middle[2]))] if middle else []),
        ("max", told(stats.max)),
        *(spread if kind == "number" else ()),
        *_distinct(now),
    ]
    findings = []
    if odd := _no_numbers(stats):
        facts.append(("infinite", f"{odd:,}"))
        findings.append(Finding("infinite", f"{odd:,} values are infinite or not a number", f"{odd:,}"))
    if stats.min == stats.max:
        findings.append(Finding("constant", f"every value is {told(stats.min)}", told(stats.min)))
    change = f"mean {told(stats.mean)}, was {told(was.num_stats.mean)}" if was is not None else ""
    return _Look(
        kind, tuple(facts), _picture(stats, was.num_stats if was is not None else None, middle, told), change, tuple(findings)
    )


def _picture(
    stats: statistics_pb2.NumericStatistics,
    was: statistics_pb2.NumericStatistics | None,
    middle: tuple[float, float, float] | None,
    told: Callable[[float], str],
) -> Markup:
    """A histogram; of two whole numbers, such as a flag, two bars."""
    picture = choose_bins(stats, was)
    if picture is None:
        return Markup("")
    if len(picture.bins) == 2 and picture.bins[0].name:
        words = [
            Word(one.name, round(one.rows), one.share, picture.was[place].share if picture.was else None)
            for place, one in enumerate(picture.bins)
        ]
        return svg.word_bars(words, None)
    return svg.histogram(picture, middle, told)


def _no_numbers(stats: statistics_pb2.NumericStatistics) -> int:
    """How many values are infinite or NaN, as far as the statistics tell: at least one when an end or the mean is none."""
    standard = [histogram for histogram in stats.histograms if histogram.type == statistics_pb2.Histogram.STANDARD]
    buckets = [bucket for histogram in standard for bucket in histogram.buckets]
    endless = sum(round(b.sample_count) for b in buckets if math.isinf(b.low_value) or math.isinf(b.high_value))
    known = endless + sum(int(histogram.num_nan) for histogram in standard)
    return known or int(not all(map(math.isfinite, (stats.min, stats.max, stats.mean))))


def _text(now: Feature, was: Feature | None, role: str) -> _Look:
    stats = now.string_stats
    present = stats.common_stats.num_non_missing
    if not present:
        return _Look("text", (), Markup(""))
    distinct = int(stats.unique)
    top = [(_shown(word.value), int(word.frequency), word.value) for word in stats.top_values]
    before = _shares(was.string_stats) if was is not None else None
    words = [
        Word(text, rows, rows / present, before.get(raw, 0.0) if before is not None else None) for text, rows, raw in top[:WORDS]
    ]
    left = present - sum(word.rows for word in words)
    others = Word(f"{distinct - len(words):,} others", left, left / present) if distinct > len(words) and left > 0 else None
    facts = [("distinct", f"{distinct:,}"), ("mean length", short(round(stats.avg_length, 1)))]
    if words:
        facts.append(("top word", percent(words[0].share)))
    findings = []
    if distinct == 1 and words:
        findings.append(Finding("constant", f"every value is {_shown(top[0][2], 40)}", _shown(top[0][2], 20)))
    if distinct == present > 20 and role == "category":
        findings.append(Finding("identifier", "no value stands in two rows: nothing can be learned of it"))
    change = _moved(_shares(stats), before) if before is not None else ""
    return _Look("text", tuple(facts), svg.word_bars(words, others), change, tuple(findings))


def _shares(stats: statistics_pb2.StringStatistics) -> dict[str, float]:
    """The share of each word that the statistics name."""
    present = stats.common_stats.num_non_missing or 1
    named = {bucket.label: bucket.sample_count / present for bucket in stats.rank_histogram.buckets}
    return named or {word.value: word.frequency / present for word in stats.top_values}


def _moved(now: Mapping[str, float], was: Mapping[str, float]) -> str:
    """The word whose share changed most."""
    word = max({**now, **was}, key=lambda word: abs(now.get(word, 0) - was.get(word, 0)), default=None)
    return "" if word is None else f"most of all {_shown(word, 40)}: {percent(now.get(word, 0))}, was {percent(was.get(word, 0))}"


def _shown(word: str, letters: int = LETTERS) -> str:
    """The word so that it can be seen, and not too much of it."""
    if not word.strip() or word != word.strip():
        word = f"“{word}”"
    return word if len(word) <= letters else f"{word[:letters]}… ({len(word):,} characters)"


def _dates(days: Days) -> _Look:
    facts = (("first", str(min(days))), ("last", str(max(days))), ("days", f"{sum(map(bool, days.values())):,}"))
    constant = (Finding("constant", f"every value is {min(days)}", str(min(days))),) if len(days) == 1 else ()
    return _Look("date", facts, svg.calendar(days), findings=constant)


def _day(seconds: float) -> str:
    """The day of a moment that is given in seconds since 1970."""
    try:
        return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds):%Y-%m-%d}"
    except (OverflowError, ValueError):  # no such year, or not a number
        return short(seconds)


def _distinct(feature: Feature) -> list[tuple[str, str]]:
    """The number of distinct values where the statistics carry it, as TFDV does not for numbers, under custom_stats."""
    return [("distinct", f"{stat.num:,.0f}") for stat in feature.custom_stats if stat.name == "distinct"]


def _missing(feature: Feature) -> float:
    kind = feature.WhichOneof("stats")
    if kind is None:
        return 1.0
    common = getattr(feature, kind).common_stats
    total = common.num_missing + common.num_non_missing
    return common.num_missing / total if total else 1.0

"""What TFDV's statistics of one column say by themselves: facts, a picture, and what is odd."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal

from markupsafe import Markup
from tensorflow_metadata.proto.v0 import statistics_pb2
from tensorflow_metadata.proto.v0.statistics_pb2 import FeatureNameStatistics as Feature

from tasks.core import svg
from tasks.core.bins import choose_bins, tenth_bins
from tasks.core.svg import Word, percent, short

WORDS, LETTERS = 8, 120  # shown of a column, and of a word

Days = Mapping[date, int]
Kind = Literal["number", "text", "date", "not described"]
# What a finding is about, the gravest first.
About = Literal["schema", "drift", "empty", "missing", "infinite", "constant", "identifier"]


@dataclass(frozen=True)
class Finding:
    """Something of a column to look at; `brief` stands behind its name in the list at the top, the weightiest first."""

    about: About
    words: str
    brief: str = ""
    weight: float = 0.0


@dataclass(frozen=True)
class Look:
    """What the statistics alone say of a column: facts, picture, what changed most, and what stands out."""

    kind: Kind
    facts: tuple[tuple[str, str], ...]
    chart: Markup
    change: str = ""
    findings: tuple[Finding, ...] = ()


def look_at_column(role: str, now: Feature | None, was: Feature | None, days: Days | None) -> Look:
    """The look of now, the last release's statistics laid beside it where there are some that can be."""
    if days:
        return _dates(days)
    if now is None:
        return Look("not described", (), Markup(""))
    match now.WhichOneof("stats"):
        case "num_stats":
            return _number(now, was, "date" if role in ("date", "time") else "number")
        case "string_stats" | "bytes_stats" | None:
            return _text(now, was, role)
        case kind:
            raise AssertionError(f"TFDV described column {now.path.step[0]!r} by {kind!r}")


def _number(now: Feature, was: Feature | None, kind: Kind) -> Look:
    stats, told = now.num_stats, _day if kind == "date" else short
    present = stats.common_stats.num_non_missing
    if not present:
        return Look(kind, (), Markup(""))
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
    return Look(
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


def _text(now: Feature, was: Feature | None, role: str) -> Look:
    stats = now.string_stats
    present = stats.common_stats.num_non_missing
    if not present:
        return Look("text", (), Markup(""))
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
    return Look("text", tuple(facts), svg.word_bars(words, others), change, tuple(findings))


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


def _dates(days: Days) -> Look:
    facts = (("first", str(min(days))), ("last", str(max(days))), ("days", f"{sum(map(bool, days.values())):,}"))
    constant = (Finding("constant", f"every value is {min(days)}", str(min(days))),) if len(days) == 1 else ()
    return Look("date", facts, svg.calendar(days), findings=constant)


def _day(seconds: float) -> str:
    """The day of a moment that is given in seconds since 1970."""
    try:
        return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds):%Y-%m-%d}"
    except (OverflowError, ValueError):  # no such year, or not a number
        return short(seconds)


def _distinct(feature: Feature) -> list[tuple[str, str]]:
    """The number of distinct values where the statistics carry it, as TFDV does not for numbers, under custom_stats."""
    return [("distinct", f"{stat.num:,.0f}") for stat in feature.custom_stats if stat.name == "distinct"]

"""The data report: one HTML page that opens offline, from TFDV statistics; every picture is inline SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from tensorflow_metadata.proto.v0 import statistics_pb2

from tasks.core.contract import Violation

ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Column:
    """What the page shows of a column: facts as (label, value), bars as (label, share of the tallest, rows)."""

    name: str
    role: str
    missing: float
    facts: tuple[tuple[str, str], ...]
    bars: tuple[tuple[str, float, int], ...]
    wide: bool  # bars are a histogram, to stand side by side, not a list of words


def render(
    *,
    title: str,
    counts: dict[str, Any],
    statistics: statistics_pb2.DatasetFeatureStatisticsList,
    roles: dict[str, str],
    violations: Sequence[Violation],
    rate: Sequence[tuple[str, float, int]],
    target: str,
) -> str:
    """The page as text. `rate` is the target's mean for each week: (first day, share, rows)."""
    features = sorted(
        statistics.datasets[0].features,
        key=lambda feature: list(roles).index(feature.path.step[0]) if feature.path.step[0] in roles else len(roles),
    )
    columns = [_column(feature, roles.get(feature.path.step[0], "kept")) for feature in features]
    order = {"target": 0, "number": 1, "category": 2, "slice": 3, "kept": 4}
    columns.sort(key=lambda column: order[column.role])
    return ENVIRONMENT.get_template("data.html").render(
        title=title, counts=counts, columns=columns, violations=violations, rate=rate, line=_line(rate), target=target
    )


def _column(feature: statistics_pb2.FeatureNameStatistics, role: str) -> Column:
    name = feature.path.step[0]
    match feature.WhichOneof("stats"):
        case "num_stats":
            return _number(name, role, feature.num_stats)
        case "string_stats":
            return _text(name, role, feature.string_stats)
        case kind:
            raise AssertionError(f"TFDV described column {name!r} by {kind!r}")


def _number(name: str, role: str, stats: statistics_pb2.NumericStatistics) -> Column:
    facts = [("mean", stats.mean), ("sd", stats.std_dev), ("min", stats.min), ("median", stats.median), ("max", stats.max)]
    histogram = next((h for h in stats.histograms if h.type == statistics_pb2.Histogram.STANDARD), None)
    buckets = list(histogram.buckets) if histogram else []
    tallest = max((bucket.sample_count for bucket in buckets), default=1) or 1
    bars = [(f"{_short(b.low_value)} to {_short(b.high_value)}", b.sample_count / tallest, round(b.sample_count)) for b in buckets]
    zeros = (("zeros", f"{stats.num_zeros:,}"),)
    return Column(name, role, _missing(stats.common_stats), (*((k, _short(v)) for k, v in facts), *zeros), tuple(bars), wide=True)


def _text(name: str, role: str, stats: statistics_pb2.StringStatistics) -> Column:
    top = [(word.value, int(word.frequency)) for word in stats.top_values[:8]]
    tallest = max((count for _, count in top), default=1)
    facts = (("distinct", f"{stats.unique:,}"), ("mean length", _short(stats.avg_length)))
    return Column(name, role, _missing(stats.common_stats), facts, tuple((w, n / tallest, n) for w, n in top), wide=False)


def _missing(common: statistics_pb2.CommonStatistics) -> float:
    total = common.num_missing + common.num_non_missing
    return common.num_missing / total if total else 1.0


def _short(value: float) -> str:
    """Whole numbers whole (years without a comma), others to four digits."""
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.0f}"
    return f"{value:,.4g}"


def _line(rate: Sequence[tuple[str, float, int]]) -> str:
    """SVG points of the rates in a box of 1000 x 200, zero at the bottom."""
    top = max((share for _, share, _ in rate), default=0.0) * 1.1 or 1.0
    step = 1000 / max(len(rate) - 1, 1)
    return " ".join(f"{i * step:.1f},{200 - 200 * share / top:.1f}" for i, (_, share, _) in enumerate(rate))

"""Which bars to draw of a number: TFDV's buckets, made to fit one another, whole numbers, and distributions with a long tail."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tensorflow_metadata.proto.v0.statistics_pb2 import Histogram, NumericStatistics

PARTS = 20  # of an axis, where TFDV's own buckets do not fit it
MOST_NUMBERS = 60  # whole numbers that have a bar each
CROWDED = 0.6  # share of one bucket from which on the others tell nothing


@dataclass(frozen=True)
class Bin:
    """Part of a histogram: the rows between two values, and what share they are of those that have a value; perhaps a name."""

    low: float
    high: float
    rows: float
    share: float
    name: str = ""


@dataclass(frozen=True)
class Picture:
    """Bins of now and, on the same axis, of the last release, or none; `beyond` says what the axis leaves out."""

    bins: list[Bin]
    was: list[Bin]
    beyond: str = ""


def choose_bins(now: NumericStatistics, was: NumericStatistics | None) -> Picture | None:
    """The bins that show most: one for each of a few whole numbers; without the tail that would crowd all others into one."""
    bins = standard_bins(now)
    before = standard_bins(was) if was is not None else []
    if not bins or not math.isfinite(max(one.high for one in (*bins, *before)) - min(one.low for one in (*bins, *before))):
        return None  # the ends are further apart than a number can say
    if whole := _whole_numbers(bins, before):
        return Picture([one for one, _ in whole], [then for _, then in whole] if before else [])
    tenths = tenth_bins(now)
    if tenths and max(one.share for one in bins) > CROWDED and (axis := _without_tail(tenths)):
        edges = _edges(*axis)
        said = [
            f"a tenth of the rows lies {where}" for where, cut in zip(("below", "above"), _cut(tenths, axis), strict=True) if cut
        ]
        tenths_before = tenth_bins(was) if was is not None else []
        return Picture(_spread(tenths, edges), _spread(tenths_before or before, edges) if before else [], ", ".join(said))
    if before and not _same_edges(bins, before):
        edges = _edges(min(bins[0].low, before[0].low), max(bins[-1].high, before[-1].high))
        return Picture(_spread(bins, edges), _spread(before, edges))
    return Picture(bins, before)


def standard_bins(stats: NumericStatistics) -> list[Bin]:
    """TFDV's buckets of equal width, the finite ones."""
    return _bins(stats, Histogram.STANDARD)


def tenth_bins(stats: NumericStatistics) -> list[Bin]:
    """TFDV's buckets of equal rows, when they are ten and finite; else none."""
    bins = _bins(stats, Histogram.QUANTILES)
    return bins if len(bins) == 10 else []


def _bins(stats: NumericStatistics, kind: int) -> list[Bin]:
    buckets = next((histogram.buckets for histogram in stats.histograms if histogram.type == kind), ())
    present = stats.common_stats.num_non_missing or 1
    return [
        Bin(bucket.low_value, bucket.high_value, bucket.sample_count, min(bucket.sample_count / present, 1.0))
        for bucket in buckets
        if all(map(math.isfinite, (bucket.low_value, bucket.high_value, bucket.sample_count)))
    ]


def _whole_numbers(bins: Sequence[Bin], was: Sequence[Bin]) -> list[tuple[Bin, Bin]]:
    """A bin for each of a few whole numbers, now and in the last release, when the values can be no others; else none."""
    low, high = min(one.low for one in (*bins, *was)), max(one.high for one in (*bins, *was))
    wide = max(one.high - one.low for one in (*bins, *was))
    if not (low.is_integer() and high.is_integer() and 1 <= high - low < MOST_NUMBERS and wide < 1):
        return []  # of buckets as wide as 1 or wider, one could hold two of the numbers
    numbers = range(int(low), int(high) + 1)
    if any(_share_between(some, numbers) > 0.01 for some in (bins, was)):
        return []
    return list(zip(_at_numbers(bins, numbers), _at_numbers(was, numbers), strict=True))


def _share_between(bins: Sequence[Bin], numbers: Sequence[int]) -> float:
    """The share that lies where none of the numbers does; the sketch behind TFDV's buckets leaves traces there."""
    return sum(one.share for one in bins if not any(_touches(one, number) for number in numbers))


def _at_numbers(bins: Sequence[Bin], numbers: Sequence[int]) -> list[Bin]:
    """The rows at each number, what the sketch spilled between them given back in proportion."""
    near = [[one for one in bins if _touches(one, number)] for number in numbers]
    rows = [sum(one.rows for one in some) for some in near]
    whole, all_rows = sum(rows) or 1, sum(one.rows for one in bins)
    return [
        Bin(number - 0.5, number + 0.5, all_rows * some / whole, some / whole, str(number))
        for number, some in zip(numbers, rows, strict=True)
    ]


def _touches(one: Bin, number: int) -> bool:
    return one.low - 1e-9 <= number <= one.high + 1e-9


def _without_tail(tenths: Sequence[Bin]) -> tuple[float, float] | None:
    """The axis without its first or last tenth of the rows, where that is longer than all between them; None when neither is."""
    inner = tenths[-1].low - tenths[0].high
    low = tenths[0].high if tenths[0].high - tenths[0].low > inner else tenths[0].low
    high = tenths[-1].low if tenths[-1].high - tenths[-1].low > inner else tenths[-1].high
    return (low, high) if inner > 0 and (low, high) != (tenths[0].low, tenths[-1].high) else None


def _cut(tenths: Sequence[Bin], axis: tuple[float, float]) -> tuple[bool, bool]:
    return axis[0] > tenths[0].low, axis[1] < tenths[-1].high


def _same_edges(bins: Sequence[Bin], was: Sequence[Bin]) -> bool:
    return [(one.low, one.high) for one in bins] == [(one.low, one.high) for one in was]


def _edges(low: float, high: float) -> list[float]:
    if low == high:
        low, high = low - 0.5, high + 0.5
    return [low + (high - low) * place / PARTS for place in range(PARTS)] + [high]


def _spread(bins: Sequence[Bin], edges: Sequence[float]) -> list[Bin]:
    """The bins' rows on other bins, those of each taken to lie evenly in it; what lies beyond the edges is lost."""
    rows, shares = [0.0] * (len(edges) - 1), [0.0] * (len(edges) - 1)
    for one in bins:
        for place, (low, high) in enumerate(pairwise(edges)):
            if one.high > one.low:
                part = max(min(one.high, high) - max(one.low, low), 0.0) / (one.high - one.low)
            else:
                last = place == len(edges) - 2
                part = float(low <= one.low < high or (last and one.low == high))
            rows[place] += one.rows * part
            shares[place] += one.share * part
    return [Bin(low, high, rows[place], shares[place]) for place, (low, high) in enumerate(pairwise(edges))]

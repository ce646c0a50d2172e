"""Statistics as TFDV makes them, by hand, for tests of what is made of them."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from tensorflow_metadata.proto.v0.statistics_pb2 import (
    DatasetFeatureStatistics,
    DatasetFeatureStatisticsList,
    FeatureNameStatistics,
    Histogram,
)


def number(name: str, values: Sequence[float], missing: int = 0) -> FeatureNameStatistics:
    """A number's statistics: ten buckets of equal width and ten of equal rows; the values are finite."""
    feature = FeatureNameStatistics(type="FLOAT")
    feature.path.step.append(name)
    stats, ranked = feature.num_stats, sorted(values)
    stats.common_stats.num_missing, stats.common_stats.num_non_missing = missing, len(values)
    if not ranked:
        return feature
    stats.mean = sum(values) / len(values)
    stats.std_dev = (sum((value - stats.mean) ** 2 for value in values) / len(values)) ** 0.5
    stats.min, stats.median, stats.max = ranked[0], ranked[len(ranked) // 2], ranked[-1]
    stats.num_zeros = sum(value == 0 for value in values)
    equal = stats.histograms.add(type=Histogram.STANDARD)
    width = (stats.max - stats.min) / 10
    places = Counter(min(int((value - stats.min) / width), 9) if width else 0 for value in values)
    for place in range(10 if width else 1):
        high = stats.max if place == 9 or not width else stats.min + width * (place + 1)
        equal.buckets.add(low_value=stats.min + width * place, high_value=high, sample_count=places[place])
    tenths = stats.histograms.add(type=Histogram.QUANTILES)
    cuts = [ranked[min(len(ranked) * place // 10, len(ranked) - 1)] for place in range(11)]
    for low, high in pairwise(cuts):
        tenths.buckets.add(low_value=low, high_value=high, sample_count=len(ranked) / 10)
    return feature


def text(name: str, counts: dict[str, int], missing: int = 0, distinct: int | None = None) -> FeatureNameStatistics:
    """A text's statistics, the words with how often they stand; `distinct` when there are more than the words."""
    feature = FeatureNameStatistics(type="STRING")
    feature.path.step.append(name)
    stats = feature.string_stats
    stats.common_stats.num_missing, stats.common_stats.num_non_missing = missing, sum(counts.values())
    stats.unique = distinct or len(counts)
    stats.avg_length = sum(len(word) * rows for word, rows in counts.items()) / (sum(counts.values()) or 1)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    for rank, (word, rows) in enumerate(ranked[:1000]):
        stats.rank_histogram.buckets.add(low_rank=rank, high_rank=rank, label=word, sample_count=rows)
        if rank < 20:
            stats.top_values.add(value=word, frequency=rows)
    return feature


def described(*features: FeatureNameStatistics) -> DatasetFeatureStatisticsList:
    rows = max((_rows(feature) for feature in features), default=0)
    return DatasetFeatureStatisticsList(datasets=[DatasetFeatureStatistics(num_examples=rows, features=features)])


def _rows(feature: FeatureNameStatistics) -> int:
    common = getattr(feature, feature.WhichOneof("stats")).common_stats
    return int(common.num_missing + common.num_non_missing)

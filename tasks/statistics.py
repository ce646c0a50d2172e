"""TFDV, in one place: statistics of a table, the schema inferred from them, and what of them a schema forbids."""

import pandas as pd
import pyarrow as pa
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2

TOP, RANKED = 20, 1000  # words kept of a column, as TFDV keeps them


def to_frame(table: pa.Table, *, time: str, numbers: tuple[str, ...]) -> pd.DataFrame:
    """The table as TFDV is to see it: numbers as float64 whatever their values, the time (no feature) left out."""
    frame = table.drop([time]).to_pandas()
    return frame.astype(dict.fromkeys(numbers, "float64"))


def describe(frame: pd.DataFrame) -> statistics_pb2.DatasetFeatureStatisticsList:
    """TFDV statistics of every column; the same frame gives the same message."""
    described = tfdv.generate_statistics_from_dataframe(frame, n_jobs=1)
    for feature in described.datasets[0].features:
        if feature.HasField("string_stats"):
            _rank(feature.string_stats, frame[feature.path.step[0]])
    return described


def _rank(stats: statistics_pb2.StringStatistics, words: pd.Series) -> None:
    """The most frequent words, equally frequent ones by name: TFDV orders those, and cuts among them, by chance."""
    ranked = sorted(words.dropna().value_counts().items(), key=lambda item: (-item[1], item[0]))[:RANKED]
    del stats.top_values[:]
    del stats.rank_histogram.buckets[:]
    for rank, (word, count) in enumerate(ranked):
        stats.rank_histogram.buckets.add(low_rank=rank, high_rank=rank, label=word, sample_count=count)
        if rank < TOP:
            stats.top_values.add(value=word, frequency=count)


def infer_schema(statistics: statistics_pb2.DatasetFeatureStatisticsList) -> schema_pb2.Schema:
    """A first schema for a person to review: types, presence, and words of the columns that have few."""
    return tfdv.infer_schema(statistics)


def find_anomalies(
    statistics: statistics_pb2.DatasetFeatureStatisticsList, schema: schema_pb2.Schema
) -> dict[str, anomalies_pb2.AnomalyInfo]:
    """What the schema forbids, by column."""
    return dict(tfdv.validate_statistics(statistics, schema).anomaly_info)

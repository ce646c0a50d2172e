"""TFDV, in one place: statistics of a table that comes in shards, the schema inferred from them, and what a schema forbids."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow_data_validation as tfdv
from google.protobuf import message
from tensorflow_data_validation.statistics import stats_impl
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2

from tasks.core.errors import DataError

TOP, RANKED = 20, 1000  # words kept of a column, as TFDV keeps them
CUT = 100  # characters that a text counts as a word with
COUNTED = 2_000_000  # distinct words of all columns that are counted at a time
DOMAIN = 100  # words of a column, at most, that are taken for all there are
SEEN = 5  # rows of the rarest word, below which others of its kind are likely to come
COMMON = 0.95  # share of the rows whose words must then be known ones

# The generators that tfdv.generate_statistics_from_dataframe would use: of values and their presence, and of distinct words.
BASIC, WORDS = stats_impl.get_generators(tfdv.StatsOptions(), in_memory=True)


@dataclass
class Sketch:
    """What is known of the columns of some rows, small whatever their number: sketches of TFDV, and counted words."""

    basic: Any = None
    distinct: Any = None
    words: dict[str, Counter[str]] = field(default_factory=dict)
    lossy: set[str] = field(default_factory=set)  # columns of which rare words were forgotten
    seconds: float = 0.0

    def add(self, other: "Sketch") -> None:
        """What is known of later rows counts here too; the order of the rows is that of the calls."""
        started = time.perf_counter()
        self.basic = _merged(BASIC, self.basic, other.basic)
        self.distinct = _merged(WORDS, self.distinct, other.distinct)
        self.seconds += other.seconds + time.perf_counter() - started
        for name, counts in other.words.items():
            self.words.setdefault(name, Counter()).update(counts)
            if _forget_rare(self.words[name], COUNTED // len(other.words)):
                self.lossy.add(name)


def _merged(generator: Any, mine: Any, theirs: Any) -> Any:
    """The accumulator of the rows of both; None stands for no row."""
    there = [one for one in (mine, theirs) if one is not None]
    return generator.merge_accumulators(there) if there else None


def _forget_rare(counts: Counter[str], most: int) -> bool:
    """Counting stays bounded: the rarest are forgotten when there are too many (Manku and Motwani 2002, lossy counting)."""
    least = 0
    while len(counts) > most:
        least += 1
        for word in [word for word, count in counts.items() if count <= least]:
            del counts[word]
    return least > 0


def as_described(table: pa.Table, *, floats: Iterable[str], time: str | None) -> pa.Table:
    """The table as TFDV is to see it: `floats` and dates, in seconds since 1970, as float64; the time, and what is neither
    number nor text, left out."""
    columns: dict[str, pa.ChunkedArray] = {}
    chosen = set(floats)
    for name, values in zip(table.column_names, table.columns, strict=True):
        kind = values.type
        if name == time:
            continue
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            micro = values.cast(pa.timestamp("us")).cast(pa.int64())
            columns[name] = pc.divide(micro.cast(pa.float64(), safe=False), 1e6)
        elif name in chosen or pa.types.is_floating(kind):
            columns[name] = values.cast(pa.float64(), safe=False)
        elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            columns[name] = values.cast(pa.int64(), safe=False)
        elif pa.types.is_string(kind) or pa.types.is_null(kind):
            columns[name] = values.cast(pa.string())
    return pa.table(columns)


def sketch(table: pa.Table, *, texts: Iterable[str]) -> Sketch:
    """What is known of a shard, typed as TFDV is to see it; `texts` are counted by their first characters."""
    found = Sketch()
    if not table.num_rows:
        return found
    cut = set(texts)
    text = [name for name in table.column_names if pa.types.is_string(table.schema.field(name).type)]
    words = {name: pc.utf8_slice_codeunits(table[name], 0, CUT) if name in cut else table[name] for name in text}
    counts = {name: pc.value_counts(_one(values.drop_null())) for name, values in words.items()}
    started = time.perf_counter()
    found.basic = _fed(BASIC, {name: _as_lists(_one(table[name])) for name in table.column_names})
    if words:
        # Each word once: of this generator only the number of distinct words is of use, which frequency does not change.
        rows = max(map(len, counts.values()))
        found.distinct = _fed(WORDS, {name: _padded(_as_lists(one.field(0)), rows) for name, one in counts.items()})
    found.seconds = time.perf_counter() - started
    for name, one in counts.items():
        found.words[name] = Counter(dict(zip(one.field(0).to_pylist(), one.field(1).to_pylist(), strict=True)))
    return found


def _fed(generator: Any, columns: Mapping[str, pa.Array]) -> Any:
    """The generator's accumulator of one batch of rows."""
    batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    return generator.compact(generator.add_input(generator.create_accumulator(), batch))


def _padded(lists: pa.Array, rows: int) -> pa.Array:
    return pa.concat_arrays([lists, pa.nulls(rows - len(lists), lists.type)])


def _one(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole


def _as_lists(values: pa.Array) -> pa.Array:
    """A list of one value for each row, none where it is missing."""
    if pa.types.is_string(values.type):
        values = values.cast(pa.binary())
    present = np.asarray(values.is_valid())
    starts = np.concatenate([[0], np.cumsum(present)]).astype(np.int32)
    offsets = pa.array(starts, mask=np.append(~present, False))
    return pa.ListArray.from_arrays(offsets, values.drop_null())


def describe(sketch: Sketch, columns: Iterable[str]) -> statistics_pb2.DatasetFeatureStatisticsList:
    """The statistics of the sketched rows, columns in that order; the same rows in the same shards give the same message."""
    generators = [(BASIC, sketch.basic), (WORDS, sketch.distinct)]
    there = [(generator, accumulator) for generator, accumulator in generators if accumulator is not None]
    described = stats_impl.extract_statistics_output([a for _, a in there], [g for g, _ in there])
    dataset = described.datasets[0]
    by_name = {feature.path.step[0]: feature for feature in dataset.features}
    ordered = [by_name[name] for name in columns if name in by_name]
    for feature in ordered:
        if feature.HasField("string_stats"):
            name = feature.path.step[0]
            counts = sketch.words.get(name, Counter())
            _rank(feature.string_stats, counts)
            if name not in sketch.lossy:
                feature.string_stats.unique = len(counts)
    whole = statistics_pb2.DatasetFeatureStatisticsList()
    whole.CopyFrom(described)
    del whole.datasets[0].features[:]
    whole.datasets[0].features.extend(ordered)
    return whole


def _rank(stats: statistics_pb2.StringStatistics, counts: Counter[str]) -> None:
    """The most frequent words, equally frequent ones by name: TFDV orders those, and cuts among them, by chance."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:RANKED]
    del stats.top_values[:]
    del stats.rank_histogram.buckets[:]
    for rank, (word, count) in enumerate(ranked):
        stats.rank_histogram.buckets.add(low_rank=rank, high_rank=rank, label=word, sample_count=count)
        if rank < TOP:
            stats.top_values.add(value=word, frequency=count)


def infer_schema(
    statistics: statistics_pb2.DatasetFeatureStatisticsList, counts: Mapping[str, Counter[str]], *, texts: Iterable[str]
) -> schema_pb2.Schema:
    """A first schema for a person to review: types, presence, and the words of columns that have few.

    Ranges are not guessed, since a new minimum is no fault; and where some words are rare, a few new ones are let pass.
    """
    schema = tfdv.infer_schema(statistics, max_string_domain_size=DOMAIN)
    for feature in schema.feature:
        if feature.WhichOneof("domain_info") != "domain" or feature.name in set(texts):
            feature.ClearField(feature.WhichOneof("domain_info") or "domain")
        elif min(counts[feature.name].values()) < SEEN:
            feature.distribution_constraints.min_domain_mass = COMMON
    used = {feature.domain for feature in schema.feature if feature.WhichOneof("domain_info") == "domain"}
    kept = [domain for domain in schema.string_domain if domain.name in used]
    for domain in kept:
        domain.value[:] = sorted(domain.value)
    del schema.string_domain[:]
    schema.string_domain.extend(kept)
    return schema


def find_anomalies(
    statistics: statistics_pb2.DatasetFeatureStatisticsList, schema: schema_pb2.Schema
) -> dict[str, anomalies_pb2.AnomalyInfo]:
    """What the schema forbids, by column."""
    return dict(tfdv.validate_statistics(statistics, schema).anomaly_info)


@dataclass(frozen=True)
class Distance:
    """How far a column is from what it was, and how far it may be."""

    column: str
    measure: Literal["L-infinity", "Jensen-Shannon"]
    value: float
    threshold: float

    @property
    def beyond(self) -> bool:
        return self.value > self.threshold


def find_drift(
    statistics: statistics_pb2.DatasetFeatureStatisticsList,
    before: statistics_pb2.DatasetFeatureStatisticsList,
    schema: schema_pb2.Schema,
    *,
    categories: Mapping[str, float],
    numbers: Mapping[str, float],
) -> list[Distance]:
    """The distance of each column with a threshold, from the schema's own comparators or else the columns given here."""
    compared = schema_pb2.Schema()
    compared.CopyFrom(schema)
    for feature in compared.feature:
        if feature.HasField("drift_comparator") or feature.HasField("skew_comparator"):
            continue
        if feature.name in categories:
            feature.drift_comparator.infinity_norm.threshold = categories[feature.name]
        elif feature.name in numbers:
            feature.drift_comparator.jensen_shannon_divergence.threshold = numbers[feature.name]
    told = tfdv.validate_statistics(statistics, compared, previous_statistics=before, serving_statistics=before).drift_skew_info
    names: dict[int, Literal["L-infinity", "Jensen-Shannon"]] = {
        anomalies_pb2.DriftSkewInfo.Measurement.L_INFTY: "L-infinity",
        anomalies_pb2.DriftSkewInfo.Measurement.JENSEN_SHANNON_DIVERGENCE: "Jensen-Shannon",
    }
    return [
        Distance(info.path.step[0], names[one.type], one.value, one.threshold)
        for info in told
        for one in (*info.drift_measurements, *info.skew_measurements)
        if one.type in names
    ]


def parse_statistics(content: bytes, where: str) -> statistics_pb2.DatasetFeatureStatisticsList | None:
    """The statistics that the bytes hold, None of no bytes; DataError when they hold something else."""
    if not content:
        return None
    try:
        return statistics_pb2.DatasetFeatureStatisticsList.FromString(content)
    except message.DecodeError as error:
        raise DataError(f"{where} holds no statistics ({error}); delete it and run python -m flows.train again") from error

"""The split of a table that lies in shards: the part of every row, from a pass over the columns that decide it."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.core import split
from tasks.core.errors import DataError
from tasks.core.target import encode_labels
from tasks.params import GroupSplit, RandomSplit, Split, Table, TimeSplit
from tasks.shards import read_shards


def assign_parts(valid: Path, table: Table, how: Split, seed: int) -> NDArray[np.uint8]:
    """The part of each row of the table, by the codes of core.split; one byte a row is all that is held of it."""
    match how:
        case TimeSplit():
            assert table.time is not None
            start = test_start(valid, table.time, how)
            shards = read_shards(valid, [table.time])
            return np.concatenate([split.by_time(_times(one), start, how.validation_every_days) for one in shards])
        case RandomSplit():
            shards = read_shards(valid, [table.target])
            return split.by_chance(np.concatenate([_strata(one, table) for one in shards]), how.test, how.validation, seed)
        case GroupSplit():
            sizes: Counter[Any] = Counter()
            for shard in read_shards(valid, [how.column]):
                counts = pc.value_counts(shard.column(0).combine_chunks())
                sizes.update(dict(zip(*(counts.field(i).to_pylist() for i in (0, 1)), strict=True)))
            parts = split.by_group(sizes, how.test, how.validation, seed)
            return np.concatenate([_of_groups(shard, parts) for shard in read_shards(valid, [how.column])])


def test_start(valid: Path, time: str, how: TimeSplit) -> np.datetime64:
    """Where the test part begins: the day or time that is named, or so many days before the table's newest row."""
    if how.test_from is not None:
        return np.datetime64(how.test_from, "us")
    assert how.test_last_days is not None
    newest = max((_times(one).max() for one in read_shards(valid, [time]) if len(one)), default=np.datetime64(0, "us"))
    return split.last_days(newest, how.test_last_days)


def _times(shard: pa.Table) -> NDArray[np.datetime64]:
    times = shard.column(0)
    if times.null_count:
        raise DataError(
            f"column {shard.column_names[0]!r}, the table's time, is missing in {times.null_count:,} rows; add a rule not_null"
        )
    values: NDArray[np.datetime64] = times.cast(pa.timestamp("us")).to_numpy()
    return values


def _strata(shard: pa.Table, table: Table) -> NDArray[np.int16]:
    """The class of each row; all rows of a regression are alike."""
    if table.task == "regression":
        return np.zeros(len(shard), np.int16)
    return encode_labels(shard.column(0).to_pandas().to_numpy(), table.classes).astype(np.int16)


def _of_groups(shard: pa.Table, parts: dict[Any, int]) -> NDArray[np.uint8]:
    encoded = shard.column(0).combine_chunks().dictionary_encode()
    codes = np.array([parts[group] for group in encoded.dictionary.to_pylist()] + [parts.get(None, 0)], np.uint8)
    chosen: NDArray[np.uint8] = codes[pc.fill_null(encoded.indices, len(encoded.dictionary)).to_numpy()]
    return chosen

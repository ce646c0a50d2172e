"""Columns of a shard as the encoder takes them: floats, seconds, words by their distinct ones, and pixels."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.core.encoder import Encoder, Words


def raw_columns(shard: pa.Table, encoder: Encoder) -> dict[str, NDArray[Any] | Words]:
    """Every column of the encoder."""
    return {
        **{column.name: as_floats(shard.column(column.name)) for column in encoder.numbers},
        **{column.name: as_seconds(shard.column(column.name)) for column in encoder.dates},
        **{column.name: as_words(shard.column(column.name)) for column in encoder.worded},
        **{column.name: column.decode(shard.column(column.name).to_pylist()) for column in encoder.images},
    }


def as_floats(column: pa.Array | pa.ChunkedArray) -> NDArray[np.float64]:
    """Numbers and booleans as float64, NaN where missing; integers beyond 2**53 to the nearest."""
    floats = pc.cast(column, pa.float64(), safe=False)
    floats = pa.chunked_array([floats]) if isinstance(floats, pa.Array) else floats
    values: NDArray[np.float64] = floats.to_numpy()
    return values


def as_seconds(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Dates and times as seconds since 1970, whole ones, NaN where missing."""
    micro = column.cast(pa.timestamp("us")).cast(pa.int64())
    whole: NDArray[np.float64] = np.floor(as_floats(micro) / 1e6)
    return whole


def as_words(column: pa.ChunkedArray) -> Words:
    """Text by its distinct values, None for missing."""
    encoded = column.combine_chunks().dictionary_encode()
    array = encoded if isinstance(encoded, pa.DictionaryArray) else encoded.chunk(0)
    distinct = [*array.dictionary.to_pylist(), None]
    return Words(distinct, pc.fill_null(array.indices, len(distinct) - 1).to_numpy(zero_copy_only=False))

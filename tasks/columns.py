"""Columns of a shard as the encoder takes them: floats, seconds, words by their distinct ones, and pixels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.core.encoder import Encoder, Words
from tasks.core.errors import DataError


def raw_columns(shard: pa.Table, encoder: Encoder) -> dict[str, NDArray[Any] | Words]:
    """Every column of the encoder."""
    return {
        **{column.name: as_floats(shard.column(column.name)) for column in encoder.numbers},
        **{column.name: as_seconds(shard.column(column.name)) for column in encoder.dates},
        **{column.name: as_words(shard.column(column.name)) for column in encoder.worded},
        **{column.name: column.decode(shard.column(column.name).to_pylist()) for column in encoder.images},
    }


def counted_columns(rows: pa.Table, kinds: Mapping[str, str], prefix: str = "") -> dict[str, NDArray[np.float64] | Words]:
    """Those of the columns that the rows have, as they are counted: of a text its characters, of a date NaN where there is none.

    `kinds` says of each what it is: number, category, text or date. DataError for values of another type.
    """
    found: dict[str, NDArray[np.float64] | Words] = {}
    for name, kind in kinds.items():
        if prefix + name not in rows.column_names:
            continue
        column = rows.column(prefix + name)
        try:
            match kind:
                case "number":
                    found[name] = as_floats(column)
                case "category":
                    found[name] = as_words(column if pa.types.is_string(column.type) else column.cast(pa.string()))
                case "text":
                    found[name] = as_floats(pc.utf8_length(column.cast(pa.string())))
                case "date":
                    found[name] = np.where(np.asarray(column.is_valid()), 0.0, np.nan)
                case _:
                    raise AssertionError(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(f"column {name!r} is of type {column.type}; expected a {kind}: {error}") from error
    return found


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

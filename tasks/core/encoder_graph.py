"""The encoder's other executor: the same JSON document as a TensorFlow graph, for a SavedModel that takes raw columns."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tasks.core.encoder import UNKNOWN, CategoryColumn, Encoder, NumberColumn


class GraphEncoder(tf.Module):  # type: ignore[misc]
    """Encodes float64 columns (NaN is missing) and string columns ("" is missing), each [row], as `Encoder.encode` does."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.tables = [_codes(column) for column in encoder.categories]

    @property
    def signature(self) -> dict[str, Any]:
        """The columns that it takes, as tensor specs by name."""
        return {
            **{column.name: tf.TensorSpec((None,), tf.float64, name=column.name) for column in self.encoder.numbers},
            **{column.name: tf.TensorSpec((None,), tf.string, name=column.name) for column in self.encoder.categories},
        }

    def __call__(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        values = {column.name: tf.cast(columns[column.name], tf.float64) for column in self.encoder.numbers}
        missing = {name: tf.math.is_nan(value) for name, value in values.items()}
        num = [tf.where(missing[c.name], 0.0, tf.cast(_position(values[c.name], c), tf.float32)) for c in self.encoder.numbers]
        flags = [tf.cast(missing[c.name], tf.float32) for c in self.encoder.numbers if c.flagged]
        cat = [table.lookup(columns[c.name]) for c, table in zip(self.encoder.categories, self.tables, strict=True)]
        rows = tf.shape(next(iter(columns.values())))[0]
        return {
            "num": tf.stack([*num, *flags], axis=1) if num else tf.zeros((rows, 0), tf.float32),
            "cat": tf.stack(cat, axis=1) if cat else tf.zeros((rows, 0), tf.int32),
        }


def _position(value: Any, column: NumberColumn) -> Any:
    """As `encoder.position`, operation by operation."""
    if len(column.edges) < 2:
        return tf.zeros_like(value)
    edges = tf.constant(column.edges, tf.float64)
    last = len(column.edges) - 1
    low = tf.clip_by_value(tf.searchsorted(edges, value, side="right") - 1, 0, last - 1)
    start, end = tf.gather(edges, low), tf.gather(edges, low + 1)
    share = tf.clip_by_value((value - start) / (end - start), 0.0, 1.0)
    return (tf.cast(low, tf.float64) + share) / last * 2.0 - 1.0


def _codes(column: CategoryColumn) -> Any:
    # "" is missing, so a code for it changes nothing; TensorFlow has no empty table, which a vocabulary of none would need.
    words = tf.constant(["", *column.vocabulary], tf.string)
    codes = tf.constant([UNKNOWN, *range(1, len(column.vocabulary) + 1)], tf.int32)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(words, codes), default_value=UNKNOWN)

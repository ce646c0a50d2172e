"""The encoder's other executor: the same JSON document as a TensorFlow graph, for a SavedModel that takes raw columns."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tasks.core.calendar import DAY, PATTERN, YEAR
from tasks.core.encoder import (
    FARTHEST,
    MISSING,
    OTHER,
    RESERVED,
    SMOOTH_CLIP,
    DateColumn,
    Encoder,
    NumberColumn,
    TextColumn,
    image_input,
)
from tasks.core.images import from_text
from tasks.core.tokens import END, PIECES, SEPARATORS, START

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")  # TensorFlow would change or refuse any other


class GraphEncoder(tf.Module):  # type: ignore[misc]
    """Encodes columns [row] as `Encoder.encode` does: numbers as float64 (NaN is missing), the others as text ("" is missing).

    Images are uint8 [row, height, width, channels], decoded and resized by the caller: TensorFlow's decoders and its resizing
    round otherwise than Pillow's, so that a graph of them would not answer as the service does.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.tables = [_codes(column.vocabulary) for column in encoder.categories]
        self.words = [_codes(column.vocabulary) for column in encoder.texts]
        self.pieces = [_codes(column.pieces) if column.piece_slots else None for column in encoder.texts]

    @property
    def arguments(self) -> dict[str, str]:
        """The name of each column in a signature: its own where TensorFlow takes it, else one that no other column has."""
        own = {name for name in self.encoder.names if _NAME.fullmatch(name)}
        free = (name for i in itertools.count() if (name := f"column_{i}") not in own)
        return {name: name if name in own else next(free) for name in self.encoder.names}

    @property
    def signature(self) -> dict[str, Any]:
        """The arguments as tensor specs by name."""
        numbers = dict.fromkeys((column.name for column in self.encoder.numbers), tf.TensorSpec((None,), tf.float64))
        images = {c.name: tf.TensorSpec((None, c.height, c.width, c.channels), tf.uint8) for c in self.encoder.images}
        specs = {**numbers, **images}
        text = tf.TensorSpec((None,), tf.string)
        return {
            argument: tf.TensorSpec.from_spec(specs.get(name, text), name=argument) for name, argument in self.arguments.items()
        }

    def feed(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The rows, as a client sends them, as the signature's arguments."""
        numbers = {column.name for column in self.encoder.numbers}
        images = {column.name: column for column in self.encoder.images}

        def values(name: str) -> Any:
            if name in images:
                return tf.constant(images[name].decode([from_text(row[name]) for row in rows]))
            if name in numbers:
                return tf.constant([math.nan if row.get(name) is None else row[name] for row in rows], tf.float64)
            return tf.constant([row.get(name) or "" for row in rows], tf.string)

        return {argument: values(name) for name, argument in self.arguments.items()}

    def __call__(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        encoder = self.encoder
        values = {column.name: tf.cast(columns[column.name], tf.float64) for column in encoder.numbers}
        values |= {column.name: _seconds(columns[column.name]) for column in encoder.dates}
        missing = {name: tf.math.is_nan(value) for name, value in values.items()}
        num = [tf.where(missing[c.name], 0.0, tf.cast(_position(values[c.name], c), tf.float32)) for c in encoder.scaled]
        num += [tf.cast(missing[c.name], tf.float32) for c in encoder.scaled if c.flagged]
        for column in encoder.dates:
            num += [tf.where(missing[column.name], 0.0, tf.cast(wave, tf.float32)) for wave in _cycles(values[column.name], column)]
        num += [tf.where(missing[c.name], 0.0, tf.cast(_magnitude(values[c.name], c), tf.float32)) for c in encoder.spread]
        cat = [_look_up(table, columns[c.name]) for c, table in zip(encoder.categories, self.tables, strict=True)]
        parts = [tf.stack(cat, axis=1)] if cat else []
        for text, table, pieces in zip(encoder.texts, self.words, self.pieces, strict=True):
            parts += _slots(columns[text.name], table, pieces, text)
        rows = tf.shape(next(iter(columns.values())))[0]
        return {
            "num": tf.stack(num, axis=1) if num else tf.zeros((rows, 0), tf.float32),
            "cat": tf.concat(parts, axis=1) if parts else tf.zeros((rows, 0), tf.int32),
            **{image_input(i): columns[image.name] for i, image in enumerate(encoder.images)},
        }


def _position(value: Any, column: NumberColumn | DateColumn) -> Any:
    """As `encoder.position`, operation by operation."""
    if len(column.edges) < 2:
        return tf.zeros_like(value)
    edges = tf.constant(column.edges, tf.float64)
    last = len(column.edges) - 1
    low = tf.clip_by_value(tf.searchsorted(edges, value, side="right") - 1, 0, last - 1)
    start, end = tf.gather(edges, low), tf.gather(edges, low + 1)
    share = tf.clip_by_value((value - start) / (end - start), 0.0, 1.0)
    return (tf.cast(low, tf.float64) + share) / last * 2.0 - 1.0


def _magnitude(value: Any, column: NumberColumn) -> Any:
    """As `encoder.magnitude`, operation by operation."""
    far = tf.clip_by_value((value - column.center) / (SMOOTH_CLIP * column.spread), -FARTHEST, FARTHEST)
    return far / tf.sqrt(1.0 + far * far)


def _seconds(text: Any) -> Any:
    """As `calendar.parse_time`; NaN for what is no date. Days since 1970 by H. Hinnant's days_from_civil."""
    fits = tf.strings.regex_full_match(text, PATTERN)
    plain = tf.where(fits, text, "1970-01-01")
    clock = tf.strings.length(plain) > len("1970-01-01Z")
    seconds = clock & (tf.strings.length(plain) > len("1970-01-01T00:00Z"))

    def digits(start: int, length: int, present: Any) -> Any:
        full = tf.where(present, plain, "0000-00-00T00:00:00")
        return tf.strings.to_number(tf.strings.substr(full, start, length), tf.int64)

    whole = tf.ones_like(clock)
    year, month, day = digits(0, 4, whole), digits(5, 2, whole), digits(8, 2, whole)
    shifted = year - tf.cast(month <= 2, tf.int64)
    era = shifted // 400
    of_era = shifted - era * 400
    of_year = (153 * (month + tf.where(month > 2, tf.constant(-3, tf.int64), tf.constant(9, tf.int64))) + 2) // 5 + day - 1
    days = era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468
    total = days * DAY + digits(11, 2, clock) * 3600 + digits(14, 2, clock) * 60 + digits(17, 2, seconds)
    return tf.where(fits, tf.cast(total, tf.float64), tf.constant(math.nan, tf.float64))


def _cycles(seconds: Any, column: DateColumn) -> list[Any]:
    """As `calendar.cycles`, operation by operation."""
    days = tf.floor(seconds / DAY)
    weekday = tf.math.floormod(days + 3.0, tf.constant(7.0, tf.float64))
    tau = tf.constant(2 * math.pi, tf.float64)
    phases = [tau * (seconds / DAY - days), tau * weekday / 7.0, tau * (seconds / YEAR - tf.floor(seconds / YEAR))]
    holidays = tf.constant(column.holidays, tf.float64, shape=(len(column.holidays),))
    free = (weekday >= 5.0) | tf.reduce_any(days[:, None] == holidays[None, :], axis=1)
    return [wave(phase) for phase in phases for wave in (tf.sin, tf.cos)] + [tf.cast(free, tf.float64)]


def _look_up(table: Any, words: Any) -> Any:
    return tf.where(words == "", MISSING, table.lookup(words))


def _slots(text: Any, table: Any, pieces: Any, column: TextColumn) -> list[Any]:
    """The codes of the first words and known pairs of each text [row, slots], and of its known pieces [row, piece_slots]."""
    plain = tf.strings.strip(tf.strings.regex_replace(tf.strings.lower(text), SEPARATORS, " "))
    words = tf.strings.split(plain, " ")
    words = tf.ragged.boolean_mask(words, words != "")
    pairs = tf.strings.ngrams(words, 2, separator=" ")
    found = [_first(tf.concat([table.lookup(words), _known(table, pairs)], axis=1), column.slots)]
    if pieces is not None:
        letters = tf.strings.unicode_split(START + words + END, "UTF-8")
        runs = [tf.strings.ngrams(letters, length, separator="").merge_dims(1, 2) for length in PIECES]
        found.append(_first(tf.concat([_known(pieces, run) for run in runs], axis=1), column.piece_slots))
    return found


def _known(table: Any, words: Any) -> Any:
    codes = table.lookup(words)
    return tf.ragged.boolean_mask(codes, codes != OTHER)


def _first(codes: Any, slots: int) -> Any:
    return codes[:, :slots].to_tensor(MISSING, shape=(None, slots))


def _codes(vocabulary: Sequence[str]) -> Any:
    # "" is missing, so a code for it changes nothing; TensorFlow has no empty table, which a vocabulary of none would need.
    words = tf.constant(["", *vocabulary], tf.string)
    codes = tf.constant([MISSING, *range(RESERVED, len(vocabulary) + RESERVED)], tf.int32)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(words, codes), default_value=OTHER)

"""Arrow columns as the encoder takes them, and answers as Arrow columns; by arro3, which weighs a fifth of pyarrow."""

import difflib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from arro3.core import Array, DataType, RecordBatch, Schema, dictionary_dictionary, dictionary_indices
from numpy.typing import NDArray

from serving.inference import TEXT, answers
from serving.request import refuse_faults
from tasks.core.calendar import DAY, parse_time
from tasks.core.encoder import Encoder, ImageColumn, Words
from tasks.core.images import ImageError, decode_image, from_text
from tasks.core.target import Target, as_text

ID = "id"  # a column that is handed through to the answers
TICKS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}  # of a second
STRING, FLOAT64, INT64 = DataType.string(), DataType.float64(), DataType.int64()


def check_schema(schema: Schema, encoder: Encoder) -> None:
    """RequestError 422 with the columns that are missing, unknown, there twice, or of a type that does not fit."""
    names, wanted = schema.names, kinds(encoder)
    faults = [
        (name, f"there are {names.count(name)} columns of this name") for name in dict.fromkeys(names) if names.count(name) > 1
    ]
    faults += [(name, f"required, {wanted[name][0]}") for name in encoder.required if name not in names]
    for name in dict.fromkeys(names):
        if name in wanted:
            expected, fits = wanted[name]
            type_ = schema.field(name).type
            if not DataType.is_null(type_) and not fits(_value_type(type_)):
                faults.append((name, f"expected {expected}, found the type {_type_name(type_)}"))
        elif name != ID:
            close = difflib.get_close_matches(name[:100], encoder.names, n=1)
            faults.append((name[:100], "unknown column" + (f"; did you mean {close[0]!r}?" if close else "")))
    refuse_faults(faults)


def kinds(encoder: Encoder) -> dict[str, tuple[str, Callable[[DataType], bool]]]:
    """What each column is to hold, in words and as a test of its type."""
    return {
        **{column.name: ("a number", _is_number) for column in encoder.numbers},
        **{column.name: ("a date, a timestamp, or ISO text", _is_time) for column in encoder.dates},
        **{column.name: ("a string", _is_text) for column in encoder.worded},
        **{column.name: ("the bytes of an image file, or these in base64", _is_image) for column in encoder.images},
    }


def raw_columns(batch: RecordBatch, encoder: Encoder, start: int) -> dict[str, NDArray[Any] | Words]:
    """The batch's columns as the encoder takes them, of a schema that was checked.

    RequestError 422 with column and row, counted from `start`, for a value that does not fit.
    """
    present, rows = set(batch.schema.names), batch.num_rows

    def take(name: str) -> Array:
        return batch.column(name) if name in present else Array([None] * rows, type=STRING)

    columns: dict[str, NDArray[Any] | Words] = {}
    for number in encoder.numbers:
        values = as_floats(take(number.name))
        _refuse_first(number.name, start, np.isinf(values), "expected a finite number, found an infinite one")
        columns[number.name] = values
    for date in encoder.dates:
        columns[date.name] = as_seconds(date.name, take(date.name), start)
    for scaled in encoder.scaled:
        if scaled.required:
            missing = np.isnan(np.asarray(columns[scaled.name]))
            _refuse_first(scaled.name, start, missing, "required, and found no value")
    for column in encoder.worded:
        words = as_words(take(column.name))
        if column.required:
            none = np.array([word is None for word in words.distinct], bool)[words.places]
            _refuse_first(column.name, start, none, "required, and found no value")
        columns[column.name] = words
    for image in encoder.images:
        columns[image.name] = as_pixels(image, take(image.name), start)
    return columns


def as_floats(array: Array) -> NDArray[np.float64]:
    """Numbers and booleans as float64, NaN where missing; whole ones beyond 2**53 to the nearest."""
    return _numpy(_plain(array).cast(FLOAT64), math.nan, np.float64)


def as_seconds(name: str, array: Array, start: int) -> NDArray[np.float64]:
    """Dates, times and ISO texts as seconds since 1970, whole ones, NaN where missing; a time without a zone is UTC."""
    array = _plain(array)
    type_ = array.type
    if _is_text(type_):
        words = as_words(array)
        seconds, faults = np.full(len(words.distinct), math.nan), {}
        for i, word in enumerate(words.distinct):
            if word is not None:
                try:
                    seconds[i] = parse_time(word)
                except ValueError as error:
                    faults[i] = f"{error}, found {word[:40]!r}"
        for i, fault in faults.items():
            _refuse_first(name, start, words.places == i, fault)
        told: NDArray[np.float64] = seconds[words.places]
        return told
    ticks = _numpy(array.cast(DataType.int32() if DataType.is_date32(type_) else INT64), np.iinfo(np.int64).min, np.int64)
    missing = ticks == np.iinfo(np.int64).min
    if DataType.is_date32(type_):
        whole = ticks * DAY
    else:
        whole = ticks // (1_000 if DataType.is_date64(type_) else TICKS[type_.time_unit or "s"])
    return np.where(missing, math.nan, whole.astype(np.float64))


def as_words(array: Array) -> Words:
    """Text by its distinct values, None for missing."""
    if DataType.is_dictionary(array.type) and len(dictionary_dictionary(array)) > len(array):
        array = _plain(array)  # a small part of a large one: its own words alone
    if DataType.is_null(array.type):
        return Words([None], np.zeros(len(array), np.int64))
    if not DataType.is_dictionary(array.type):
        array = array.cast(STRING).cast(DataType.dictionary(DataType.int32(), STRING))
    distinct = [*dictionary_dictionary(array).cast(STRING).to_pylist(), None]
    return Words(distinct, _numpy(dictionary_indices(array), len(distinct) - 1, np.int64))


def as_pixels(image: ImageColumn, array: Array, start: int) -> NDArray[np.uint8]:
    """Image files, as bytes or in base64, decoded and resized."""
    values = _plain(array).to_pylist()
    pixels = np.empty((len(values), image.height, image.width, image.channels), np.uint8)
    for i, value in enumerate(values):
        if value is None:
            refuse_faults([(image.name, f"row {start + i:,}: required, and found no value")])
        try:
            content = from_text(value) if isinstance(value, str) else value
            pixels[i] = decode_image(content, image.height, image.width, image.channels)
        except ImageError as error:
            refuse_faults([(image.name, f"row {start + i:,}: expected an image file: {error}")])
    return pixels


def answer_columns(target: Target, scores: NDArray[Any]) -> dict[str, Array]:
    """`prediction`, or `prediction_LABEL` of several classes, and `low`, `high`, `label`, `decision` where there are such."""
    found = {}
    for tensor in answers(target, scores):
        if tensor.kind == TEXT:
            found[tensor.name] = Array(tensor.values.tolist(), type=STRING)
        elif tensor.values.ndim == 1:
            found[tensor.name] = Array.from_numpy(np.ascontiguousarray(tensor.values))
        else:
            for label, column in zip(target.classes, tensor.values.T, strict=True):
                found[f"{tensor.name}_{as_text(label)}"] = Array.from_numpy(np.ascontiguousarray(column))
    return found


def _refuse_first(name: str, start: int, wrong: NDArray[np.bool_], fault: str) -> None:
    if wrong.any():
        refuse_faults([(name, f"row {start + int(wrong.argmax()):,}: {fault}")])


def _numpy(array: Array, missing: float, dtype: type) -> NDArray[Any]:
    """The values, `missing` where there are none, which arro3 leaves to us."""
    if not array.null_count:
        return np.asarray(array.to_numpy(), dtype)
    return np.array([missing if value is None else value for value in array.to_pylist()], dtype)


def _plain(array: Array) -> Array:
    """The array without a dictionary."""
    return array.cast(_value_type(array.type)) if DataType.is_dictionary(array.type) else array


def _value_type(type_: DataType) -> DataType:
    return type_.value_type or type_ if DataType.is_dictionary(type_) else type_


def _is_number(type_: DataType) -> bool:
    return any(test(type_) for test in (DataType.is_integer, DataType.is_floating, DataType.is_decimal, DataType.is_boolean))


def _is_time(type_: DataType) -> bool:
    return DataType.is_date(type_) or DataType.is_timestamp(type_) or _is_text(type_)


def _is_text(type_: DataType) -> bool:
    return any(test(type_) for test in (DataType.is_string, DataType.is_large_string, DataType.is_string_view))


def _is_image(type_: DataType) -> bool:
    return _is_text(type_) or any(test(type_) for test in (DataType.is_binary, DataType.is_large_binary, DataType.is_binary_view))


def _type_name(type_: DataType) -> str:
    return str(type_).strip().removeprefix("arro3.core.DataType<").removesuffix(">")


def times(seconds: NDArray[np.float64]) -> Array:
    """Seconds since 1970 as timestamps in UTC, to the microsecond; null for NaN."""
    micro = [None if math.isnan(one) else round(one * 1e6) for one in seconds.tolist()]
    return Array(micro, type=INT64).cast(DataType.timestamp("us", tz="UTC"))

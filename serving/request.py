"""The body of a predict request: TensorFlow Serving's row format, checked field by field against the encoder."""

import difflib
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import orjson

from tasks.core.calendar import parse_time
from tasks.core.encoder import Encoder, ImageColumn
from tasks.core.images import ImageError, count_pixels, decode_image, from_text

MOST_FAULTS = 20
MOST_ROWS = 10_000  # of a request; a batch of more would keep all others waiting
MOST_EXPLAINED = 16  # rows of a request, each of which costs as much as a thousand to predict
IMAGE_PIXELS = 25_000_000  # of a request's images, a camera's picture, which takes about a second to check and decode; or else
PIXELS_A_BYTE = 16  # of their files, where these are so large: of a camera's JPEG few are worked out
TOO_MANY = f"at most {MOST_ROWS:,} at a time: send several requests, or a batch in Arrow or Parquet"
SHAPE = 'expected {"instances": [{...}, ...]}, one object for each row, or {"inputs": {"column": [...], ...}}'


class RequestError(Exception):
    """A request that cannot be answered: HTTP status, a sentence, the faults as (field, sentence), seconds to wait."""

    def __init__(self, status: int, detail: str, faults: list[tuple[str, str]] | None = None, retry_after: int = 0) -> None:
        super().__init__(detail)
        self.status, self.detail, self.faults, self.retry_after = status, detail, faults or [], retry_after


def parse_rows(body: bytes, encoder: Encoder) -> tuple[list[dict[str, Any]], bool]:
    """The rows of {"instances": [{...}, ...]} or of {"inputs": {column: [...], ...}}, and whether they came in columns.

    RequestError 400 for what is not JSON or neither form, 422 with the fields for what does not fit.
    """
    document = load_json(body)
    if not isinstance(document, dict) or ("instances" in document) == ("inputs" in document):
        raise RequestError(400, SHAPE)
    if len(document) > 1:
        if extra := sorted(document.keys() - {"instances", "inputs", "signature_name"}):
            raise RequestError(400, f"unknown keys {[key[:100] for key in extra[:MOST_FAULTS]]} beside instances or inputs")
        if not isinstance(document["signature_name"], str | None):
            raise RequestError(400, f"signature_name: expected a string, found {_kind(document['signature_name'])}")
    rows = document["instances"] if "instances" in document else _from_columns(document["inputs"])
    if not isinstance(rows, list):
        raise RequestError(400, SHAPE)
    if not rows:
        raise RequestError(400, "instances is empty; expected at least one row")
    if len(rows) > MOST_ROWS:
        raise RequestError(413, f"{len(rows):,} rows; {TOO_MANY}")
    if "instances" in document:
        check_keys(body, document, rows)
    else:
        check_keys(body, document, [document["inputs"]])
    check_rows(rows, encoder, "instances")
    return rows, "inputs" in document


def load_json(body: bytes) -> Any:
    """What the body says; RequestError 400 when it is not JSON."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"the body is not JSON: {error}") from error


def check_keys(body: bytes, document: dict[str, Any], rows: list[Any]) -> None:
    """RequestError 400 when an object of the body has a key twice, of which the parser kept the last without a word.

    Each key has a colon. When there are as many as keys in the document and its rows, none was lost: that costs less than a
    microsecond, and only bodies with other colons, as in times of day, are read once more.
    """
    if body.count(b":") == len(document) + sum(len(row) for row in rows if type(row) is dict):
        return
    try:
        json.loads(body, object_pairs_hook=_unique, parse_int=str, parse_float=str)
    except RecursionError as error:
        raise RequestError(400, "the body is nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise RequestError(400, f"the key {twice[:100]!r} is there twice in one object; which of its values is meant?")
    return found


def _from_columns(inputs: Any) -> list[dict[str, Any]]:
    """The rows that columns of equal length make."""
    if not isinstance(inputs, dict) or not inputs or not all(isinstance(values, list) for values in inputs.values()):
        raise RequestError(400, "inputs: expected an object of lists, one for each column")
    if len(sizes := {len(values) for values in inputs.values()}) > 1:
        raise RequestError(400, f"inputs: the columns have different numbers of rows: {sorted(sizes)[:MOST_FAULTS]}")
    return [dict(zip(inputs, values, strict=True)) for values in zip(*inputs.values(), strict=True)]


def check_rows(rows: list[Any], encoder: Encoder, where: str) -> None:
    """RequestError 422 with the fields that do not fit, of the first rows that have any; 413 for images that hold too much."""
    if all(fits(row, encoder) for row in rows):
        return
    check_pixels(rows, encoder)
    every = (fault for i, row in enumerate(rows) if not fits(row, encoder) for fault in find_faults(row, encoder, f"{where}[{i}]"))
    refuse_faults(list(islice(every, MOST_FAULTS + 1)))  # a body full of them must not cost more than one that is right


def check_pixels(rows: list[Any], encoder: Encoder) -> None:
    """RequestError 413 for images of too many pixels, of which a few bytes may hold millions: nobody is answered meanwhile."""
    pixels = size = 0
    for image, row in ((image, row) for image in encoder.images for row in rows if isinstance(row, dict)):
        value = row.get(image.name)
        if isinstance(value, str):
            with suppress(ImageError):  # which is told with the row's other faults
                content = from_text(value)
                pixels += count_pixels(content, image.height, image.width, image.channels)
                size += len(content)
    if pixels > (most := max(IMAGE_PIXELS, PIXELS_A_BYTE * size)):
        raise RequestError(
            413, f"{pixels:,} pixels to decode in {size:,} bytes of images; at most {most:,}: send fewer or smaller ones"
        )


def refuse_faults(faults: list[tuple[str, str]]) -> None:
    """RequestError 422 with the faults by field, if there are any; of more than MOST_FAULTS the first."""
    if faults:
        field, sentence = faults[0]
        some = f"at least {MOST_FAULTS}" if len(faults) > MOST_FAULTS else len(faults) - 1
        raise RequestError(422, f"{field}: {sentence}" + (f" (and {some} more)" if len(faults) > 1 else ""), faults[:MOST_FAULTS])


def fits(row: Any, encoder: Encoder) -> bool:
    """Whether a look at each value's type tells that nothing is wrong with the row; not of rows with dates or images.

    It takes a sixth of the time of `find_faults`, which most rows need not wait for.
    """
    if type(row) is not dict:
        return False
    types = encoder.types
    for name, value in row.items():
        found = type(value)
        if name not in types or found not in types[name] or (found is float and not math.isfinite(value)):
            return False
    return encoder.needed <= row.keys()


def find_faults(row: Any, encoder: Encoder, where: str) -> Iterator[tuple[str, str]]:
    """What is wrong with a row, by field."""
    if not isinstance(row, dict):
        yield where, f"expected an object of named values, found {_kind(row)}"
        return
    for number in encoder.numbers:
        value = row.get(number.name)
        if value is None:
            if number.required:
                yield f"{where}.{number.name}", "required, a number"
        elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            yield f"{where}.{number.name}", f"expected a number, found {_kind(value)}"
    for date in encoder.dates:
        time = row.get(date.name)
        if time is None:
            if date.required:
                yield f"{where}.{date.name}", "required, a date or time as a string"
        elif fault := _no_time(time):
            yield f"{where}.{date.name}", fault
    for column in encoder.worded:
        word = row.get(column.name)
        if word is None:
            if column.required:
                yield f"{where}.{column.name}", "required, a string"
        elif not isinstance(word, str):
            yield f"{where}.{column.name}", f"expected a string, found {_kind(word)}"
    for image in encoder.images:
        if fault := _no_image(row.get(image.name), image):
            yield f"{where}.{image.name}", fault
    known = set(encoder.names)
    for name in (name for name in row if name not in known):
        close = difflib.get_close_matches(name[:100], encoder.names, n=1)
        yield f"{where}.{name[:100]}", "unknown field" + (f"; did you mean {close[0]!r}?" if close else "")


def _no_time(value: Any) -> str:
    """Why the value is no date or time; "" when it is one."""
    if not isinstance(value, str):
        return f"expected a date or time as a string, found {_kind(value)}"
    try:
        parse_time(value)
    except ValueError as error:
        return f"{error}, found {_kind(value)}"
    return ""


def _no_image(value: Any, column: ImageColumn) -> str:
    """Why the value is no image; "" when it is one."""
    if value is None:
        return "required, an image file in base64"
    if not isinstance(value, str):
        return f"expected an image file in base64, found {_kind(value)}"
    try:
        decode_image(from_text(value), column.height, column.width, column.channels)
    except ImageError as error:
        return f"expected an image file in base64, found {_kind(value)}: {error}"
    return ""


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return f"the string {value[:40]!r}"
        case list():
            return "a list"
        case _:
            return "an object"

"""What became true, told by clients by the id of the row: checked field by field, and handed to the prediction log."""

import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import orjson

from serving.bundle import Bundle
from serving.records import Truth
from serving.request import MOST_FAULTS, RequestError, check_keys, load_json, refuse_faults
from tasks.core.target import as_text

MOST_TRUTHS = 10_000  # of a request
LONGEST_ID = 256
FIELDS = {"id", "truth", "time"}


def parse_truths(body: bytes, bundle: Bundle) -> list[Truth]:
    """The truths of {"feedback": [{"id", "truth", "time"?}, ...]}; RequestError 400 for another document, 422 with the fields."""
    document = load_json(body)
    if not isinstance(document, dict) or not isinstance(document.get("feedback"), list) or len(document) > 1:
        raise RequestError(400, 'expected {"feedback": [{"id": ..., "truth": ...}, ...]}, and a "time" where it is known')
    entries: list[Any] = document["feedback"]
    if not entries:
        raise RequestError(400, "feedback is empty; expected at least one truth")
    if len(entries) > MOST_TRUTHS:
        raise RequestError(422, f"{len(entries):,} truths; send at most {MOST_TRUTHS:,} at a time")
    check_keys(body, document, entries)
    classes = {as_text(label) for label in bundle.encoder.target.classes}
    every = (fault for i, entry in enumerate(entries) for fault in _find_faults(entry, classes, f"feedback[{i}]"))
    refuse_faults(list(islice(every, MOST_FAULTS + 1)))
    now = time.time()
    return [
        Truth(
            now,
            bundle,
            entry["id"],
            as_text(entry["truth"]) if classes else float(entry["truth"]),
            _seconds(entry["time"]) if entry.get("time") is not None else None,
        )
        for entry in entries
    ]


def _find_faults(entry: Any, classes: set[str], where: str) -> Iterator[tuple[str, str]]:
    if not isinstance(entry, dict):
        yield where, "expected an object of id, truth and perhaps time"
        return
    id_, truth, told = entry.get("id"), entry.get("truth"), entry.get("time")
    if not isinstance(id_, str) or not 0 < len(id_) <= LONGEST_ID:
        yield f"{where}.id", f"expected the id of an answered row, a string of at most {LONGEST_ID} characters, found {_short(id_)}"
    if classes:
        if not isinstance(truth, bool | int | float | str) or as_text(truth) not in classes:
            yield f"{where}.truth", f"expected one of the classes {_some(classes)}, found {_short(truth)}"
    elif isinstance(truth, bool) or not isinstance(truth, int | float) or not math.isfinite(truth):
        yield f"{where}.truth", f"expected a number, found {_short(truth)}"
    if told is not None and not _is_time(told):
        yield f"{where}.time", f"expected a time such as 2013-07-04T18:30:00Z, found {_short(told)}"
    for name in sorted(entry.keys() - FIELDS):
        yield f"{where}.{name[:100]}", "unknown field"


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and math.isfinite(_seconds(value))
    except (ValueError, OverflowError):
        return False


def _seconds(text: str) -> float:
    """Seconds since 1970 of an ISO 8601 time, UTC unless it says otherwise."""
    when = datetime.fromisoformat(text)
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _some(classes: set[str]) -> str:
    shown = sorted(classes)[:10]
    return ", ".join(shown) + (f" and {len(classes) - 10} more" if len(classes) > 10 else "")


def _short(value: Any) -> str:
    if isinstance(value, list | dict):  # which may be nested deeper than orjson writes
        return "a list" if isinstance(value, list) else "an object"
    text = orjson.dumps(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."

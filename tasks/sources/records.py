"""Rows of JSON as rows of a table: flat, without what stands for no value, and protected before anything of them is written."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from tasks.core.errors import DataError
from tasks.core.privacy import SAMPLE, Coarsening, Guard, find_personal, pseudonym
from tasks.sources.protect import refuse_personal

Scalar = str | int | float | bool | None
LARGEST = 2**63  # whole numbers beyond it have no type that all sources share, and stay text

Kind = tuple[str, Any]  # a watermark's value with what it is, so that only equals are compared


def protected_rows(name: str, rows: Sequence[Mapping[str, Any]], guard: Guard, missing: tuple[str, ...]) -> list[dict[str, Scalar]]:
    """The rows flat and as `guard` says, equal to what protect.protected makes of such values; DataError for personal columns
    that are undecided.

    An object's members become columns of their own, `user: {id: 1}` the column user_id; what lies deeper, and lists, become
    JSON text. An object that is to be dropped, pseudonymised or coarsened under its own name is taken whole.
    """
    flat = [_flat(name, row, guard, missing) for row in rows]
    refuse_personal(name, _personal(flat), guard)
    coarsen = dict(guard.coarsen)
    return [
        {column: _guarded(name, column, value, guard, coarsen) for column, value in row.items() if column not in guard.drop}
        for row in flat
    ]


def rank(name: str, text: str) -> Kind:
    """The place of a watermark's value among others: by number, by instant (in UTC without a zone), else by letters."""
    if re.fullmatch(r"-?\d+(\.\d+)?([eE][+-]?\d+)?", text):
        return "number", Decimal(text)
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return "text", text
    return "time", when if when.tzinfo else when.replace(tzinfo=UTC)


def is_after(name: str, text: str, other: str) -> bool:
    """Whether a watermark's value is larger than another one."""
    ours, theirs = rank(name, text), rank(name, other)
    if ours[0] != theirs[0]:
        raise DataError(
            f"source {name!r}: its watermark is a {ours[0]} in one row and a {theirs[0]} in another; "
            "expected numbers, times or texts alone: name another column, or remove watermark"
        )
    return bool(ours[1] > theirs[1])


def text_of(value: Any) -> str:
    """The value as DuckDB writes it as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, int | float) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _flat(name: str, row: Mapping[str, Any], guard: Guard, missing: tuple[str, ...]) -> dict[str, Any]:
    whole = guard.drop | guard.pseudonymise | {column for column, _ in guard.coarsen}
    flat: dict[str, Any] = {}
    for key, value in row.items():
        nested = isinstance(value, dict) and key not in whole
        for column, inner in [(f"{key}_{part}", inner) for part, inner in value.items()] if nested else [(key, value)]:
            if column in flat:
                raise DataError(f"source {name!r}: two fields of a row become the column {column!r}; expected one")
            flat[_sound(column)] = _present(inner, missing)
    return flat


def _present(value: Any, missing: tuple[str, ...]) -> Any:
    """The value, or None when it stands for none."""
    if isinstance(value, str | int | float) and not isinstance(value, bool) and text_of(value) in ("", *missing):
        return None
    if isinstance(value, int) and not -LARGEST <= value < LARGEST:
        return str(value)
    return _sound(value) if isinstance(value, str) else value


def _sound(text: str) -> str:
    """The text without halves of UTF-16 pairs, which JSON can hold and no other text can."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _guarded(name: str, column: str, value: Any, guard: Guard, coarsen: Mapping[str, Coarsening]) -> Scalar:
    if value is None:
        return None
    if column in guard.pseudonymise:
        return pseudonym(guard.key, text_of(value))
    if column in coarsen:
        return _coarse(name, column, text_of(value), coarsen[column])
    return _sound(text_of(value)) if isinstance(value, dict | list) else value


def _coarse(name: str, column: str, text: str, to: Coarsening) -> str:
    if isinstance(to, int):
        return text[:to]
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise DataError(
            f"source {name!r}: privacy.coarsen: column {column!r} holds what is no date; expected 2024-01-31, or with a time; "
            f"give a number of characters to keep instead of {to!r}"
        ) from None  # its message would hold the value
    day = (when.astimezone(UTC) if when.tzinfo else when).date()
    return (day if to == "day" else day.replace(day=1) if to == "month" else day.replace(month=1, day=1)).isoformat()


def _personal(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Columns that look personal, also by what lies deep in their objects and lists, with the reason."""
    values: dict[tuple[str, str], list[str]] = {}
    for row in rows[:SAMPLE]:
        for column, value in row.items():
            for path, leaf in _leaves(column, value):
                values.setdefault((column, path), []).extend([leaf] if leaf else [])
    found: dict[str, str] = {}
    for (column, path), sample in values.items():
        if reason := find_personal({path: sample}).get(path):
            found.setdefault(column, reason if path == column else f"in it {path!r}, {reason}")
    return found


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every single value below the path, by the names on the way to it."""
    match value:
        case dict():
            for key, inner in value.items():
                yield from _leaves(f"{path}_{key}", inner)
        case list():
            for inner in value:
                yield from _leaves(path, inner)
        case str() | int():
            yield path, text_of(value)
        case _:
            yield path, ""

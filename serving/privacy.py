"""Personal columns in what the service keeps: written as training knew them, whatever a client sends."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.core.encoder import Encoder
from tasks.core.privacy import PSEUDONYM_LENGTH, Coarsening
from tasks.core.target import as_text

PSEUDONYM = "pseudonym"  # the rule of a column that only holds such; other rules are what a column was coarsened to
_IS_PSEUDONYM = re.compile(rf"[0-9a-f]{{{PSEUDONYM_LENGTH}}}")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_REST = {"day": (10, ""), "month": (7, "-01"), "year": (4, "-01-01")}  # characters of an ISO date that stay, and what follows
Rule = Coarsening | str


def rules(encoder: Encoder, told: Mapping[str, Rule]) -> dict[str, Rule]:
    """The rules of the encoder's columns; one that was renamed is known by its words, all of which are pseudonyms."""
    by_words = {
        column.name: PSEUDONYM
        for column in encoder.categories
        if column.vocabulary and all(map(_IS_PSEUDONYM.fullmatch, column.vocabulary))
    }
    return {**by_words, **{name: rule for name, rule in told.items() if name in encoder.names}}


def withhold(values: Sequence[Any], rule: Rule) -> tuple[list[Any], int]:
    """The values as training knew them, None for one that cannot be made so, and how many came otherwise."""
    kept = [_protect(value, rule) for value in values]
    return kept, sum(new != old for new, old in zip(kept, values, strict=True))


def _protect(value: Any, rule: Rule) -> Any:
    if value is None:
        return None
    if rule == PSEUDONYM:
        return value if isinstance(value, str) and _IS_PSEUDONYM.fullmatch(value) else None
    if isinstance(rule, int):
        text = as_text(value)
        if len(text) <= rule:
            return value
        return text[:rule] if isinstance(value, str) else _number(text[:rule])
    if rule in _REST and isinstance(value, str) and _DAY.match(value):
        keep, rest = _REST[rule]
        short = f"{value[:keep]}{rest}"
        # A time at midnight tells no more than its date.
        return value if value[10:].strip("TZ 0:.") == "" and value[:10] == short else short
    return None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None

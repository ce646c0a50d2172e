"""From a table's facts to each column's role, with the reason in words; nothing here reads or writes anything."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from tasks.core.errors import DataError
from tasks.core.facts import ColumnFacts, TableFacts, TextFacts, shown, shown_range
from tasks.core.guess_target import LEAST_OF_CLASS, Cast, TargetGuess
from tasks.core.leaks import BOUNDS, MEASURES

Role = Literal["number", "category", "date", "text", "outcome", "left out", "target"]

NEARLY_ALL = 0.95  # distinct values of the present ones: an identifier
LONG_TEXT = (4.0, 40.0)  # words or characters on average: a text, not a category
MISSING_WORDS = frozenset(["na", "n/a", "#n/a", "nan", "null", "none", "nil", "?", "-", "--", ".", "unknown"])
_KEY = re.compile(
    r"(^|[\W_])(id|ids|uuid|guid|key|rownames|row ?number|record ?no)$|^(index|unnamed: 0|column0)$"
    r"|(case|client|customer|user|order|record|row|session|account|item|product|patient|member|device|store|shop)id$",
    re.IGNORECASE,
)
_CAMEL_KEY = re.compile(r"[a-z](Id|ID|Uuid|UUID|Key|Num)$")
_NO_EVENT = re.compile(
    r"birth|dob|expir|due|until|valid|deadline|end|updat|modif|manufact|built|target|plan|schedul|deliver", re.IGNORECASE
)
_EVENT = re.compile(r"time|date|stamp|when|creat|order|event|day|start|arriv|pickup", re.IGNORECASE)
LEAST_DAYS = 10  # of an event time, for a split by it
TOLD_COPIES = 0.01  # share of the rows that equal an earlier one, from which on it is told


@dataclass(frozen=True)
class Decision:
    """What becomes of one column, and why."""

    name: str
    role: Role
    why: str
    cast: Cast = ""


def find_missing_words(facts: TableFacts) -> tuple[str, ...]:
    """Words that stand for "no value" in columns that are otherwise numbers."""
    found: dict[str, None] = {}
    for odd in (column.text.odd for column in facts.columns if column.text):
        if len(odd) <= 5 and all(word.strip().lower() in MISSING_WORDS for word in odd):
            found.update(dict.fromkeys(odd))
    return tuple(found)


def decide_columns(
    facts: TableFacts, target: TargetGuess, *, outcomes: Collection[str], features: Collection[str]
) -> list[Decision]:
    """A role for every column: asked for under `outcomes` and `features`, else guessed."""
    decided = []
    for column in facts.columns:
        if column.name == target.name:
            decided.append(Decision(column.name, "target", target.why, target.cast))
        elif column.name in outcomes:
            decided.append(Decision(column.name, "outcome", "named as known too late"))
        else:
            decided.append(_decide(column, wanted=column.name in features))
    return decided


def _decide(column: ColumnFacts, wanted: bool) -> Decision:
    if why := _useless(column) or ("" if wanted else _identifies(column)):
        return Decision(column.name, "left out", why)
    lacking = f", missing in {column.missing / column.rows:.1%}" if column.missing else ""
    match column.kind:
        case "boolean":
            return Decision(column.name, "number", f"true or false, as 1 or 0{lacking}", "flag")
        case "date":
            return Decision(column.name, "date", f"{column.first[:10]} to {column.last[:10]}{lacking}")
        case "number" if column.whole and _names_key(column.name):
            return Decision(column.name, "category", f"a key by its name, {column.distinct:,} values{lacking}", "text")
        case "number":
            cast: Cast = "finite" if column.infinite or column.nan else ""
            infinite = f", {column.infinite:,} infinite as missing" if column.infinite else ""
            return Decision(column.name, "number", f"{shown_range(column)}, {column.distinct:,} values{lacking}{infinite}", cast)
        case _:
            return _decide_text(column, lacking)


def _useless(column: ColumnFacts) -> str:
    if not column.present:
        return "no value in any row"
    if column.distinct == 1 and not column.missing:
        return f"one value in every row: {shown(column.first)}"
    if column.present < max(5, column.rows // 1000):
        return f"a value in {column.present:,} of {column.rows:,} rows only"
    if column.text and column.text.pictures >= 0.9:
        return "paths of pictures; the README says how they become images to learn from"
    if column.text and column.text.nested >= 0.9:
        return "lists or objects in JSON; take out what matters in the query"
    return ""


def _identifies(column: ColumnFacts) -> str:
    """Why the column only names its rows; empty when it does not."""
    if column.distinct < NEARLY_ALL * column.present or column.present < LEAST_OF_CLASS:
        return ""
    what = f"an identifier: {column.distinct:,} values in {column.present:,} rows"
    if column.kind == "number" and column.whole:
        counts = column.distinct == column.present and column.span == column.present - 1
        return f"{what}, {'counting up' if counts or column.rising else 'a key by its name'}" if (
            counts or (column.rising and not column.missing) or _names_key(column.name)
        ) else ""  # fmt: skip
    text = column.text
    if text and not _is_long(text) and text.dated < NEARLY_ALL and (text.numeric < 1 or text.padded):
        return what
    return what if text and text.numeric == 1 and _names_key(column.name) else ""


def _decide_text(column: ColumnFacts, lacking: str) -> Decision:
    text = column.text
    assert text is not None, "text columns have text facts"
    if text.dated >= 0.98:
        wrong = f", {1 - text.dated:.1%} do not and become missing" if text.dated < 1 else ""
        return Decision(column.name, "date", f"reads as a time{wrong}{lacking}", "time")
    if text.numeric == 1 and not text.padded and not _names_key(column.name):
        return Decision(column.name, "number", f"text that reads as numbers, {column.distinct:,} values{lacking}", "number")
    if _is_long(text) and column.distinct > 0.5 * column.present:
        return Decision(column.name, "text", f"{text.words:.0f} words on average{lacking}")
    return Decision(column.name, "category", f"{column.distinct:,} values, most often in {column.top / column.rows:.1%}{lacking}")


def _is_long(text: TextFacts) -> bool:
    words, characters = LONG_TEXT
    return text.words >= words or (text.length >= characters and text.words > 1)


def _names_key(name: str) -> bool:
    return bool(_KEY.search(name.strip()) or _CAMEL_KEY.search(name.strip()))


def set_apart(
    decided: list[Decision],
    *,
    leaks: Mapping[str, float],
    copies: Mapping[str, str],
    target: TargetGuess,
    features: Collection[str],
) -> list[Decision]:
    """The decisions, with columns that tell the target among the outcomes and second copies left out."""

    def apart(one: Decision) -> Decision:
        if one.role in ("target", "outcome", "left out") or one.name in features:
            return one
        if copies.get(one.name) == target.name or copies.get(target.name) == one.name:
            return Decision(one.name, "outcome", "a copy of the target")
        if one.name in leaks:
            said = f"alone it predicts the target, {MEASURES[target.task]} {leaks[one.name]:.3f} (bound {BOUNDS[target.task]})"
            return Decision(one.name, "outcome", f"{said}: known too late?")
        if one.name in copies:
            return Decision(one.name, "left out", f"equal to {copies[one.name]!r} in every row")
        return one

    return [apart(one) for one in decided]


def find_doubts(facts: TableFacts, target: TargetGuess, *, by_chance: bool) -> list[str]:
    """What a person should look at before training, a line each: what may mean something else than it says."""
    doubts = []
    words = [label for label in target.classes if isinstance(label, str)]
    if empty := [word for word in words if word.strip().lower() in MISSING_WORDS or not word.strip()]:
        flags = " ".join(f"--missing {word!r}" for word in empty)
        doubts.append(f"the target has {empty} as a class; if that means no value, start again with {flags}")
    folded: dict[str, list[str]] = {}
    for word in words:
        folded.setdefault(word.strip().casefold(), []).append(word)
    if alike := [same for same in folded.values() if len(same) > 1]:
        listed = "; ".join(map(str, alike))
        doubts.append(f"classes of the target differ in capitals or blanks alone: {listed}; make them one in the query")
    if by_chance and facts.twice > TOLD_COPIES * facts.rows:
        doubts.append(
            f"{facts.twice:,} of {facts.rows:,} rows equal an earlier one: split by chance, copies of rows that were learned are "
            "tested, which flatters; give the time of the rows (--time), or take copies out in the query"
        )
    return doubts


def require_features(decided: list[Decision]) -> None:
    """DataError, with what became of the columns, when none is left to predict with."""
    if any(one.role in ("number", "category", "date", "text") for one in decided):
        return
    listing = "; ".join(f"{one.name!r}: {one.role}, {one.why}" for one in decided[:20] if one.role != "target")
    left = listing or "the target is the only one"
    raise DataError(f"no column is left to predict with ({left}); --feature COLUMN takes one in that has two values or more")


def time_candidates(facts: TableFacts, decided: list[Decision]) -> list[str]:
    """Columns that may say when a row happened, the likeliest first: whole, over enough days, not named after another time."""
    dates = {one.name for one in decided if one.role == "date"}
    columns = [
        column
        for column in facts.columns
        if column.name in dates and not column.missing and not _NO_EVENT.search(column.name) and column.first[:4] >= "1970"
        and (column.days >= LEAST_DAYS or (column.kind == "text" and column.distinct >= LEAST_DAYS))
    ]  # fmt: skip
    return [column.name for column in sorted(columns, key=lambda column: not _EVENT.search(column.name))]


def find_entity(facts: TableFacts, decided: list[Decision]) -> str | None:
    """A key that repeats: several rows tell of one thing."""
    kept = {one.name for one in decided if one.role == "category"}
    found = [
        c for c in facts.columns if c.name in kept and _names_key(c.name) and c.distinct > 20 and c.repeating > 0.5 * c.present
    ]
    return found[0].name if found else None


def find_slices(facts: TableFacts, decided: list[Decision]) -> tuple[str, ...]:
    """Up to two categories with few values, none of them nearly everywhere."""
    kept = {one.name for one in decided if one.role == "category"}
    found = [c for c in facts.columns if c.name in kept and 2 <= c.distinct <= 12 and c.top < 0.9 * c.rows]
    return tuple(column.name for column in found[:2]) if facts.rows >= 1000 else ()

"""What kind of target a column is: the task, its classes, or why nothing can be learned of it."""

import difflib
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

from tasks.core.errors import DataError
from tasks.core.facts import ColumnFacts, TableFacts, TargetFacts, shown_range
from tasks.core.target import Label, Task

Cast = Literal["", "text", "number", "whole", "finite", "flag", "time"]

LEAST_ROWS = 50  # below, the three parts of the split hold too little to learn, to choose and to test
LEAST_OF_CLASS = 5  # rows, so that each part of the split can hold one
MOST_CLASSES = 200
MOST_WHOLE_CLASSES = 10  # distinct whole numbers up to here are classes, beyond it a quantity
KEPT_SHARE = 0.95  # of the rows that must remain when rare classes are left out
POSITIVE = frozenset(["yes", "y", "true", "t", "positive", "pos"])


@dataclass(frozen=True)
class TargetGuess:
    """What is predicted. `rare` are classes too small to learn, whose rows the query leaves out."""

    name: str
    task: Task
    classes: tuple[Label, ...]
    rare: tuple[Label, ...]
    cast: Cast
    rows: int  # with a value, and of a class that is kept
    least: int  # rows of the smallest class
    why: str


def find_column(name: str, facts: TableFacts, what: str) -> ColumnFacts:
    """The column's facts; DataError with the nearest names when the table has none of that name."""
    names = [column.name for column in facts.columns]
    if name in names:
        return facts.column(name)
    folded = {other.lower().strip(): other for other in names}
    near = [folded[key] for key in difflib.get_close_matches(name.lower().strip(), list(folded), n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"it has {names[:20]}"
    raise DataError(f"{what} {name!r} is no column of the data; {hint}")


def guess_target(column: ColumnFacts, counted: TargetFacts, asked: Task | None) -> TargetGuess:
    """What kind of target the column is; DataError, which says what to do, when nothing can be learned of it."""
    name = column.name
    if not column.distinct:
        raise DataError(f"target {name!r} has no value in any of the {column.rows:,} rows; name another column")
    if column.missing > column.present:
        raise DataError(
            f"target {name!r} is missing in {column.missing:,} of {column.rows:,} rows, more than half; "
            "give the rows that have it, or name another column"
        )
    if column.present < LEAST_ROWS:
        raise DataError(
            f"{column.present:,} rows with target {name!r} are too few to be split in three; expected {LEAST_ROWS} or more"
        )
    if column.distinct == 1:
        raise DataError(f"target {name!r} is {counted.values[0][0]!r} in every row; expected two values or more")
    if column.kind == "date":
        raise DataError(f"target {name!r} is a date, which is not predicted; give a number, such as the days until then")
    number = column.kind == "number" or (column.text is not None and column.text.numeric == 1 and not column.text.padded)
    if asked == "regression" or (asked is None and number and _is_quantity(column)):
        return _quantity(column, number)
    return _classes(column, counted, asked)


def _is_quantity(column: ColumnFacts) -> bool:
    whole = column.whole or column.kind == "text"
    return column.distinct > 2 and (not whole or column.distinct > MOST_WHOLE_CLASSES)


def _quantity(column: ColumnFacts, number: bool) -> TargetGuess:
    if not number and column.kind != "boolean":
        raise DataError(f"target {column.name!r} is no number, so --task regression does not fit; leave it out")
    cast: Cast = (
        "flag"
        if column.kind == "boolean"
        else "number"
        if column.kind == "text"
        else "finite"
        if column.infinite or column.nan
        else ""
    )
    rows = column.present - column.infinite
    return TargetGuess(
        column.name, "regression", (), (), cast, rows, rows, f"a number, {column.distinct:,} values, {shown_range(column)}"
    )


def _classes(column: ColumnFacts, counted: TargetFacts, asked: Task | None) -> TargetGuess:
    name = column.name
    if column.distinct > MOST_CLASSES or column.distinct * LEAST_OF_CLASS > column.present:
        each = column.present / column.distinct
        raise DataError(
            f"target {name!r} has {column.distinct:,} classes in {column.present:,} rows, {each:.1f} rows each; expected at most "
            f"{MOST_CLASSES} with {LEAST_OF_CLASS} rows or more: group them in the data"
            + (", or --task regression" if column.kind == "number" else "")
        )
    kept = [(_label(value, column), rows) for value, rows in counted.values if rows >= LEAST_OF_CLASS]
    rare = tuple(_label(value, column) for value, rows in counted.values if rows < LEAST_OF_CLASS)
    rows = sum(count for _, count in kept)
    if len(kept) < 2 or rows < KEPT_SHARE * column.present:
        raise DataError(
            f"target {name!r} has {len(kept)} classes of {LEAST_OF_CLASS} rows or more, and {len(rare)} of fewer: "
            f"{list(rare[:5])}; expected two, and few rows outside of them: group classes in the data, or bring more rows"
        )
    task: Task = "binary" if len(kept) == 2 else "multiclass"
    if asked and asked != task:
        raise DataError(f"target {name!r} has {len(kept)} classes, which is {task}, not {asked}; leave --task out")
    labels = _ordered(kept) if task == "binary" else tuple(sorted((label for label, _ in kept), key=_sort_key))
    cast: Cast = "text" if column.kind == "number" and not column.whole else "whole" if column.kind == "number" else ""
    shares = ", ".join(f"{label!r} {count / rows:.1%}" for label, count in kept[:4])
    return TargetGuess(name, task, labels, rare, cast, rows, min(count for _, count in kept), f"{len(kept)} classes: {shares}")


def _label(value: Hashable, column: ColumnFacts) -> Label:
    if isinstance(value, bool | str):
        return value
    return int(value) if column.whole and isinstance(value, int | float) else str(value)


def _sort_key(label: Label) -> tuple[bool, Label]:
    return isinstance(label, str), label


def _ordered(kept: list[tuple[Label, int]]) -> tuple[Label, ...]:
    """Of two classes the positive one second: the one that says yes, else the rarer."""
    (one, ones), (other, others) = sorted(kept, key=lambda pair: _sort_key(pair[0]))
    says = [str(label).strip().lower() for label in (one, other)]
    yes = ["1"] if says[0] in ("0", "-1") else POSITIVE  # of 1 and 2 neither is a yes
    first_is_positive = says[0] in yes if (says[0] in yes) != (says[1] in yes) else ones < others
    return (other, one) if first_is_positive else (one, other)

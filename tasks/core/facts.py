"""What was counted of a table before anybody decided anything: the profile's values, the guesses' input."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["number", "boolean", "date", "text"]


@dataclass(frozen=True)
class TextFacts:
    """Of a text column, shares of the present values (0 to 1) that read as something else, and how long they are."""

    words: float  # of a value, on average
    length: float  # characters of a value, on average
    numeric: float
    padded: float  # a number in digits, but with a zero in front, as codes have it
    dated: float
    pictures: float
    nested: float  # JSON lists and objects
    odd: tuple[str, ...]  # up to six words among mostly numbers


@dataclass(frozen=True)
class ColumnFacts:
    """One column. `missing` counts NULL and NaN; `repeating` rows whose value stands in another row too."""

    name: str
    kind: Kind
    rows: int
    missing: int
    distinct: int
    repeating: int
    top: int  # rows of the most frequent value
    first: str = ""  # the least value, as text
    last: str = ""
    whole: bool = False  # every number is an integer
    infinite: int = 0
    nan: int = 0
    rising: bool = False  # each value is larger than the one in the row before
    days: int = 0  # of a date: distinct days
    text: TextFacts | None = None

    @property
    def present(self) -> int:
        return self.rows - self.missing

    @property
    def span(self) -> float:
        """From the least number to the largest."""
        return float(self.last) - float(self.first)


@dataclass(frozen=True)
class TableFacts:
    """All columns, and how many rows equal an earlier one in every column."""

    rows: int
    twice: int
    columns: tuple[ColumnFacts, ...]

    def column(self, name: str) -> ColumnFacts:
        return next(column for column in self.columns if column.name == name)


@dataclass(frozen=True)
class TargetFacts:
    """The target's values by frequency, at most a thousand of them."""

    name: str
    values: tuple[tuple[Hashable, int], ...]


@dataclass(frozen=True)
class TimeCut:
    """A split by time that leaves every part with rows of every class: where the test begins, how many days that is before the
    end of the newest one, and which days validate."""

    test_from: str
    test_last_days: int | None  # None where times far behind all others would make that no measure
    validation_every_days: int
    train: int
    validation: int
    test: int


def shown_range(column: ColumnFacts) -> str:
    """From where to where the column goes, in few digits."""
    return f"{_short(column.first)} to {_short(column.last)}"


def shown(text: str) -> str:
    """The value between quotes, cut."""
    return repr(text if len(text) <= 30 else f"{text[:29]}…")


def _short(number: str) -> str:
    try:
        return f"{float(number):.6g}"
    except ValueError:
        return shown(number)

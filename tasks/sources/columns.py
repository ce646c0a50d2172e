"""Types of columns that came as text, decided from every value; what is doubtful ends with an error or is told in the log."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property

import duckdb

from tasks.core.errors import DataError
from tasks.core.privacy import Guard
from tasks.engine import literal, quoted, short
from tasks.params import Reading
from tasks.sources import dates, numbers
from tasks.sources.numbers import Counts, Style

log = logging.getLogger("tasks.sources.columns")

CELLS = 20_000  # values that a guess is made from
AT_ONCE = 250  # columns counted by one query: thousands in one take longer to plan than to run
MOSTLY = 0.95  # share of numbers from which on the others are taken for mistakes
SOME = 0.5  # share of numbers from which on text is told
COMMA = re.compile(numbers.GRAMMAR["comma"])
STYLES: dict[str | None, Style | None] = {".": "point", ",": "comma", None: None}


@dataclass(frozen=True)
class Raw:
    """The rows of a file: which columns are text whose type is to be found, as numbers or dates, or as dates alone."""

    relation: duckdb.DuckDBPyRelation
    judged: tuple[str, ...]
    only_dates: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Guess:
    """What all of a column's values may look like, the type that they then have, and the types in params.yaml that it answers."""

    pattern: str
    type_: str | None
    answers: tuple[str, ...] = ()
    date: bool = False

    @cached_property
    def regex(self) -> re.Pattern[str]:
        return re.compile(self.pattern)

    def counting(self, column: str) -> str:
        """SQL that counts the values of which it is true."""
        fits = f"regexp_full_match({short(column)}, {literal(self.pattern)})"
        if self.date:
            return f"count(CASE WHEN {fits} THEN TRY_CAST({short(column)} AS {self.type_}) END)"
        return f"count(*) FILTER (WHERE {fits})"


GUESSES = (
    Guess(numbers.INTEGER, "BIGINT", ("number",)),
    Guess(numbers.DECIMAL, "DOUBLE", ("number",)),
    Guess(dates.ISO["date"], "DATE", ("date",), date=True),
    Guess(dates.ISO["time"], "TIMESTAMP", ("time",), date=True),
    Guess(dates.ISO["zoned"], "TIMESTAMPTZ", ("time",), date=True),
    Guess("(?i)true|false", "BOOLEAN"),
)
NUMBERISH = Guess("(?is) *[-+]?(nan|inf|infinity) *|[ ,.+-]*[0-9].*", None)  # of text: how much of it may be numbers or dates


@dataclass(frozen=True)
class Column:
    """A column's values as they were counted where the first sight did not decide."""

    name: str
    counts: Counts
    date: int
    time: int
    zoned: int


class Judge:
    """Finds the type of each column of one file."""

    def __init__(self, where: str, raw: Raw, how: Reading, guard: Guard) -> None:
        self.where, self.raw, self.how, self.guard = where, raw, how, guard
        self.told = STYLES[how.decimal]
        self.doubtful: set[str] = set()  # columns of decimals whose first values may all be thousands too
        self.hinted = False  # whether texts of the file have decimal commas
        self.styles: dict[str, str] = {}  # of the columns of numbers with a mark; "point?" where nothing in the file told which

    def typed(self) -> duckdb.DuckDBPyRelation:
        """The relation with every judged column in its type."""
        if absent := sorted(set(self.how.types) - set(self.raw.relation.columns)):
            raise DataError(f"{self.where}: types names {absent}; its columns are {_few(self.raw.relation.columns)}")
        found = self._fitting(self._guesses())
        counted = self._count([name for name, expression in found.items() if expression is None])
        decimals = [name for name, expression in found.items() if (expression or "").endswith("AS DOUBLE)")]
        if not (any(column.counts.decides == "comma" or column.counts.fits("comma") for column in counted) or self.told):
            self.styles = {name: "point" for name in decimals if name not in self.doubtful}
            decimals = [name for name in decimals if name in self.doubtful]
        counted += self._count(decimals)
        elsewhere: set[Style] = {style for c in counted if (style := c.counts.speaks) and c.name not in self.raw.only_dates}
        if self.styles:
            elsewhere.add("point")
        if not elsewhere and not self.told and any(column.counts.may_be_thousands for column in counted):
            self.hinted = self._has_hints(found)
        found |= {column.name: self._expression(column, elsewhere) for column in counted}
        self._refuse_idle_dates(found)
        selected = [f"{found.get(name) or quoted(name)} AS {quoted(name)}" for name in self.raw.relation.columns]
        return self.raw.relation.select(", ".join(selected))

    def _guesses(self) -> dict[str, Guess]:
        """What the first values of each column all look like."""
        judged = self.raw.judged
        if not judged:
            return {}
        first = self.raw.relation.select(", ".join(map(quoted, judged))).limit(max(20, CELLS // len(judged))).fetchall()
        columns = zip(*first, strict=True)
        return {name: self._guess(name, [v for v in values if v is not None]) for name, values in zip(judged, columns, strict=True)}

    def _has_hints(self, found: Mapping[str, str | None]) -> bool:
        texts = [name for name, expression in found.items() if expression in (None, quoted(name))]
        texts = [name for name in texts if name not in self.raw.only_dates]
        hints = [f"coalesce(bool_or(regexp_full_match({short(quoted(name))}, {literal(numbers.HINT)})), false)" for name in texts]
        chunks = (self.raw.relation.aggregate(", ".join(some)).fetchall()[0] for some in _chunks(hints))
        return any(any(row) for row in chunks)

    def _guess(self, name: str, values: list[str]) -> Guess:
        guesses = [guess for guess in GUESSES if guess.date or name not in self.raw.only_dates]
        found = next((guess for guess in guesses if values and all(map(guess.regex.fullmatch, values))), NUMBERISH)
        if found.type_ == "DOUBLE" and all(map(COMMA.fullmatch, values)):
            self.doubtful.add(name)
        return found

    def _fitting(self, guesses: dict[str, Guess]) -> dict[str, str | None]:
        """SQL of the columns all of whose values are what was guessed, or nothing, or plainly text; None for the others."""
        found: dict[str, str | None] = {}
        for names in _chunks(list(guesses)):
            sql = [expression for name in names for expression in (f"count({quoted(name)})", guesses[name].counting(quoted(name)))]
            row = self.raw.relation.aggregate(", ".join(sql)).fetchall()[0]
            for name, values, fitting in zip(names, row[::2], row[1::2], strict=True):
                found[name] = self._plain(name, guesses[name], values, fitting)
        return found

    def _plain(self, name: str, guess: Guess, values: int, fitting: int) -> str | None:
        asked = self.how.types.get(name)
        if asked == "text" or not values:
            return quoted(name)
        if guess.type_ and fitting == values and asked in (None, *guess.answers):
            return f"CAST({quoted(name)} AS {guess.type_})"
        if asked is None and guess is NUMBERISH and fitting < SOME * values and not self.how.dates:
            return None if self._begins_with_dates(name) else quoted(name)
        return None

    def _begins_with_dates(self, name: str) -> bool:
        """Whether one of the first values is a date that begins with the month's name."""
        first = self.raw.relation.select(f"{quoted(name)} AS value").filter("value IS NOT NULL").limit(dates.SAMPLE)
        return bool(first.filter(f"regexp_full_match(value, '{dates.MONTH_FIRST}')").limit(1).fetchall())

    def _count(self, names: list[str]) -> list[Column]:
        width = len(fields(Counts))
        counted = []
        for some in _chunks(names):
            sql = [[*numbers.counting(quoted(name)), *dates.counting(quoted(name))] for name in some]
            row = self.raw.relation.aggregate(", ".join(expression for of_one in sql for expression in of_one)).fetchall()[0]
            each = [row[at : at + len(sql[0])] for at in range(0, len(row), len(sql[0]))]
            counted += [Column(name, Counts(*one[:width]), *one[width:]) for name, one in zip(some, each, strict=True)]
        return counted

    def _expression(self, column: Column, elsewhere: set[Style]) -> str:
        match self.how.types.get(column.name):
            case "number":
                return self._number(column, elsewhere, asked=True) or self._not("number", column)
            case "date" | "time" as asked:
                type_ = "DATE" if asked == "date" else "TIMESTAMP"
                return f"CAST({self._date(column) or self._not(asked, column)} AS {type_})"
        if column.name not in self.raw.only_dates and column.counts.best:
            if number := self._number(column, elsewhere, asked=False):
                return number
            if column.counts.fits("point") or column.counts.fits("comma"):
                return quoted(column.name)
        return self._date(column) or self._text(column)

    def _number(self, column: Column, elsewhere: set[Style], *, asked: bool) -> str | None:
        counts, name = column.counts, column.name
        style = counts.style(self.told, elsewhere, hinted=self.hinted)
        if not asked and counts.zeros and (counts.fits("point") or counts.fits("comma")):
            self._say(name, "stays text: zeros stand in front", numbers.ZEROS, fits=True)
            return None
        if style is None:
            if counts.fits("point") or counts.fits("comma"):
                self._refuse_number(column)
            return None
        whole = counts.whole(style)
        if counts.long and whole:
            self._say(name, "stays text: it holds integers beyond 64 bits", numbers.LONG, fits=True)
            return None
        if counts.words:
            log.warning(
                "%s: column %r holds %s values nan or inf, taken as numbers; name them under missing if they mean no value",
                self.where, name, f"{counts.words:,}",
            )  # fmt: skip
        if counts.infinite:
            log.warning(
                "%s: column %r holds %s numbers too large to be any but inf, as which they are taken%s",
                self.where, name, f"{counts.infinite:,}", self._examples(name, numbers.HUGE, fits=True),
            )  # fmt: skip
        if (counts.points or counts.commas) and not self.told:
            self.styles[name] = "point?" if counts.may_be_thousands and not elsewhere else style
        marks = ".*[.,].*" if style == "comma" else numbers.THOUSANDS
        if examples := self._examples(name, marks, fits=True):
            log.info("%s: column %r is read as numbers with a decimal %s%s", self.where, name, style, examples)
        return numbers.converted(quoted(name), style, whole)

    def _refuse_number(self, column: Column) -> None:
        """DataError for numbers whose comma or point may mean either, or is not what params.yaml says."""
        name = column.name
        examples = self._examples(name, ".*[.,].*", fits=True)
        if self.told:
            raise DataError(
                f"{self.where}: column {name!r} holds numbers that decimal: {self.how.decimal!r} does not read{examples}; "
                f"correct decimal:, or keep them as they are with types: {{{name}: text}}"
            )
        raise DataError(
            f"{self.where}: column {name!r} may hold decimals or thousands{examples}; "
            "say which mark stands before the decimals, decimal: ',' or decimal: '.'"
        )

    def _date(self, column: Column) -> str | None:
        """SQL of the dates; None when they are none, or not all of one format, which is told."""
        name, values = column.name, column.counts.values
        if iso := dates.of_iso(quoted(name), values, column.date, column.time, column.zoned):
            return iso
        iso_like = column.date + column.time + column.zoned
        counts = dates.count_formats(self.raw.relation, name, [self.how.dates] if self.how.dates else None)
        whole = [format_ for format_, count in counts.items() if count == values]
        if whole and not self.how.dates and not any(map(dates.is_guess, whole)):
            self._tell_short_years(name, whole)
            return None
        if len({format_.replace("%B", "%b") for format_ in whole}) > 1:  # "May" is a short month and a long one
            examples = self._examples(name, ".+", fits=True)
            raise DataError(
                f"{self.where}: column {name!r} may hold days or months first{examples}; "
                f"say which: dates: '{whole[0]}' or dates: '{whole[1]}'"
            )
        if whole:
            return dates.parsed(quoted(name), whole[0])
        if any(counts.values()) or iso_like:
            self._tell_mixture(column, counts)
        return None

    def _tell_short_years(self, name: str, formats: list[str]) -> None:
        """Warns of what may be dates; three numbers with dots are, when each has two digits."""
        dotted = all("." in format_ for format_ in formats)
        if dotted and self._examples(name, dates.DOTTED, fits=False):
            return
        log.warning(
            "%s: column %r is text: it may hold dates whose years have two digits%s; if it does, say dates: %s",
            self.where, name, self._examples(name, ".+", fits=True), " or ".join(map(repr, formats)),
        )  # fmt: skip

    def _tell_mixture(self, column: Column, counts: dict[str, int]) -> None:
        ordered = sorted((format_ for format_, count in counts.items() if count), key=lambda format_: -counts[format_])
        found = dates.mixture(self.raw.relation, column.name, ordered)
        others = found.get("none of them", 0)
        if column.counts.values - others >= SOME * column.counts.values:
            said = ", ".join(f"{count:,} of {format_}" for format_, count in found.items())
            log.warning("%s: column %r is text: its dates have several formats: %s", self.where, column.name, said)

    def _text(self, column: Column) -> str:
        counts, name = column.counts, column.name
        others = counts.values - counts.best
        if counts.best < SOME * counts.values or name in self.raw.only_dates:
            return quoted(name)
        style: Style = self.told or ("point" if counts.point >= counts.comma else "comma")
        examples = self._examples(name, f"{numbers.GRAMMAR[style]}|{numbers.WORD}", fits=False)
        if counts.best >= MOSTLY * counts.values:
            raise DataError(
                f"{self.where}: column {name!r} holds {others:,} values that are no numbers among {counts.values:,}{examples}; "
                f"correct them, name them under missing: [...], or keep all as text with types: {{{name}: text}}"
            )
        log.warning(
            "%s: column %r is text: %s of its %s values are no numbers%s, all others are",
            self.where, name, f"{others:,}", f"{counts.values:,}", examples,
        )  # fmt: skip
        return quoted(name)

    def _not(self, asked: str, column: Column) -> str:
        number = f"{numbers.GRAMMAR['point']}|{numbers.GRAMMAR['comma']}"
        patterns = {"number": number, "date": dates.ISO["date"], "time": dates.ISO["time"]}
        examples = self._examples(column.name, patterns[asked], fits=False)
        raise DataError(
            f"{self.where}: types says that column {column.name!r} is a {asked}, but not all of its values are{examples}; "
            "correct them, name them under missing: [...], or say how they are written with dates: or decimal:"
        )

    def _refuse_idle_dates(self, expressions: dict[str, str | None]) -> None:
        if self.how.dates and not any(literal(self.how.dates) in (expression or "") for expression in expressions.values()):
            raise DataError(
                f"{self.where}: no column holds dates as {self.how.dates!r} in all of its values; correct or remove dates:"
            )

    def _say(self, name: str, what: str, pattern: str, *, fits: bool) -> None:
        log.info("%s: column %r %s%s", self.where, name, what, self._examples(name, pattern, fits=fits))

    def _examples(self, name: str, pattern: str, *, fits: bool) -> str:
        """Up to three values with their rows, of those that fit the pattern or do not; rows alone where values are guarded."""
        fitting = f"coalesce(regexp_full_match({short('value')}, {literal(pattern)}), false)"
        rows = self.raw.relation.select(f"row_number() OVER () AS row, {quoted(name)} AS value").filter(
            f"value IS NOT NULL AND {'' if fits else 'NOT'} {fitting}"
        )
        found = rows.limit(3).fetchall()
        if not found:
            return ""
        shown = [f"row {row}" if self.guard.changes else f"row {row} holds {value[:40]!r}" for row, value in found]
        return f": {', '.join(shown)}"


def _chunks(names: list[str]) -> list[list[str]]:
    return [names[at : at + AT_ONCE] for at in range(0, len(names), AT_ONCE)]


def _few(names: list[str]) -> str:
    return str(names) if len(names) <= 20 else f"{names[:20]} and {len(names) - 20} more"

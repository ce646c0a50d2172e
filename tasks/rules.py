"""Row rules: what each of them demands, and which rows of a shard break it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandera as pa_rules
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks import engine
from tasks.core.contract import EXAMPLES, Violation, violation
from tasks.core.errors import DataError, ParamsError
from tasks.core.images import ImageError, decode_image
from tasks.core.target import as_text
from tasks.params import Rule, Table
from tasks.shards import column_names, read_parquet

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Shard:
    """Some rows of the table, which begin with the row of number `start`, and the file that they were read from."""

    rows: pa.Table
    start: int
    path: Path

    @property
    def numbers(self) -> NDArray[np.int64]:
        return np.arange(self.start, self.start + len(self.rows))


@dataclass(frozen=True)
class Demand:
    """One rule: `breaks` says which rows of a shard break it; examples show the columns."""

    name: str  # what it is of: a column, or "" for whole rows
    words: str
    columns: tuple[str, ...]
    breaks: Callable[[Shard], Mask]
    budget: float | None = None

    @property
    def told(self) -> str:
        """The rule as a quarantined row names it."""
        return f"{self.name}: {self.words}" if self.name else self.words

    def tell(self, shard: Shard, broken: Mask) -> Violation:
        """The rule's violation by rows of a shard."""
        if len(self.columns) == 1:
            found = violation(self.name, self.words, shard.rows.column(self.columns[0]), broken, shard.numbers)
        else:
            places = np.flatnonzero(broken)[:EXAMPLES]
            rows = shard.rows.select(list(self.columns)).take(places).to_pylist() if self.columns else [{}] * len(places)
            values = dict(zip(map(int, places), map(Row, rows), strict=True))
            found = violation(self.name, self.words, values, broken, shard.numbers)
        return replace(found, budget=self.budget)


class Row(dict[str, Any]):
    """Some columns of a row, which shows as a=1, b='x'."""

    def __repr__(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.items()) or "the whole row"


def demands(
    rules: Iterable[Rule],
    table: Table,
    *,
    columns: Sequence[str],
    floats: Iterable[str],
    sets: Path,
    repeats: Mapping[tuple[str, ...], NDArray[np.int64]],
) -> list[Demand]:
    """What the rules demand, and what the table's roles do: a target, a time, and finite numbers.

    `floats`: columns that could hold an infinite number; `repeats`: by their columns the rows that an earlier one equals.
    """
    found = [_demand(rule, columns, sets, repeats) for rule in rules]
    bound = {rule.column for rule in rules if rule.not_null}
    if table.target not in bound:
        found.append(Demand(table.target, "the target is missing", (table.target,), lambda shard: _missing(shard, table.target)))
    if table.time and table.time not in bound:
        found.append(Demand(table.time, "the time is missing", (table.time,), lambda shard: _missing(shard, str(table.time))))
    found += [Demand(name, "an image that can be read", (name,), _no_images(name)) for name in table.images]
    return [*found, *(Demand(name, "finite", (name,), _infinite(name)) for name in floats)]


def _demand(rule: Rule, columns: Sequence[str], sets: Path, repeats: Mapping[tuple[str, ...], NDArray[np.int64]]) -> Demand:
    named = rule.unique or ((rule.column,) if rule.column else ())
    if absent := sorted(set(named) - set(columns)):
        raise DataError(f"validate.rules name columns {absent} that the table lacks; it has {list(columns)}")
    if rule.unique:
        return Demand("", f"unique: {', '.join(rule.unique)}", rule.unique, of_rows(repeats[rule.unique]), rule.budget)
    if rule.expression:
        mentioned = tuple(name for name in columns if name in rule.expression)
        return Demand("", rule.expression, mentioned, _false(rule.expression), rule.budget)
    assert rule.column is not None
    return Demand(rule.column, words(rule), (rule.column,), _of_column(rule, sets), rule.budget)


def of_rows(numbers: NDArray[np.int64]) -> Callable[[Shard], Mask]:
    """Breaks in the rows of these numbers, which are in order."""

    def breaks(shard: Shard) -> Mask:
        broken = np.zeros(len(shard.rows), bool)
        first, last = np.searchsorted(numbers, [shard.start, shard.start + len(shard.rows)])
        broken[numbers[first:last] - shard.start] = True
        return broken

    return breaks


def _missing(shard: Shard, column: str) -> Mask:
    return np.asarray(shard.rows.column(column).is_null())


def _infinite(column: str) -> Callable[[Shard], Mask]:
    return lambda shard: np.asarray(pc.fill_null(pc.is_inf(shard.rows.column(column)), False))


def _no_images(column: str) -> Callable[[Shard], Mask]:
    """Breaks where there is no image, or none that the encoder can decode."""

    def breaks(content: bytes | None) -> bool:
        try:
            decode_image(content or b"", 1, 1, 3)
        except ImageError:
            return True
        return False

    return lambda shard: np.array([breaks(content) for content in shard.rows.column(column).to_pylist()], bool)


def _of_column(rule: Rule, sets: Path) -> Callable[[Shard], Mask]:
    """Breaks where pandera finds a value that the rule does not allow, or where none is and one must be."""
    members = read_parquet(sets / f"{rule.in_set}.parquet").column("value") if rule.in_set else None
    column = str(rule.column)

    def breaks(shard: Shard) -> Mask:
        values = shard.rows.column(column).combine_chunks()
        array = values.chunk(0) if isinstance(values, pa.ChunkedArray) else values
        if rule.matches is not None and (pa.types.is_integer(array.type) or pa.types.is_boolean(array.type)):
            array = array.cast(pa.string())
        broken = _missing(shard, column) if rule.not_null else np.zeros(len(shard.rows), bool)
        checks = _as_checks(rule, array.type, members)
        return broken | _outside(array, checks, rule) if checks else broken

    return breaks


def _outside(array: pa.Array, checks: list[pa_rules.Check], rule: Rule) -> Mask:
    """Rows with a value that fails a check; of text each distinct value is looked at once."""
    if not pa.types.is_string(array.type):
        return _failing(array, checks, rule)
    encoded = array.dictionary_encode()
    failing = np.append(_failing(encoded.dictionary, checks, rule), False)  # a missing value fails none
    broken: Mask = failing[pc.fill_null(encoded.indices, len(failing) - 1).to_numpy()]
    return broken


def _failing(array: pa.Array, checks: list[pa_rules.Check], rule: Rule) -> Mask:
    values = array.to_pandas()
    broken = np.zeros(len(values), bool)
    try:
        pa_rules.SeriesSchema(None, checks=checks, nullable=True).validate(values, lazy=True)
    except pa_rules.errors.SchemaErrors as errors:
        cases = errors.failure_cases
        if cases["index"].isna().any():
            raise DataError(
                f"column {rule.column!r}: rule {words(rule)!r} cannot be applied to {array.type}: {cases['failure_case'].iloc[0]}"
            ) from errors
        broken[cases["index"].astype(int).unique()] = True
    return broken


def _as_checks(rule: Rule, type_: pa.DataType, members: pa.ChunkedArray | None) -> list[pa_rules.Check]:
    """What pandera checks of values of that type; members of a list or set are compared with text as text."""
    text = pa.types.is_string(type_)
    checks = []
    if rule.min is not None:
        checks.append(pa_rules.Check.ge(rule.min))
    if rule.max is not None:
        checks.append(pa_rules.Check.le(rule.max))
    if rule.one_of is not None:
        checks.append(pa_rules.Check.isin([as_text(one) if text else one for one in rule.one_of]))
    if members is not None:
        checks.append(pa_rules.Check.isin((members.cast(pa.string()) if text else members).to_pylist()))
    if rule.matches is not None:
        checks.append(pa_rules.Check.str_matches(f"^(?:{rule.matches})$"))
    return checks


def _false(expression: str) -> Callable[[Shard], Mask]:
    """Breaks where the condition is false; where it is NULL it says nothing."""

    def breaks(shard: Shard) -> Mask:
        broken = np.zeros(len(shard.rows), bool)
        try:
            with engine.connect() as db:
                db.execute("SET threads = 1")  # as many shards are looked at as there are processors
                rows = db.read_parquet(str(shard.path), file_row_number=True)
                broken[rows.filter(_is_false(expression)).select("file_row_number").fetchnumpy()["file_row_number"]] = True
        except duckdb.Error as error:
            raise DataError(
                f"validate.rules: the expression {expression!r} cannot be computed: {engine.first_line(error)}; "
                "mend it in params.yaml, or try_cast() what may be something else"
            ) from error
        return broken

    return breaks


def _is_false(expression: str) -> str:
    """The opposite in SQL, a comment at the expression's end closed. In WHERE an aggregate, which is no row's, is refused."""
    return f"NOT CAST(({expression}\n) AS BOOLEAN)"


def check_expressions(rules: Iterable[Rule], first: Path) -> None:
    """ParamsError for an expression that is no condition over the columns of the table, of which `first` is a shard."""
    for expression in (rule.expression for rule in rules if rule.expression):
        try:
            with engine.connect() as db:
                db.read_parquet(str(first)).filter(f"false AND {_is_false(expression)}").fetchall()
        except duckdb.Error as error:
            raise ParamsError(
                f"validate.rules: the expression {expression!r} is no condition over the table's columns "
                f"{column_names(first)}: {engine.first_line(error)}"
            ) from error


def free_name(name: str, taken: Sequence[str]) -> str:
    """The name, with as many underscores behind it as make it no other column's, small or capital."""
    lowered = {column.lower() for column in taken}
    while name.lower() in lowered:
        name += "_"
    return name


def words(rule: Rule) -> str:
    """The rule of a column as a person reads it."""
    parts = [
        f"at least {rule.min:g}" if rule.min is not None else "",
        f"at most {rule.max:g}" if rule.max is not None else "",
        f"one of {list(rule.one_of)}" if rule.one_of is not None else "",
        f"in the set {rule.in_set}" if rule.in_set is not None else "",
        f"matches {rule.matches}" if rule.matches is not None else "",
        "not missing" if rule.not_null else "",
    ]
    return ", ".join(part for part in parts if part)

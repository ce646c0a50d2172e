"""Counts what guesses need of a landed table, one column at a time by DuckDB, so that the table may be larger than memory."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import duckdb
import pandas as pd

from tasks.core.facts import ColumnFacts, Kind, TableFacts, TargetFacts, TextFacts, TimeCut
from tasks.core.guess_target import TargetGuess
from tasks.core.target import as_text
from tasks.engine import quoted

Connection: TypeAlias = duckdb.DuckDBPyConnection

HEAD = 10_000  # rows, as they stand, in which a counter would rise
SAMPLE = 20_000  # rows for what is tried out on them
MOST_VALUES = 1000  # of a target that are counted by name
SHORT = 300  # characters, beyond which a value is no number, date or path
LONG = 2000  # characters of a text in which words are counted
KINDS: dict[str, Kind] = {
    "BIGINT": "number",
    "DOUBLE": "number",
    "BOOLEAN": "boolean",
    "DATE": "date",
    "TIMESTAMP": "date",
    "VARCHAR": "text",
}  # the types in which sources land
EVERY_DAYS = (10, 7, 5, 4, 9, 6, 3, 11, 8, 2)
TEST_SHARES = (0.2, 0.25, 0.15, 0.3)


def open_table(db: Connection, parts: Sequence[Path]) -> None:
    """The connection knows the landed parts as the view `data`."""
    db.read_parquet([str(part) for part in parts], union_by_name=True, hive_partitioning=False).create_view("data")


def profile(db: Connection) -> TableFacts:
    """The facts of every column of `data`."""
    table = db.view("data")
    every = ", ".join(map(quoted, table.columns))
    rows, twice = _row(db, f"SELECT count(*), count(*) - count(DISTINCT hash({every})) FROM data")
    types = zip(table.columns, map(str, table.types), strict=True)
    return TableFacts(int(rows), int(twice), tuple(_column(db, name, type_, int(rows)) for name, type_ in types))


def _column(db: Connection, name: str, type_: str, rows: int) -> ColumnFacts:
    column, kind = quoted(name), KINDS[type_]
    known = f"{column} IS NOT NULL" + (f" AND NOT isnan({column})" if type_ == "DOUBLE" else "")
    present, distinct, repeating, top, first, last = _row(
        db,
        f"SELECT coalesce(sum(n), 0), count(*), coalesce(sum(n) FILTER (n > 1), 0), coalesce(max(n), 0), min(v), max(v) "
        f"FROM (SELECT {column} AS v, count(*) AS n FROM data WHERE {known} GROUP BY 1)",
    )
    facts = ColumnFacts(
        name=name,
        kind=kind,
        rows=rows,
        missing=rows - int(present),
        distinct=int(distinct),
        repeating=int(repeating),
        top=int(top),
        first="" if first is None else str(first),
        last="" if last is None else str(last),
    )
    if not present:
        return facts
    match kind:
        case "number":
            return _number(db, facts, type_)
        case "date":
            (days,) = _row(db, f"SELECT count(DISTINCT CAST({column} AS DATE)) FROM data")
            return replace(facts, days=int(days))
        case "text":
            return replace(facts, text=_text(db, name))
        case _:
            return facts


def _number(db: Connection, facts: ColumnFacts, type_: str) -> ColumnFacts:
    column = quoted(facts.name)
    whole, infinite, nan = True, 0, 0
    if type_ == "DOUBLE":
        whole, infinite, nan = _row(
            db,
            f"SELECT coalesce(bool_and({column} = trunc({column})) FILTER (isfinite({column})), false), "
            f"count(*) FILTER (isinf({column})), count(*) FILTER (isnan({column})) FROM data",
        )
    (rising,) = _row(
        db,
        f"SELECT coalesce(bool_and(v > before) FILTER (before IS NOT NULL), false) FROM "
        f"(SELECT v, lag(v) OVER (ORDER BY i) AS before FROM "
        f"(SELECT {column} AS v, row_number() OVER () AS i FROM data LIMIT {HEAD}))",
    )
    return replace(facts, whole=bool(whole), infinite=int(infinite), nan=int(nan), rising=bool(rising))


def _text(db: Connection, name: str) -> TextFacts:
    """Shares over the distinct values, each counted once for every row that holds it."""
    tests = {  # none is tried out on long texts, which are nothing of the sort and take long to look through
        "numeric": "TRY_CAST(v AS DOUBLE) IS NOT NULL",
        "padded": r"regexp_full_match(v, '0\d+')",
        "dated": "length(v) >= 8 AND TRY_CAST(v AS TIMESTAMP) IS NOT NULL",
        "pictures": r"regexp_full_match(lower(v), '.*\.(png|jpe?g|gif|bmp|webp|tiff?)')",
    }
    shares = ", ".join(
        f"sum(n * CASE WHEN length(v) <= {SHORT} THEN CAST({test} AS INTEGER) ELSE 0 END) / sum(n)" for test in tests.values()
    )
    nested = "sum(n * CAST(left(trim(v), 1) || right(trim(v), 1) IN ('[]', '{}') AS INTEGER)) / sum(n)"
    length_in_words = f"len(string_split_regex(trim(left(v, {LONG})), '\\s+'))"
    counted = f"(SELECT {quoted(name)} AS v, count(*) AS n FROM data WHERE {quoted(name)} IS NOT NULL GROUP BY 1)"
    measured = _row(
        db, f"SELECT sum(n * {length_in_words}) / sum(n), sum(n * length(v)) / sum(n), {shares}, {nested} FROM {counted}"
    )
    words, length, numeric, padded, dated, pictures, lists = map(float, measured)
    odd: list[str] = []
    if numeric >= 0.5:
        said = db.sql(f"SELECT v FROM {counted} WHERE TRY_CAST(v AS DOUBLE) IS NULL ORDER BY n DESC, v LIMIT 6").fetchall()
        odd = [str(word) for (word,) in said]
    return TextFacts(words, length, numeric, padded, dated, pictures, lists, tuple(odd))


def count_target(db: Connection, name: str) -> TargetFacts:
    """How often each of the target's values stands in the table, the most frequent first."""
    column = quoted(name)
    found = db.sql(
        f"SELECT {column}, count(*) FROM data WHERE {column} IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {MOST_VALUES}"
    )
    return TargetFacts(name, tuple((value, int(n)) for value, n in found.fetchall() if value == value))


def draw_sample(db: Connection, seed: int) -> pd.DataFrame:
    """Some rows of the table as it landed, by chance, the same for the same seed."""
    return db.sql(f"SELECT * FROM data USING SAMPLE reservoir({SAMPLE} ROWS) REPEATABLE ({seed})").df()


def cut_by_time(db: Connection, time: str, target: TargetGuess, least: int) -> TimeCut | None:
    """The first split by time that gives each part `least` rows of each class; None when no split does."""
    when = f"TRY_CAST({quoted(time)} AS TIMESTAMP)"
    wanted = [as_text(label) for label in target.classes] or [""]
    by = quoted(target.name) if target.classes else "''"
    rows = f"(SELECT {when} AS t, {by} AS y FROM data WHERE {when} IS NOT NULL AND {quoted(target.name)} IS NOT NULL)"
    if not _row(db, f"SELECT count(*) FROM {rows}")[0]:
        return None
    oldest, newest = _row(db, f"SELECT CAST(min(t) AS DATE), CAST(max(t) AS DATE) FROM {rows}")
    for share in TEST_SHARES:
        (start,) = _row(db, f"SELECT CAST(quantile_cont(t, {1 - share}) AS DATE) FROM {rows}")
        start += timedelta(days=1)  # so that no day stands on both sides
        last_days = (newest - start).days + 1
        for days in EVERY_DAYS:
            # As preprocess cuts: whole days since 1970 validate.
            part = (
                f"CASE WHEN t >= DATE '{start}' THEN 'test' "
                f"WHEN floor(epoch(t) / 86400) % {days} = 0 THEN 'validation' ELSE 'train' END"
            )
            counts: dict[str, dict[str, int]] = {"train": {}, "validation": {}, "test": {}}
            for name, label, n in db.sql(f"SELECT {part}, y, count(*) FROM {rows} GROUP BY 1, 2").fetchall():
                counts[name][as_text(label)] = int(n)
            sizes = {name: sum(found.values()) for name, found in counts.items()}
            whole = sum(sizes.values())
            fair = 0.04 * whole <= sizes["validation"] <= 0.3 * whole and 0.05 * whole <= sizes["test"] <= 0.4 * whole
            if fair and all(found.get(label, 0) >= least for found in counts.values() for label in wanted):
                moves = last_days if last_days <= (newest - oldest).days / 2 else None
                return TimeCut(str(start), moves, days, sizes["train"], sizes["validation"], sizes["test"])
    return None


def reads_as_time(db: Connection, name: str) -> bool:
    """Whether every present value of the column reads as a point in time, and there is one."""
    column = quoted(name)
    present, read = _row(db, f"SELECT count({column}), count(TRY_CAST({column} AS TIMESTAMP)) FROM data")
    return bool(present == read and present)


def _row(db: Connection, query: str) -> tuple[Any, ...]:
    found: list[tuple[Any, ...]] = db.sql(query).fetchall()
    return found[0]

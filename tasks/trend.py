"""What of the valid rows the report shows beside their statistics: the target over time, rows by day, the sides of the split."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import duckdb
import numpy as np
from numpy.typing import NDArray

from tasks import engine
from tasks.core.report import Part
from tasks.core.split import PARTS
from tasks.core.target import as_text, encode_labels
from tasks.core.timeline import Period
from tasks.params import Table
from tasks.shards import read_shards, shard_paths

MOST = 60  # periods
DAYS = {"day": 1, "week": 7, "month": 30, "quarter": 91, "year": 365}


def target_over_time(valid: Path, table: Table) -> list[Period]:
    """The periods in order, as many as are easy to look at; one that holds the whole table when there is no time."""
    target, time = engine.quoted(table.target), engine.quoted(table.time) if table.time else None
    with engine.connect() as db:
        db.execute("SET threads = 1")  # sums are then added up in one order, and every run gives the same ones
        db.read_parquet([str(path) for path in shard_paths(valid)]).create_view("valid")
        start = f"CAST(date_trunc('{_period(db, time)}', {time}) AS DATE)" if time else "DATE '1970-01-01'"
        told = ", ".join(_values(table, _as_told(db, target)))
        rows = db.sql(f"SELECT {start} AS start, count(*), {told} FROM valid GROUP BY 1 ORDER BY 1").fetchall()
    return [Period(start, count, tuple(map(float, values))) for start, count, *values in rows]


def rows_by_day(valid: Path, columns: Sequence[str]) -> dict[str, dict[date, int]]:
    """Of each of the columns, which hold dates or times, the rows of each day."""
    if not columns:
        return {}
    with engine.connect() as db:
        db.read_parquet([str(path) for path in shard_paths(valid)]).create_view("valid")
        found = {}
        for column in columns:
            day = f"CAST({engine.quoted(column)} AS DATE)"
            counts = f"SELECT {day}, count(*) FROM valid WHERE {engine.quoted(column)} IS NOT NULL GROUP BY 1 ORDER BY 1"
            found[column] = {day: int(rows) for day, rows in db.sql(counts).fetchall()}
    return found


def split_sizes(valid: Path, table: Table, parts: NDArray[np.uint8]) -> list[Part]:
    """The sides of the split: rows, and the mean of a number or the share of the second class of two."""
    rows, sums, start = np.zeros(len(PARTS)), np.zeros(len(PARTS)), 0
    for shard in read_shards(valid, [table.target]):
        own = parts[start : start + len(shard)]
        start += len(shard)
        rows += np.bincount(own, minlength=len(PARTS))
        if table.task != "multiclass":
            values = shard.column(0).to_pandas().to_numpy()
            told = values if table.task == "regression" else encode_labels(values, table.classes)
            sums += np.bincount(own, weights=told, minlength=len(PARTS))
    return [
        Part(name, int(count), None if table.task == "multiclass" or not count else float(total / count))
        for name, count, total in zip(PARTS, rows, sums, strict=True)
    ]


def _period(db: duckdb.DuckDBPyConnection, time: str) -> str:
    """The shortest period of which the table spans few enough."""
    days = db.sql(f"SELECT date_diff('day', min({time}), max({time})) FROM valid").fetchall()[0][0] or 0
    return next((name for name, length in DAYS.items() if days / length <= MOST), "year")


def _as_told(db: duckdb.DuckDBPyConnection, target: str) -> str:
    """The target in SQL, a class that came as a number with a point without it."""
    kind = str(db.sql(f"SELECT {target} FROM valid LIMIT 0").types[0])
    return f"CAST({target} AS BIGINT)" if kind in ("DOUBLE", "FLOAT") else target


def _values(table: Table, target: str) -> list[str]:
    """What is told of a period's target, in SQL."""
    match table.task:
        case "regression":
            name = engine.quoted(table.target)
            return [f"avg({name})", f"quantile_cont({name}, 0.1)", f"quantile_cont({name}, 0.9)"]
        case "binary":
            classes = table.classes[1:]
        case "multiclass":
            classes = table.classes
    return [f"avg(CAST(CAST({target} AS VARCHAR) = {engine.literal(as_text(label))} AS INT))" for label in classes]

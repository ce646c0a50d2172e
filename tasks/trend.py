"""The target over time: of each day, week, month, quarter or year the rows and what their target is."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import duckdb

from tasks import engine
from tasks.core.target import as_text
from tasks.params import Table
from tasks.shards import shard_paths

MOST = 60  # periods
DAYS = {"day": 1, "week": 7, "month": 30, "quarter": 91, "year": 365}


@dataclass(frozen=True)
class Period:
    """The rows of some days and what their target is: (share of the second class,) of two, (mean, 10%, 90%) of a number, the
    share of each of more classes in their order."""

    start: date
    rows: int
    values: tuple[float, ...]


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

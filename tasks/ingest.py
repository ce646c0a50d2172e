"""Stage ingest: lands every source, joins them by the query and writes the table as Parquet shards, with a snapshot."""

import difflib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from tasks import engine, stage
from tasks.core.errors import DataError
from tasks.params import Privacy, Sources, Table
from tasks.shards import STEP_ROWS, column_names, count_rows, filled, read_parquet, write_shards
from tasks.sources.land import land
from tasks.sources.lock import read_lock
from tasks.sources.store import alone

log = logging.getLogger("tasks.ingest")


@alone()
def ingest(sources: Sources, privacy: Privacy, table: Table, *, lock: Path, raw: Path, sets: Path, snapshot: Path) -> None:
    """`raw` holds the table of the locked sources in a total order, so that the same sources give the same bytes; `sets` a
    Parquet file for each of the table's sets."""
    locked = read_lock(lock)
    landed: dict[str, list[Path]] = {}
    for name, source in sources.items():
        landed[name] = land(name, source, privacy, locked.get(name, {}))
        log.info("%s: %s rows", name, f"{sum(map(count_rows, landed[name])):,}")

    with stage.replacing(raw) as folder, stage.replacing(sets) as sets_folder, _told_of_query():
        try:
            rows, described = _write_table(table, landed, folder, sets_folder)
        except duckdb.OutOfMemoryException:
            log.info("its rows are long: sorts them again in one thread, which needs less memory")
            stage.discard(folder)
            rows, described = _write_table(table, landed, folder, sets_folder, threads=1)

    with stage.replacing(snapshot) as aside:
        content = {
            "sources": {name: locked[name] for name in sources},
            "source_rows": {name: sum(map(count_rows, parts)) for name, parts in landed.items()},
            "rows": rows,
            "content": stage.content_hash(raw),
            **described,
        }
        aside.write_text(json.dumps(content, indent=2))
    log.info("%s rows, %s columns, %s to %s", f"{rows:,}", len(described["columns"]), described["first"], described["last"])


def _write_table(
    table: Table, landed: dict[str, list[Path]], folder: Path, sets: Path, threads: int | None = None
) -> tuple[int, dict[str, Any]]:
    """The query's rows stand in `folder` and the values of the sets in `sets`; how many rows there are, and their description."""
    with engine.connect(threads) as db:
        for name, parts in landed.items():
            db.read_parquet([str(part) for part in parts], union_by_name=True, hive_partitioning=False).create_view(name)
        relation = _query(db, table, landed)
        order = sorted(relation.columns, key=lambda column: column != table.time)  # the time first, the others as they stand
        reader = relation.order(", ".join(map(engine.quoted, order))).to_arrow_reader(STEP_ROWS)
        rows = write_shards(filled(reader), folder, reader.schema)
        if not rows:
            raise DataError("table.query gives no row; expected at least one: check its WHERE and its joins")
        _write_sets(db, table, sets)
        return rows, _describe(db, folder, table.time)


@contextmanager
def _told_of_query() -> Iterator[None]:
    """What DuckDB cannot compute of a row, a DataError says with the value."""
    try:
        yield
    except duckdb.Error as error:
        raise DataError(f"table.query: {engine.first_line(error)}; correct the source, or the query in params.yaml") from error


def _query(db: duckdb.DuckDBPyConnection, table: Table, landed: dict[str, list[Path]]) -> duckdb.DuckDBPyRelation:
    """The query's relation with every column that params.yaml gives a role; DataError says which source column is gone."""
    try:
        relation = db.sql(table.query)
    except duckdb.BinderException as error:
        raise DataError(_missing_column(str(error), landed)) from error
    except duckdb.Error as error:
        raise DataError(f"table.query: {engine.first_line(error)}") from error
    wanted = [table.target, *table.features, *table.slices, *([table.time] if table.time else [])]
    if absent := sorted(set(wanted) - set(relation.columns)):
        raise DataError(f"table.query gives no column {absent}, which params.yaml names; it gives {relation.columns}")
    return relation


def _missing_column(message: str, landed: dict[str, list[Path]]) -> str:
    """Which column the sources lack, what it may be called now, in how many rows, and what three of them hold."""
    head = engine.first_line(Exception(message))
    found = re.search(r'column named "([^"]+)"|column "([^"]+)"', head)
    if not found:
        return f"table.query does not fit the sources: {head}"
    column = found[1] or found[2]
    names = {name: column_names(parts[0]) for name, parts in landed.items()}
    alias = re.search(r'Table "([^"]+)"', head)
    near = {
        (name, close): difflib.SequenceMatcher(None, column, close).ratio()
        for name, columns in names.items()
        for close in difflib.get_close_matches(column, columns, n=1, cutoff=0.5)
        if column.lower() in close.lower() or difflib.SequenceMatcher(None, column, close).ratio() >= 0.6
    }
    said = f"column {column!r} is missing from the sources" + (f" (wanted of {alias[1]!r})" if alias else "")
    if not near:
        held = "; ".join(f"{name} ({sum(map(count_rows, landed[name])):,} rows): {columns}" for name, columns in names.items())
        return f"{said}; they hold {held}. Correct the source, or the query in params.yaml"
    source, close = max(near, key=lambda pair: near[pair])
    examples = read_parquet(landed[source][0], [close]).column(0)[:3].to_pylist()
    return (
        f"{said}, in all {sum(map(count_rows, landed[source])):,} rows of {source!r}; "
        f"it has {close!r} with {examples}. Was it renamed? Correct the source, or the query in params.yaml"
    )


def _describe(db: duckdb.DuckDBPyConnection, folder: Path, time: str | None) -> dict[str, Any]:
    """Time range, where there is a time, and column types of the written shards."""
    written = db.read_parquet(f"{folder}/*.parquet")
    column = engine.quoted(time) if time else "NULL"
    first, last = db.sql(f"SELECT min({column}), max({column}) FROM written").fetchall()[0]
    types = dict(zip(written.columns, map(str, written.types), strict=True))
    return {"first": str(first) if time else None, "last": str(last) if time else None, "columns": types}


def _write_sets(db: duckdb.DuckDBPyConnection, table: Table, folder: Path) -> None:
    """A Parquet file of one column with the distinct values of each set's query, and sets.json with their names."""
    folder.mkdir(parents=True)
    (folder / "sets.json").write_text(json.dumps(sorted(table.sets)))  # DVC warns of a folder with nothing in it
    for name, query in table.sets.items():
        relation = db.sql(query)
        if len(relation.columns) != 1:
            raise DataError(f"table.sets.{name} gives the columns {relation.columns}; expected one")
        column = engine.quoted(relation.columns[0])
        relation.select(f"{column} AS value").filter("value IS NOT NULL").distinct().order("value").to_parquet(
            str(folder / f"{name}.parquet")
        )


if __name__ == "__main__":
    stage.main(ingest)

"""Stage ingest: lands every source, joins them by the query and writes the table as Parquet shards, with a snapshot."""

import difflib
import hashlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from tasks import stage
from tasks.core.errors import DataError
from tasks.params import Sources, Table
from tasks.shards import SHARD_ROWS, column_names, count_rows, read_parquet, write_shards
from tasks.sources import file, landing
from tasks.sources.lock import read_lock

log = logging.getLogger("tasks.ingest")


def ingest(sources: Sources, table: Table, *, lock: Path, raw: Path, snapshot: Path) -> None:
    """`raw` holds the table of the locked sources in a total order, so that the same sources give the same bytes."""
    locked = read_lock(lock)
    marks = {name: check_lock(name, file.fingerprint(name, source), locked) for name, source in sources.items()}

    landed = {name: _landed(name, sources, str(marks[name]["sha256"])) for name in sources}
    with duckdb.connect() as db, stage.replacing(raw) as folder, _told_of_query():
        for name, parquet in landed.items():
            db.read_parquet(str(parquet)).create_view(name)
        relation = _query(db, table, landed)
        order = [table.time, *(column for column in relation.columns if column != table.time)]
        reader = relation.order(", ".join(f'"{column}"' for column in order)).to_arrow_reader(SHARD_ROWS)
        rows = write_shards(reader, folder, reader.schema)
        if not rows:
            raise DataError("table.query gives no row; expected at least one: check its WHERE and its joins")
        described = _describe(db, folder, table.time)

    with stage.replacing(snapshot) as aside:
        content = {"sources": marks, "rows": rows, "content": stage.content_hash(raw), **described}
        aside.write_text(json.dumps(content, indent=2))
    log.info("%s rows, %s columns, %s to %s", f"{rows:,}", len(described["columns"]), described["first"], described["last"])


@contextmanager
def _told_of_query() -> Iterator[None]:
    """What DuckDB cannot compute of a row, a DataError says with the value."""
    try:
        yield
    except duckdb.Error as error:
        raise DataError(f"table.query: {landing.first_line(error)}; correct the source, or the query in params.yaml") from error


def check_lock(name: str, mark: dict[str, str | int], locked: dict[str, Any]) -> dict[str, str | int]:
    """The source's fingerprint, once it is the one that the lock names."""
    if locked.get(name) != mark:
        raise DataError(
            f"source {name!r} is not what sources.lock says: found {mark}, locked {locked.get(name)}; "
            "`python -m flows.train` looks again and rewrites the lock, or put the locked content back"
        )
    return mark


def _landed(name: str, sources: Sources, sha256: str) -> Path:
    """The source as Parquet; one that landed before, under the same hash and reading options, is not read again."""
    options = hashlib.sha256(sources[name].model_dump_json().encode()).hexdigest()[:8]
    parquet = Path(".cache/ingest") / f"{name}-{sha256[:16]}-{options}.parquet"
    if not parquet.exists():
        for old in parquet.parent.glob(f"{name}-*.parquet"):
            old.unlink()
        landing.land(name, sources[name], parquet)
    log.info("%s: %s rows", name, f"{count_rows(parquet):,}")
    return parquet


def _query(db: duckdb.DuckDBPyConnection, table: Table, landed: dict[str, Path]) -> duckdb.DuckDBPyRelation:
    """The query's relation with every column that params.yaml gives a role; DataError says which source column is gone."""
    try:
        relation = db.sql(table.query)
    except duckdb.BinderException as error:
        raise DataError(_missing_column(str(error), landed)) from error
    except duckdb.Error as error:
        raise DataError(f"table.query: {landing.first_line(error)}") from error
    wanted = [table.time, table.target, *table.numbers, *table.categories, *table.slices]
    if absent := sorted(set(wanted) - set(relation.columns)):
        raise DataError(f"table.query gives no column {absent}, which params.yaml names; it gives {relation.columns}")
    return relation


def _missing_column(message: str, landed: dict[str, Path]) -> str:
    """Which column the sources lack, what it may be called now, in how many rows, and what three of them hold."""
    head = landing.first_line(Exception(message))
    found = re.search(r'column named "([^"]+)"|column "([^"]+)"', head)
    if not found:
        return f"table.query does not fit the sources: {head}"
    column = found[1] or found[2]
    names = {name: column_names(path) for name, path in landed.items()}
    alias = re.search(r'Table "([^"]+)"', head)
    near = {
        (name, close): difflib.SequenceMatcher(None, column, close).ratio()
        for name, columns in names.items()
        for close in difflib.get_close_matches(column, columns, n=1, cutoff=0.5)
    }
    said = f"column {column!r} is missing from the sources" + (f" (wanted of {alias[1]!r})" if alias else "")
    if not near:
        return f"{said}; they hold {names}. Correct the source, or the query in params.yaml"
    source, close = max(near, key=lambda pair: near[pair])
    examples = read_parquet(landed[source], [close]).column(0)[:3].to_pylist()
    return (
        f"{said}, in all {count_rows(landed[source]):,} rows of {source!r}; "
        f"it has {close!r} with {examples}. Was it renamed? Correct the source, or the query in params.yaml"
    )


def _describe(db: duckdb.DuckDBPyConnection, folder: Path, time: str) -> dict[str, Any]:
    """Time range and column types of the written shards."""
    written = db.read_parquet(f"{folder}/*.parquet")
    first, last = db.sql(f'SELECT min("{time}"), max("{time}") FROM written').fetchall()[0]
    types = dict(zip(written.columns, map(str, written.types), strict=True))
    return {"first": str(first), "last": str(last), "columns": types}


if __name__ == "__main__":
    stage.main(ingest)

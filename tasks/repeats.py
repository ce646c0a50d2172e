"""Rows of a table that equal an earlier one: in every column, or in a few that are to tell rows apart."""

from collections.abc import Sequence
from pathlib import Path

import duckdb
import numpy as np
from numpy.typing import NDArray

from tasks import engine
from tasks.shards import SHARD_ROWS, shard_paths


def find_repeats(raw: Path, keys: Sequence[tuple[str, ...]], everything: Sequence[str]) -> dict[tuple[str, ...], NDArray[np.int64]]:
    """For each key the numbers, in order, of the rows that an earlier row equals in its columns; () stands for every column.

    A row that misses a value of a key equals no other in it; in every column, missing equals missing.
    """
    keys = list(dict.fromkeys(keys))
    with engine.connect() as db:
        db.read_parquet([str(path) for path in shard_paths(raw)]).create_view("raw")
        hashes = _hashes(db, [key or tuple(everything) for key in keys])
        return {key: _repeats(db, key or tuple(everything), hashes.pop(0), complete=bool(key)) for key in keys}


def _hashes(db: duckdb.DuckDBPyConnection, keys: Sequence[Sequence[str]]) -> list[NDArray[np.uint64]]:
    """Of each key the hash in every row, 8 bytes each, in the table's order."""
    columns = [f"hash({', '.join(map(engine.quoted, key))}) AS h{place}" for place, key in enumerate(keys)]
    relation = db.sql(f"SELECT {', '.join(columns)} FROM raw")
    found = [np.empty(db.view("raw").shape[0], np.uint64) for _ in keys]
    start = 0
    for batch in relation.to_arrow_reader(SHARD_ROWS):
        for hashes, values in zip(found, batch.columns, strict=True):
            hashes[start : start + len(values)] = values.to_numpy()
        start += batch.num_rows
    return found


def _repeats(db: duckdb.DuckDBPyConnection, key: Sequence[str], hashes: NDArray[np.uint64], *, complete: bool) -> NDArray[np.int64]:
    """Of the few rows that share their hash with another, those that truly equal an earlier one."""
    ordered = np.sort(hashes)
    shared = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    if not len(shared):
        return np.zeros(0, np.int64)
    candidates = _rows_with(hashes, shared)
    del hashes, shared  # DuckDB needs the memory: of a table that holds itself many times, every row is a candidate
    db.register("candidate", {"candidate_row": candidates})
    columns = ", ".join(map(engine.quoted, key))
    whole = " AND ".join(f"{engine.quoted(column)} IS NOT NULL" for column in key) if complete else "true"
    rows = db.sql(
        f"""SELECT numbered_row FROM (SELECT row_number() OVER () - 1 AS numbered_row, {columns} FROM raw)
        SEMI JOIN candidate ON numbered_row = candidate_row WHERE {whole}
        QUALIFY row_number() OVER (PARTITION BY {columns} ORDER BY numbered_row) > 1"""
    ).fetchnumpy()["numbered_row"]
    return np.sort(np.asarray(rows, np.int64))


def _rows_with(hashes: NDArray[np.uint64], shared: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The rows whose hash is one of the shared ones, which are in order; some at a time, to stay small."""
    found = []
    for start in range(0, len(hashes), SHARD_ROWS):
        some = hashes[start : start + SHARD_ROWS]
        places = np.minimum(np.searchsorted(shared, some), len(shared) - 1)
        found.append(np.flatnonzero(shared[places] == some) + start)
    return np.concatenate(found)

"""Parquet shards of a table: written in order, read one at a time; the only place that opens Parquet with pyarrow."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow_hotfix  # noqa: F401  closes CVE-2023-47248 in pyarrow 10: a crafted file ran code when it was opened

from tasks.core.errors import DataError

SHARD_ROWS = 122_880  # as many as a row group of DuckDB has
SHARD_BYTES = 128 << 20  # in memory, about: rows that are wide make shards of fewer
STEP_ROWS = 8192  # that are taken at a time to fill a shard
WRITERS = 2


def filled(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The rows in tables of SHARD_ROWS, or of fewer that take SHARD_BYTES; the same rows in batches of one size give the same."""
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            held.append(batch.slice(start, SHARD_ROWS - rows))
            start += held[-1].num_rows
            rows += held[-1].num_rows
            size += held[-1].nbytes
            if rows == SHARD_ROWS or size >= SHARD_BYTES:
                yield pa.Table.from_batches(held).combine_chunks()
                held, rows, size = [], 0, 0
    if held:
        yield pa.Table.from_batches(held).combine_chunks()


def write_shards(batches: Iterable[pa.RecordBatch | pa.Table], folder: Path, schema: pa.Schema) -> int:
    """`folder` holds one numbered Parquet file for each batch with rows, at least one; returns how many rows there are."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = written = 0
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(WRITERS) as pool:  # what makes the batches goes on while they are packed
        for batch in batches:
            if batch.num_rows:
                table = batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
                waiting.append(pool.submit(write_parquet, table, folder / f"{written:05d}.parquet"))
                written += 1
                rows += table.num_rows
            if len(waiting) > WRITERS:
                waiting.popleft().result()
        for future in waiting:
            future.result()
    if not written:
        write_parquet(schema.empty_table(), folder / "00000.parquet")
    return rows


def write_parquet(table: pa.Table, path: Path) -> None:
    """One Parquet file holds the table."""
    pq.write_table(table, path)


def shard_paths(folder: Path) -> list[Path]:
    """The shards in order."""
    return sorted(folder.glob("*.parquet"), key=lambda path: int(path.stem))


def read_shards(folder: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The shards in order, each as one table; DataError names a file that is not whole."""
    for path in shard_paths(folder):
        yield read_parquet(path, columns)


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """One Parquet file; DataError when it is not whole."""
    try:
        return pq.read_table(path, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is not a whole Parquet file ({error}); delete its folder and run again") from error


def count_rows(path: Path) -> int:
    """Rows of one Parquet file, from its footer."""
    return int(pq.ParquetFile(path).metadata.num_rows)


def table_schema(folder: Path) -> pa.Schema:
    """Columns and types of a table in shards, from the footer of its first one."""
    return pq.read_schema(shard_paths(folder)[0]).remove_metadata()


def column_names(path: Path) -> list[str]:
    """Columns of one Parquet file, from its footer."""
    return list(pq.ParquetFile(path).schema_arrow.names)

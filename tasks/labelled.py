"""Rows of the prediction log whose truth has come back: the newest of them, read from a folder or bucket by DuckDB."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa

from tasks import engine
from tasks.cloud.storage import Folder, Storage, StorageError, open_storage
from tasks.core.errors import DataError

MOST_ROWS = 200_000  # the newest of a window, which a comparison is as good with as with all
SLACK = timedelta(days=31)  # in which most truth comes; only where there is none is the log read further back
FARTHEST = timedelta(days=400)


@dataclass(frozen=True)
class Labelled:
    """The rows of a window, the newest last: `truth`, `time` and the columns `feature_...` as they were sent."""

    rows: pa.Table
    start: str  # ISO 8601, UTC
    end: str  # exclusive


def read_labelled(
    place: str, model: str, *, days: float, start: datetime | None, end: datetime | None, not_before: datetime | None
) -> Labelled | None:
    """The newest MOST_ROWS of the window, or of the last `days` before the newest row with truth; None where there is none.

    Rows before `not_before` are left out, and those of a shadow. Of an id that stands in several rows nobody knows which of them is
    meant, and none is taken; of several truths the one that came last holds. Times are UTC.
    DataError for a log that cannot be read.
    """
    storage = open_storage(place)
    try:
        logged = _days(storage, f"{model}/date=")
        told = _days(storage, f"{model}/feedback/date=")
        if not logged or not told:
            return None
        newest = max(logged)
        spans = [FARTHEST] if start else [timedelta(days=days) + SLACK, FARTHEST]
        for span in spans:
            first = start.date() if start else newest - span
            if not_before:
                first = max(first, not_before.date())
            last = end.date() if end else newest
            keys = [key for day, found in logged.items() if first <= day <= last for key in found]
            truths = [key for day, found in told.items() if day >= first for key in found]
            if keys and truths:
                with _local(storage, keys) as rows, _local(storage, truths) as feedback:
                    if found := _join(rows, feedback, days, start, end, not_before):
                        return found
        return None
    except StorageError as error:
        raise DataError(f"the prediction log cannot be read: {error}") from error
    except duckdb.Error as error:
        raise DataError(f"the prediction log {place} cannot be read: {engine.first_line(error)}") from error


def _days(storage: Storage, prefix: str) -> dict[date, list[str]]:
    """The Parquet files by the day of their partition."""
    found: dict[date, list[str]] = {}
    for key in storage.keys(prefix):
        if key.endswith(".parquet"):
            try:
                day = date.fromisoformat(key.removeprefix(prefix)[:10])
            except ValueError:  # of somebody else
                continue
            found.setdefault(day, []).append(key)
    return found


@contextmanager
def _local(storage: Storage, keys: list[str]) -> Iterator[list[str]]:
    """The files on this machine: where they lie, or copies for as long as the block."""
    if isinstance(storage, Folder):
        yield [str(storage.path(key)) for key in keys]
        return
    engine.SPILL.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=engine.SPILL) as folder:
        paths = [Path(folder) / f"{i}.parquet" for i in range(len(keys))]
        for key, path in zip(keys, paths, strict=True):
            storage.download(key, path)
        yield [str(path) for path in paths]


def _join(
    rows: list[str], feedback: list[str], days: float, start: datetime | None, end: datetime | None, not_before: datetime | None
) -> Labelled | None:
    log, truths = (
        f"read_parquet([{', '.join(map(engine.literal, paths))}], union_by_name=true, hive_partitioning=false)"
        for paths in (rows, feedback)
    )
    bounds = [(">=", start), ("<", end), (">=", not_before)]
    within = "".join(f" AND l.time {sign} TIMESTAMPTZ {engine.literal(when.isoformat())}" for sign, when in bounds if when)
    with engine.connect() as db:
        db.execute(
            f"CREATE VIEW labelled AS SELECT l.*, t.truth FROM {log} l JOIN "
            f"(SELECT id, arg_max(truth, received) AS truth FROM {truths} GROUP BY id) t USING (id) "
            f"WHERE l.channel <> 'shadow'{within} QUALIFY count(*) OVER (PARTITION BY l.id) = 1"
        )
        [(newest,)] = db.sql("SELECT epoch(max(time)) FROM labelled").fetchall()
        if newest is None:
            return None
        last = datetime.fromtimestamp(newest, UTC)
        first = start or last - timedelta(days=days)
        table = db.sql(
            f"SELECT truth, time, COLUMNS('^feature_.*') FROM labelled WHERE time >= TIMESTAMPTZ '{first.isoformat()}' "
            f"ORDER BY time DESC, id LIMIT {MOST_ROWS}"
        ).arrow()
    found = table.read_all() if isinstance(table, pa.RecordBatchReader) else table
    until = end or last + timedelta(microseconds=1)
    return Labelled(found.take(pa.array(range(len(found) - 1, -1, -1))), first.isoformat(), until.isoformat())

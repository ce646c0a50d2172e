"""Where a source lands: Parquet parts in a folder of its own, and a list of them that is always whole."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from tasks.shards import count_rows
from tasks.stage import discard, replacing

LANDED = Path(".cache/ingest")
LOCK = Path(".cache/ingest.lock")

log = logging.getLogger("tasks.ingest")


@contextmanager
def alone(workspace: Path = Path()) -> Iterator[None]:
    """Within the block no other process lands sources in the workspace: this one waits for it, or it for this one."""
    path = workspace / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, is_singleton=True)  # a block within a block of the same process waits for nobody
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another process lands this workspace's sources: waits for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class Part:
    """A Parquet file of the store: `mark` is what it holds, a file's hash or the last value of a watermark."""

    file: str
    mark: str
    rows: int
    styles: dict[str, str] = field(default_factory=dict)  # how a file's columns write decimals, for its neighbors to do the same


class Store:
    """The parts of one source under one way of reading it; a part that a kill kept out of the list does not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listing = folder / "parts.json"
        self.parts: list[Part] = self._read()

    def _read(self) -> list[Part]:
        try:
            parts = [Part(**part) for part in json.loads(self.listing.read_text())]
        except (OSError, ValueError, TypeError):
            return []
        return parts if all((self.folder / part.file).is_file() for part in parts) else []

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def paths(self) -> list[Path]:
        return [self.folder / part.file for part in self.parts]

    @property
    def workspace(self) -> Path:
        """What the relative paths of a source start from."""
        return self.folder.parents[len(LANDED.parts) + 1]

    @property
    def schema(self) -> pa.Schema:
        """Columns and types of the rows, of which there are some."""
        return pq.read_schema(self.paths[-1]).remove_metadata()

    @contextmanager
    def adding(self, mark: str, styles: dict[str, str] | None = None) -> Iterator[Path]:
        """A name to write a Parquet file to; when the block ends well, it is a part, and listed last."""
        taken = {part.file for part in self.parts}
        number = next(n for n in range(len(taken) + 1) if f"{n:05d}.parquet" not in taken)
        path = self.folder / f"{number:05d}.parquet"
        with replacing(path) as aside:
            yield aside
        self._write([*self.parts, Part(path.name, mark, count_rows(path), styles or {})])

    def keep(self, marks: list[str]) -> None:
        """Only the parts with these marks remain, in this order."""
        by_mark = {part.mark: part for part in self.parts}
        self._write([by_mark[mark] for mark in marks if mark in by_mark])

    def clear(self) -> None:
        """No part remains."""
        self._write([])

    def _write(self, parts: list[Part]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.listing) as aside:
            aside.write_text(json.dumps([asdict(part) for part in parts]))
        self.parts = parts
        listed = {part.file for part in parts}
        for path in self.folder.glob("*.parquet"):
            if path.name not in listed:
                discard(path)


class Draft:
    """A part in the making: tables are added to a file aside, which becomes a part of the store when it is given a mark."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.path = store.folder / ".draft.parquet"
        self.rows = 0
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
        discard(self.path)

    def write(self, table: pa.Table) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.path, table.schema)
        if table.num_rows:
            self._writer.write_table(table)
            self.rows += table.num_rows

    def close(self) -> None:
        """The file is whole."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def end(self, mark: str) -> None:
        """What was written is the store's last part, and the draft is empty."""
        self.close()
        with self.store.adding(mark) as aside:
            self.path.replace(aside)
        self.rows = 0

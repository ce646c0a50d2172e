"""Where a source lands: Parquet parts in a folder of its own, and a list of them that is always whole."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.shards import count_rows
from tasks.stage import discard, replacing

LANDED = Path(".cache/ingest")


@dataclass(frozen=True)
class Part:
    """A Parquet file of the store: `mark` is what it holds, a file's hash or the last value of a watermark."""

    file: str
    mark: str
    rows: int


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

    @contextmanager
    def adding(self, mark: str) -> Iterator[Path]:
        """A name to write a Parquet file to; when the block ends well, it is a part, and listed last."""
        taken = {part.file for part in self.parts}
        number = next(n for n in range(len(taken) + 1) if f"{n:05d}.parquet" not in taken)
        path = self.folder / f"{number:05d}.parquet"
        with replacing(path) as aside:
            yield aside
        self._write([*self.parts, Part(path.name, mark, count_rows(path))])

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

"""The pages of an API on disk: each whole, protected, and with the place to go on from, so that a kill costs one page."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tasks.core.errors import DataError
from tasks.core.privacy import Guard
from tasks.params import ApiSource
from tasks.progress import SECONDS_BETWEEN_LINES
from tasks.sources.paging import Paging, Sheet
from tasks.sources.records import Scalar, is_after, protected_rows, text_of
from tasks.sources.request import Caller
from tasks.stage import discard, replacing

FRESH_SECONDS = 3600.0  # pages that are older are not gone on from: the server's data has moved


@dataclass(frozen=True)
class Kept:
    """What stands of one page: rows, their columns in order, and the largest value of the watermark."""

    sheet: Sheet
    rows: int
    columns: list[str]
    last: str | None


@dataclass(frozen=True)
class Span:
    """What is asked for: all, or what is not before `since`; and of what comes nothing after `upto`."""

    since: str | None = None
    upto: str | None = None


class Fetched:
    """The pages of one source in a folder: `NNNNNN.jsonl`, one row a line, counts once `NNNNNN.json` says what it holds."""

    def __init__(self, folder: Path, span: Span) -> None:
        self.folder, self.span = folder, span
        self.begun = folder / "begun.json"
        self.pages = self._read()
        if not self.pages:
            self.discard()
            folder.mkdir(parents=True)
            with replacing(self.begun) as aside:
                aside.write_text(json.dumps(asdict(span)))

    @property
    def rows(self) -> int:
        return sum(page.rows for page in self.pages)

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(column for page in self.pages for column in page.columns))

    def add(self, sheet: Sheet, rows: Sequence[Mapping[str, Scalar]], last: str | None) -> None:
        """The page stands on disk, its rows before the word that they do."""
        number = len(self.pages)
        columns = list(dict.fromkeys(column for row in rows for column in row))
        page = Kept(sheet, len(rows), columns, last)
        with replacing(self._rows(number)) as aside:
            aside.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
        with replacing(self._word(number)) as aside:
            aside.write_text(json.dumps(asdict(page)))
        self.pages.append(page)

    def joined(self, counter: str) -> Path:
        """One file of all rows, each with its number under that name: DuckDB would hold 32 MB for each file of many."""
        path = self.folder / "joined.jsonl"
        count = 0
        with path.open("wb") as whole:
            for number, page in enumerate(self.pages):
                with self._rows(number).open("rb") as rows:
                    for row in rows if page.rows else ():
                        whole.write(b'{"%s": %d%s%s' % (counter.encode(), count, b"" if row == b"{}\n" else b", ", row[1:]))
                        count += 1
        return path

    def discard(self) -> None:
        """Nothing is left; killed on the way, what is left is not gone on from."""
        discard(self.begun)
        discard(self.folder)

    def _read(self) -> list[Kept]:
        """The whole pages from the first on, if they are of this span and the last of them is young."""
        try:
            if json.loads(self.begun.read_text()) != asdict(self.span):
                return []
            pages: list[Kept] = []
            while (word := self._word(len(pages))).exists():
                told = json.loads(word.read_text())
                pages.append(Kept(**{**told, "sheet": Sheet(**told["sheet"])}))
            age = time.time() - self._word(len(pages) - 1).stat().st_mtime if pages else 0.0
        except (OSError, ValueError, TypeError, KeyError):
            return []
        return pages if 0 <= age < FRESH_SECONDS else []

    def _rows(self, number: int) -> Path:
        return self.folder / f"{number:06d}.jsonl"

    def _word(self, number: int) -> Path:
        return self.folder / f"{number:06d}.json"


def fetch(name: str, source: ApiSource, guard: Guard, folder: Path, span: Span) -> Fetched:
    """All pages stand in the folder, protected; asked for are those that did not stand there already."""
    fetched = Fetched(folder, span)
    shown = time.monotonic()
    with Caller(name, source, guard) as caller:
        paging = Paging(caller, source, span.since, [page.sheet for page in fetched.pages])
        for sheet, raw in paging.remaining():
            rows = protected_rows(name, raw, guard, source.missing)
            if source.watermark:
                rows = _within(name, rows, source.watermark.column, span)
            if source.key:
                _refuse_keyless(name, rows, source.key)
            # A fingerprint of rows that hold what nobody may see could be guessed from, and stays in memory.
            fetched.add(replace(sheet, digest="") if guard.changes else sheet, rows, _largest(name, source, rows, fetched))
            if time.monotonic() - shown >= SECONDS_BETWEEN_LINES:
                shown = time.monotonic()
                print(f"{name}: {len(fetched.pages):,} pages, {fetched.rows:,} rows", flush=True)
    return fetched


def _within(name: str, rows: list[dict[str, Scalar]], column: str, span: Span) -> list[dict[str, Scalar]]:
    kept = []
    for row in rows:
        value = row.get(column)
        if value is None:
            raise DataError(
                f"source {name!r}: a row has no value in {column!r}, its watermark; it has {sorted(row)}; "
                "name a column that every row has, or remove watermark"
            )
        text = text_of(value)
        early = span.since is not None and is_after(name, span.since, text)
        late = span.upto is not None and is_after(name, text, span.upto)
        if not early and not late:
            kept.append(row)
    return kept


def _refuse_keyless(name: str, rows: list[dict[str, Scalar]], key: str) -> None:
    if without := next((row for row in rows if row.get(key) is None), None):
        raise DataError(f"source {name!r}: a row has no value in {key!r}, its key; it has {sorted(without)}; correct key")


def _largest(name: str, source: ApiSource, rows: Sequence[Mapping[str, Scalar]], before: Fetched) -> str | None:
    """The largest value of the watermark so far, as the server wrote it."""
    last = before.pages[-1].last if before.pages else before.span.since
    for row in rows if source.watermark else ():
        assert source.watermark is not None
        text = text_of(row[source.watermark.column])
        last = text if last is None or is_after(name, text, last) else last
    return last

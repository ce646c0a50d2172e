"""The way through an API's pages: where the next one is, which is the last, and that it ends."""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from tasks.core.errors import DataError
from tasks.params import ApiSource
from tasks.sources.request import ATTEMPTS_MALFORMED, AbsentError, Answer, Caller, NoPageError

MAX_PAGES = 100_000
MAX_EMPTY = 1_000  # pages without a row after each other
DOUBT_SECONDS = 1.0  # before a page is asked for again that is empty or short, which may be the end or a passing fault
REPEAT_PAUSES = (0.0, 1.0, 4.0)  # seconds before each attempt at a page that brings what came before

Place = int | str | None  # a page's number, offset, cursor or URL; None: the first by cursor or link


@dataclass(frozen=True)
class Sheet:
    """A page that came: where it stands and the next one does, a hash of its rows and how many there are."""

    place: Place
    next: Place
    is_last: bool
    digest: str
    count: int


class Paging:
    """Goes from page to page, on from those that are there already; the same page, or the same place, twice is no progress.

    By number and offset the end is where a page is empty twice and the one after it is empty too; by cursor and link, where
    no next one is named. A page by number that is shorter than others counts as it is when it comes so twice.
    """

    def __init__(self, caller: Caller, source: ApiSource, since: str | None, before: Sequence[Sheet]) -> None:
        self.caller, self.source, self.page = caller, source, source.page
        self.done = 0
        size = {source.page.size_parameter: str(source.page.size)} if source.page and source.page.size_parameter else {}
        new = {source.watermark.parameter: since} if source.watermark and since is not None else {}
        self.url = self._parsed(source.url).copy_merge_params({**source.query, **size, **new})
        self.counts = source.page is not None and source.page.by in ("number", "offset")
        self.places: set[Place] = set()
        self.digests: set[str] = set()
        self.longest = 0
        self.empty = 0  # the last pages that were so
        self.last: Sheet | None = None
        for sheet in before:
            self._add(sheet)

    def remaining(self) -> Iterator[tuple[Sheet, list[dict[str, Any]]]]:
        """Page after page to the last; DataError when that never comes."""
        while self.last is None or not self.last.is_last:
            if self.done >= MAX_PAGES:
                raise DataError(f"{self._where()}: the pages do not end after {MAX_PAGES:,}; check page and query in params.yaml")
            if self.empty >= MAX_EMPTY:
                raise DataError(
                    f"{self._where()}: the {self.empty:,} pages before it have no row and each names a next one; "
                    "expected rows or an end: check page and query in params.yaml"
                )
            sheet, rows = self._sheet(self.last.next if self.last else self._first())
            self._add(sheet)
            yield sheet, rows

    def _add(self, sheet: Sheet) -> None:
        self.places.add(sheet.place)
        self.digests |= {sheet.digest} if sheet.count else set()
        self.longest = max(self.longest, sheet.count)
        self.empty = 0 if sheet.count else self.empty + 1
        self.last = sheet
        self.done += 1

    def _first(self) -> Place:
        if self.page is None or not self.counts:
            return None
        return self.page.start if self.page.start is not None else int(self.page.by == "number")

    def _sheet(self, place: Place) -> tuple[Sheet, list[dict[str, Any]]]:
        """The page at the place, with rows that no page before brought; asked for again where the same came."""
        for pause in REPEAT_PAUSES:
            time.sleep(pause)
            rows, after = self._believed(place)
            digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
            if not rows or digest not in self.digests:
                is_last = after is None or self._ends(place, after, len(rows))
                return Sheet(place, None if is_last else after, is_last, digest, len(rows)), rows
        raise DataError(
            f"{self._where()}: it brings the same {len(rows):,} rows as a page before, however often it is asked for; "
            "check page in params.yaml: its parameter may not be what the server calls it"
        )

    def _believed(self, place: Place) -> tuple[list[dict[str, Any]], Place]:
        """The page; asked for twice where it may lack rows, of which the answer with more counts."""
        first = self._rows(place)
        if not self._is_doubtful(place, first[1], len(first[0])):
            return first
        time.sleep(DOUBT_SECONDS)
        second = self._rows(place)
        return second if len(second[0]) >= len(first[0]) else first

    def _is_doubtful(self, place: Place, after: Place, count: int) -> bool:
        """Whether the page is where a fault of the server would look like the end, or like fewer rows."""
        if self.page is None:
            return False
        if not count and self.empty:
            return False  # the page before was doubted
        if self.page.by == "number":
            whole = self.longest or self.page.size
            return whole is None or count < whole
        return not count and (self.counts or after in (None, place))

    def _rows(self, place: Place) -> tuple[list[dict[str, Any]], Place]:
        try:
            return self.caller.get(self._url(place), self.done + 1, lambda answer: self._read(answer, place))
        except AbsentError:
            size = (self.page.size if self.page else None) or 0
            if self.counts and self.last and self.last.count < max(size, self.longest):
                return [], None  # after a short page many an API says 404: it was the last
            raise

    def _ends(self, place: Place, after: Place, count: int) -> bool:
        """Whether a page that names another one, or is counted, is the last."""
        if self.counts:
            return not count and (bool(self.empty) or after == place)
        if after == place and not count:
            return True  # asking goes on for ever: so some servers say that there is no more
        if after == place or after in self.places:
            raise DataError(
                f"{self._where()}: the next page that it names came before; expected a new place, or none at the end: "
                "check page.next and page.parameter in params.yaml"
            )
        return False

    def _url(self, place: Place) -> httpx.URL:
        if self.page is None or place is None:
            return self.url
        if self.page.by != "link":
            assert self.page.parameter is not None
            return self.url.copy_set_param(self.page.parameter, str(place))
        link = self.url.join(self._parsed(str(place)))
        absent = {key: value for key, value in self.source.query.items() if key not in link.params}
        return self.caller.own(link.copy_merge_params(absent), self._where())

    def _read(self, answer: Answer, place: Place) -> tuple[list[dict[str, Any]], Place]:
        """The page's rows, and where the next one is; NoPageError when the answer has another shape."""
        rows = _at(answer.value, self.source.rows)
        if rows is None and self.source.rows and _holds(answer.value, self.source.rows):
            rows = []  # null for an empty list, as some languages write it
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            where = f"at {self.source.rows!r}" if self.source.rows else "as the answer"
            said = f"expected a list of objects {where}, found {_shape_of(rows)}; the answer is {self._shape(answer.value)}"
            raise NoPageError(said, ATTEMPTS_MALFORMED)
        return rows, self._after(answer, place, len(rows))

    def _after(self, answer: Answer, place: Place, count: int) -> Place:
        if self.page is None:
            return None
        if self.counts:
            assert isinstance(place, int)
            # An empty page may be one whose rows the server left out: the place after it is looked at too.
            return place + (1 if self.page.by == "number" else count or self.page.size or self.longest)
        if self.page.next is None:
            return answer.link and self._link(answer.link)
        after = _at(answer.value, self.page.next)
        if not isinstance(answer.value, dict) or (after and (after is True or not isinstance(after, str | int))):
            found = _shape_of(after) if isinstance(answer.value, dict) else f"none: the answer is {self._shape(answer.value)}"
            raise NoPageError(f"expected a text or a number at page.next {self.page.next!r}, found {found}", ATTEMPTS_MALFORMED)
        return self._link(str(after)) if after and self.page.by == "link" else after or None

    def _link(self, text: str) -> str:
        """The next page's URL as it may stand on disk."""
        self._parsed(text)
        return self.caller.without_token(text)

    def _parsed(self, text: str) -> httpx.URL:
        try:
            return httpx.URL(text)
        except httpx.InvalidURL as error:
            said = self.caller.redacted(str(error))
            raise DataError(
                f"{self._where()}: its URL is none: {said}; correct the source's url, or page, in params.yaml"
            ) from None

    def _shape(self, value: Any) -> str:
        return self.caller.redacted(f"an object with {sorted(value)[:8]}") if isinstance(value, dict) else _shape_of(value)

    def _where(self) -> str:
        return f"source {self.caller.name!r}: page {self.done + 1}"


def _at(value: Any, path: str) -> Any:
    """What stands at the dotted path, None where nothing does."""
    for part in path.split(".") if path else ():
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _holds(value: Any, path: str) -> bool:
    *way, last = path.split(".")
    above = _at(value, ".".join(way))
    return isinstance(above, dict) and last in above


def _shape_of(value: Any) -> str:
    """The kind of value in words, without the value."""
    if isinstance(value, list):
        strange = next((item for item in value if not isinstance(item, dict)), None)
        return "a list of objects" if strange is None else f"a list with {_shape_of(strange)} in it"
    return {dict: "an object", str: "a text", bool: "true or false", type(None): "nothing"}.get(type(value), "a number")

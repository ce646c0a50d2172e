"""What was judged, in the release store: one record for each look at a window, made by conditional create.

monitor/<model>/<start>-<end>.json            its rows, judged when the window is over
monitor/<model>/<start>-<end>.truth.json      their quality, judged when truths had their time
monitor/<model>/<start>-<end>.late.json       truths that came after that, counted once
...told.json                                  that the record before was made known
Of two monitors at once one makes the record; a kill leaves it or leaves none, and what was judged and not told is told again.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, get_args
from uuid import uuid4

from tasks.cloud.storage import Conflict, Missing, Storage
from tasks.core.tally import Tally
from tasks.core.verdict import DriftReport, Verdict
from tasks.releases import ReleaseError

Look = Literal["rows", "truth", "late"]
SUFFIX: dict[Look, str] = {"rows": "", "truth": ".truth", "late": ".late"}
KEY = re.compile(r"(\d{8}T\d{6})Z-(\d{8}T\d{6})Z(\.truth|\.late)?(\.told)?\.json")
STAMP = "%Y%m%dT%H%M%S"


class Span(NamedTuple):
    """A window's times in UTC, the end exclusive."""

    start: datetime
    end: datetime

    def __str__(self) -> str:
        short = "%Y-%m-%d" if all(one.hour == one.minute == one.second == 0 for one in self) else "%Y-%m-%d %H:%M"
        return f"{self.start:{short}} to {self.end:{short}}"


@dataclass(frozen=True)
class Marks:
    """Which looks at a window are on record, and which of these were told."""

    judged: frozenset[Look]
    told: frozenset[Look]


class Ledger:
    """The records of one model. StorageError when the store does not answer."""

    def __init__(self, storage: Storage, model: str) -> None:
        self.storage, self.folder = storage, f"monitor/{model}"

    def spans(self) -> dict[Span, Marks]:
        """Every window on record, by time."""
        found: dict[Span, tuple[set[Look], set[Look]]] = {}
        looks: dict[str | None, Look] = {None: "rows", ".truth": "truth", ".late": "late"}
        for key in self.storage.keys(f"{self.folder}/"):
            parts = KEY.fullmatch(key.removeprefix(f"{self.folder}/"))
            if parts:
                try:
                    start, end = (datetime.strptime(one, STAMP).replace(tzinfo=UTC) for one in parts.groups()[:2])
                except ValueError:  # of somebody else
                    continue
                judged, told = found.setdefault(Span(start, end), (set(), set()))
                (told if parts[4] else judged).add(looks[parts[3]])
        return {span: Marks(*map(frozenset, found[span])) for span in sorted(found)}

    def read(self, span: Span, look: Look) -> dict[str, Any] | None:
        """The record; None when there is none, ReleaseError when it cannot be read."""
        key = self.key(span, look)
        try:
            document = json.loads(self.storage.read(key)[0])
            _check(document)
        except Missing:
            return None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ReleaseError(f"{self.storage.place}/{key} is no record of a judged window ({error!r}); restore it") from error
        return dict(document)

    def record(self, span: Span, look: Look, document: Mapping[str, Any]) -> bool:
        """The record is there; False when another made it first, whose one it is."""
        own = {**document, "id": uuid4().hex}  # equal documents of two monitors would both pass for the first
        try:
            self.storage.create(self.key(span, look), json.dumps(own, ensure_ascii=False).encode())
        except Conflict:
            return False
        return True

    def tell(self, span: Span, look: Look) -> None:
        """It is on record that the look was made known."""
        self.storage.create(self._told(span, look), b"{}")

    def is_told(self, span: Span, look: Look) -> bool:
        """Whether the look was made known."""
        try:
            self.storage.read(self._told(span, look))
        except Missing:
            return False
        return True

    def _told(self, span: Span, look: Look) -> str:
        return self.key(span, look).removesuffix(".json") + ".told.json"

    def key(self, span: Span, look: Look) -> str:
        return f"{self.folder}/{span.start:{STAMP}}Z-{span.end:{STAMP}}Z{SUFFIX[look]}.json"


def _check(document: Mapping[str, Any]) -> None:
    """ValueError, TypeError, KeyError or AttributeError unless the document has all that a record has."""
    if (verdict := report_of(document).verdict) not in get_args(Verdict):
        raise ValueError(f"verdict {verdict!r}")
    for time in (document["judged"], document.get("truths", document["judged"]), *document["hours"]):
        if datetime.fromisoformat(time).tzinfo is None:
            raise ValueError(f"time {time!r} without a zone")
    tuple(document["notes"])
    if document["tally"] is not None:
        Tally.from_json(document["tally"])


def report_of(document: Mapping[str, Any]) -> DriftReport:
    """The report in a record."""
    return DriftReport.from_json(document["report"])

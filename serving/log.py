"""The prediction log: every answered row with its features, scores, version and id, as Parquet in a folder or under an S3 prefix.

`<place>/<model>/date=2013-07-04/hour=18/<host>-<pid>-<token>-<n>.parquet`, hours in UTC; what became true later stands beside it in
`<place>/<model>/feedback/date=2013-07-04/...`. Files are whole or not there, and are never changed.
"""

import hashlib
import logging
import os
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter
from starlette.types import Scope

from serving.bundle import Bundle
from serving.models import Model, Served
from serving.records import Answered, Truth, answered_batch, parquet, truth_batch
from serving.request import RequestError
from tasks.cloud.storage import StorageError, open_storage

log = logging.getLogger("serving.log")

FLUSH_SECONDS = 60.0  # that a row waits at most: what reads the log sees the last minute
MOST_ROWS = 100_000  # not yet written, beyond which rows are dropped; some 35 bytes for each column of a row
MOST_FRESH = 20_000  # of them as they came, which are larger
FILE_ROWS = 50_000  # of a file
PIECE_ROWS = 500  # that are made to columns, or written, before other threads get their turn
TICK_SECONDS = 0.1
RETRY_SECONDS, MOST_RETRY_SECONDS = 5.0, 60.0  # after a file could not be written
STOP_SECONDS = 15.0  # in which all must be written at the end
ANSWER_SECONDS = 3.0  # that an answer waits at most until its rows are written
REQUEST_ID = b"x-request-id"
GIVEN_ID = re.compile(r"[!-~]{1,128}")
HASH_SPACE = 2**64


@dataclass
class Pending:
    """Rows of one model, version and hour that are to become a file: record batches of arro3."""

    since: float
    batches: list[Any] = field(default_factory=list)
    rows: int = 0
    tries: int = 0
    not_before: float = 0.0


class PredictionLog:
    """Takes rows on the event loop, in a microsecond a request, and writes them in a thread of its own."""

    def __init__(
        self,
        place: str,
        *,
        registry: CollectorRegistry,
        sample: float = 1.0,
        most_rows: int = MOST_ROWS,
        flush: float = FLUSH_SECONDS,
    ) -> None:
        """StorageError for a place that cannot be one. `sample` is the share of requests that are logged."""
        self.storage, self.registry = open_storage(place), registry
        self.sample, self.most_rows, self.flush = sample, most_rows, flush
        self.piece, self.patience = min(PIECE_ROWS, max(1, most_rows // 4)), min(1.0, flush)  # rows that are worth a look, seconds
        made: dict[str, Any] = {"registry": registry, "namespace": "tidemill"}
        self.rows = Counter("log_rows", "Rows that the prediction log has written", **made)
        self.dropped = Counter("log_dropped", "Rows that it has lost", ["reason"], **made)
        self.withheld = Counter("log_withheld", "Values of personal columns that came raw and were not written", ["column"], **made)
        self.source = f"{re.sub(r'[^A-Za-z0-9.]', '_', socket.gethostname())}-{os.getpid()}-{os.urandom(3).hex()}"
        self.fresh: deque[Answered | Truth] = deque()
        self.added = self.taken = self.done = self.written = self.lost = self.files = 0  # each changed by one thread alone
        self.pending: dict[tuple[str, str, int], Pending] = {}
        self.complained = False
        self.waiting: deque[threading.Event] = deque()  # to be set once all was written, or tried to be
        self.awaited = threading.Event()  # the last of them
        self.awaited.set()
        self.stopping, self.wake = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self.thread.start()

    def record(
        self,
        bundle: Bundle,
        request: str,
        rows: Sequence[Mapping[str, Any]],
        scores: NDArray[Any],
        *,
        channel: str = "production",
        key: str | None = None,
    ) -> None:
        """The rows will be logged, unless sampling leaves the request out or memory is full. For the event loop alone.

        Rows and scores are kept as they are: nobody may change them afterwards. A request of one row gives the row its id,
        one of several ids with `-0`, `-1` and so on behind it.
        """
        if self.sample < 1 and not is_sampled(request, self.sample):
            return
        count = len(rows)
        if self._has_room(count):
            self.added += count
            self.fresh.append(Answered(time.time(), bundle, request, rows, scores, channel, key))
        else:
            self.lost += count
            self.dropped.labels("full").inc(count)

    def add_truths(self, truths: Sequence[Truth]) -> None:
        """The truths will be written; RequestError 503 when there is no room, so that nobody believes them kept."""
        if not self._has_room(len(truths)):
            raise RequestError(
                503, "the feedback cannot be written at present; send it again later", retry_after=int(RETRY_SECONDS)
            )
        self.added += len(truths)
        self.fresh.extend(truths)

    def write_out(self) -> None:
        """All that was added is written, unless the place does not take it now: of use where the process may be frozen after.

        While a place keeps silent about a write that was waited for in vain, nobody waits for the next ones.
        """
        if self.added == self.done or not self.awaited.is_set() or not self.thread.is_alive():
            return
        self.awaited = threading.Event()
        self.waiting.append(self.awaited)
        self.wake.set()
        self.awaited.wait(ANSWER_SECONDS)

    def stop(self) -> str:
        """All that can be written is written; returns what became of all rows, in words."""
        self.stopping.set()
        self.wake.set()
        self.thread.join(STOP_SECONDS)
        if unwritten := self.added - self.done:
            self.dropped.labels("unwritten").inc(unwritten)
        return f"prediction log: {self.written:,} rows written, {self.lost + unwritten:,} dropped"

    def _has_room(self, rows: int) -> bool:
        return self.added - self.taken + rows <= MOST_FRESH and self.added - self.done + rows <= self.most_rows

    def _run(self) -> None:
        last = False
        while not last:
            self.wake.wait(TICK_SECONDS)
            self.wake.clear()
            last, waiting = self.stopping.is_set(), [self.waiting.popleft() for _ in range(len(self.waiting))]
            now = last or bool(waiting)
            if self.fresh and (now or self.added - self.taken >= self.piece or time.time() - self.fresh[0].time >= self.patience):
                self._take()
            for key in [key for key in self.pending if now or self._is_due(key)]:
                self._write(key)
            for one in waiting:
                one.set()

    def _take(self) -> None:
        """What came until now stands in columns, by the file that it belongs to."""
        for _ in range(len(self.fresh)):
            entries = [self.fresh.popleft()]
            count = len(entries[0])
            while self.fresh and count < PIECE_ROWS and _shelf(self.fresh[0]) == _shelf(entries[0]):
                entries.append(self.fresh.popleft())
                count += len(entries[-1])
            pending = self.pending.setdefault(_shelf(entries[0]), Pending(entries[0].time))
            if isinstance(entries[0], Answered):
                pending.batches.append(answered_batch([one for one in entries if isinstance(one, Answered)], self.withheld))
            else:
                pending.batches.append(truth_batch([one for one in entries if isinstance(one, Truth)]))
            pending.rows += count
            self.taken += count
            if pending.rows >= FILE_ROWS:
                self._write(_shelf(entries[0]))
            if not self.fresh:
                return
            time.sleep(0.0005)  # lets go of Python's lock: the event loop waits for no more than a piece

    def _is_due(self, key: tuple[str, str, int]) -> bool:
        pending, now = self.pending[key], time.time()
        if now < pending.not_before:
            return False
        return bool(pending.tries) or now - pending.since >= self.flush or _hour(now) != _hour(pending.since)

    def _write(self, key: tuple[str, str, int]) -> None:
        """The rows are a file, or wait for the next try."""
        pending = self.pending[key]
        name = f"{self.source}-{self.files}.parquet"
        folder, _, hour = key
        when = datetime.fromtimestamp(hour * 3600, UTC)
        part = f"date={when:%Y-%m-%d}" if folder.endswith("/feedback") else f"date={when:%Y-%m-%d}/hour={when:%H}"
        if time.time() < pending.not_before and not self.stopping.is_set():
            return
        try:
            self.storage.create(f"{folder}/{part}/{name}", parquet(pending.batches))
        except StorageError as error:
            pending.tries += 1
            pending.not_before = time.time() + min(RETRY_SECONDS * 2 ** (pending.tries - 1), MOST_RETRY_SECONDS)
            if not self.complained:
                log.error("the prediction log cannot be written, and is tried again: %s", error)
                self.complained = True
            return
        if self.complained:
            log.warning("the prediction log is written again")
            self.complained = False
        del self.pending[key]
        self.files += 1
        self.written += pending.rows
        self.rows.inc(pending.rows)
        self.done += pending.rows


def score(
    model: Model,
    served: Served,
    rows: list[dict[str, Any]],
    scope: Scope,
    log: PredictionLog | None,
    given: str | None = None,
) -> tuple[Served, NDArray[np.float32], str | None]:
    """Who answers the rows and their scores, as `Model.score`; and if a log is kept, where they then are, the request's id: that of
    its header, or the one `given` otherwise."""
    if log is None:
        return *model.score(served, rows), None
    name, key = name_of(scope, given), scope.get("key")

    def shadowed(shadow: Served, scores: NDArray[np.float32]) -> None:
        log.record(shadow.bundle, name, rows, scores, channel="shadow", key=key)

    served, scores = model.score(served, rows, shadowed)
    log.record(served.bundle, name, rows, scores, channel=model.channel_of(served), key=key)
    return served, scores, name


def name_of(scope: Scope, given: str | None = None) -> str:
    """The request's id: that of its header, or the one `given` otherwise, or a new one."""
    return request_id(next((value.decode("latin-1") for name, value in scope["headers"] if name == REQUEST_ID), given or ""))


def id_header(name: str | None) -> dict[str, str]:
    """The header that tells a client the id of its request."""
    return {} if name is None else {REQUEST_ID.decode(): name}


def request_id(given: str) -> str:
    """The id that a client gave its request, where it is one; else a new one."""
    return given if GIVEN_ID.fullmatch(given) else os.urandom(16).hex()


def is_sampled(request: str, share: float) -> bool:
    """Whether the request is among that share of all, by its id: every part of a service decides alike."""
    return int.from_bytes(hashlib.blake2b(request.encode(), digest_size=8).digest(), "big") < share * HASH_SPACE


def _shelf(entry: Answered | Truth) -> tuple[str, str, int]:
    """The file that it belongs to: folder, version, hours since 1970."""
    folder = entry.bundle.name if isinstance(entry, Answered) else f"{entry.bundle.name}/feedback"
    return folder, entry.bundle.version, _hour(entry.time)


def _hour(seconds: float) -> int:
    return int(seconds // 3600)

"""What the service counts of itself, for Prometheus: requests, errors, latency, rows, and what the rows and answers look like.

Of several worker processes each counts into files of one folder (PROMETHEUS_MULTIPROC_DIR, which the supervisor names), and any
of them tells the sum.
"""

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from serving.bundle import Bundle
from tasks.core.expected import SHARES, SPREADS, count_lacking, counted_columns, labels_of, measure

# Seconds: from a tenth of what one row takes to what a client waits for at most.
SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
SOON = 0.05  # seconds
SLOW_CLIENT = 408  # the status of a request whose client did not end it: the time is the client's
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
FILES = ("counter", "histogram", "gauge_livesum", "gauge_livemax")  # of a process there
FILE_BYTES = 1 << 20  # of each


class Metrics:
    """The counters of one process."""

    def __init__(self) -> None:
        """OSError when the disk has no room for the counters of several processes."""
        self.registry = CollectorRegistry()
        self.shared = FOLDER in os.environ
        if self.shared:
            _take_room(Path(os.environ[FOLDER]))
        made: dict[str, Any] = {"registry": self.registry, "namespace": "tidemill"}
        of = ["model", "version"]
        self.requests = Counter("requests", "Requests by route and status", ["route", "status"], **made)
        self.seconds = Histogram("request_seconds", "Time to answer, by route", ["route"], buckets=SECONDS, **made)
        self.waiting = Gauge("requests_in_progress", "Requests that are being answered", multiprocess_mode="livesum", **made)
        self.rows = Histogram("request_rows", "Rows of a request for predictions", of, buckets=ROWS, **made)
        self.missing = Counter("missing_values", "Rows without a value, by column", [*of, "column"], **made)
        self.unknown = Counter(
            "unknown_categories", "Rows with a word that training did not know, by column", [*of, "column"], **made
        )
        self.shares = Histogram(
            "prediction", "Answered probabilities, by class where there are several", [*of, "class_"], buckets=SHARES, **made
        )
        self.spreads = Histogram(
            "prediction_spreads",
            "Answered numbers, in standard deviations around the mean of training",
            of,
            buckets=SPREADS,
            **made,
        )
        self.release = Gauge(
            "release_info",
            "The release that answers in a channel: 1",
            [*of, "candidate", "channel"],
            multiprocess_mode="livemax",
            **made,
        )
        self.refused = Counter(
            "releases_refused", "Bundles that a channel named and that were not taken", ["model", "channel"], **made
        )
        self.behind = Gauge(
            "channel_refused",
            "1 while a channel names a release that is not served",
            ["model", "channel"],
            multiprocess_mode="livemax",
            **made,
        )
        self.since = Gauge(
            "channel_since_timestamp_seconds",
            "When the channel was moved to what it serves, in seconds since 1970",
            ["model", "channel"],
            multiprocess_mode="livemax",
            **made,
        )
        self.silent = Counter("store_errors", "Looks at the release store that it did not answer", ["model"], **made)
        self.tried = Counter("trial_requests", "Requests that a canary or shadow was tried on", [*of, "channel"], **made)
        self.failed = Counter("trial_errors", "Requests that a canary or shadow could not answer", [*of, "channel"], **made)
        if not self.shared:
            ProcessCollector(registry=self.registry, namespace="")
        self.counts: WeakSet[Counts] = WeakSet()
        self.ended: dict[tuple[str, int], list[float]] = {}  # by route and status, the seconds of requests that are to be counted
        self.due = False

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request was answered, which will be counted with the next."""
        self.ended.setdefault((route, status), []).append(seconds)
        self.soon()

    def soon(self) -> None:
        """What is seen until then is counted together: of one row that costs NumPy and the files as much as the row's answer."""
        if not self.due:
            self.due = True
            asyncio.get_running_loop().call_later(SOON, self.settle)

    def turned_away(self, status: int) -> None:
        """A request was refused before it was known what it asks for."""
        self.requests.labels("none", str(status)).inc()

    def text(self) -> bytes:
        """All of it in Prometheus' text format; of other processes up to SOON ago."""
        self.settle()
        return generate_latest(self.everyone())

    def settle(self) -> None:
        """Of this process nothing that was seen waits to be counted."""
        self.due = False
        ended, self.ended = self.ended, {}
        for (route, status), times in ended.items():
            self.requests.labels(route, str(status)).inc(len(times))
            if status == SLOW_CLIENT:
                continue
            observe = self.seconds.labels(route).observe
            for seconds in times:
                observe(seconds)
        for counts in self.counts:
            counts.count()

    def everyone(self) -> CollectorRegistry:
        """What all processes of the service counted."""
        if not self.shared:
            return self.registry
        everyone = CollectorRegistry()
        MultiProcessCollector(everyone)  # type: ignore[no-untyped-call]
        return everyone


class Counts:
    """What is counted of one bundle's rows and answers."""

    def __init__(self, metrics: Metrics, bundle: Bundle) -> None:
        self.metrics, self.encoder, self.names = metrics, bundle.encoder, (bundle.name, bundle.version)
        self.seen: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []  # `num`, `cat` and scores that are to be counted
        self.sizes: list[int] = []  # of the requests that they are of
        metrics.counts.add(self)
        self.rows = metrics.rows.labels(*self.names)
        flagged, words = counted_columns(bundle.encoder)
        self.missing = [metrics.missing.labels(*self.names, name) for name in flagged]
        self.no_word = [metrics.missing.labels(*self.names, name) for name in words]
        self.unknown = [metrics.unknown.labels(*self.names, name) for name in words]
        regression = bundle.encoder.target.task == "regression"
        self.answers = [
            metrics.spreads.labels(*self.names) if regression else metrics.shares.labels(*self.names, label)
            for label in labels_of(bundle.encoder.target)
        ]

    def see(self, encoded: Mapping[str, NDArray[Any]], scores: NDArray[Any], sizes: Iterable[int]) -> None:
        """Requests of so many rows were answered: what they lack and how their answers lie will be counted with the next."""
        self.metrics.soon()
        self.seen.append((encoded["num"], encoded["cat"], scores))
        self.sizes.extend(sizes)

    def count(self) -> None:
        """Nothing that was seen waits to be counted."""
        if not self.seen:
            return
        nums, cats, scores = zip(*self.seen, strict=True)
        sizes, self.sizes, self.seen = self.sizes, [], []
        for size in sizes:
            self.rows.observe(size)
        lacking = count_lacking(self.encoder, np.concatenate(nums), np.concatenate(cats))
        for counters, counted in zip((self.missing, self.no_word, self.unknown), lacking, strict=True):
            _add(counters, counted)
        for histogram, answers in zip(self.answers, measure(self.encoder.target, np.concatenate(scores)), strict=True):
            for answer in answers.tolist():
                histogram.observe(answer)


def _take_room(folder: Path) -> None:
    """The counters' files have their place on the disk.

    prometheus_client makes them with holes: to write into one when the disk is full kills the process (SIGBUS).
    """
    for name in FILES:
        with (folder / f"{name}_{os.getpid()}.db").open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, FILE_BYTES)


def _add(counters: Sequence[Counter], rows: NDArray[Any]) -> None:
    for counter, count in zip(counters, rows.tolist(), strict=True):
        if count:
            counter.inc(count)

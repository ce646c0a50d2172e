"""What the service counts of itself, for Prometheus: requests, errors, latency, rows, and what the rows and answers look like.

Of several worker processes each counts into files of one folder (PROMETHEUS_MULTIPROC_DIR, which the supervisor names), and any
of them tells the sum.
"""

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from serving.bundle import Bundle
from tasks.core.encoder import MISSING, OTHER
from tasks.core.target import as_text

# Seconds: from a tenth of what one row takes to what a client waits for at most.
SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
SHARES = tuple(i / 10 for i in range(1, 10))
SPREADS = (-3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0)  # of a regression's answers, around its training mean
SOON = 0.05  # seconds
FOLDER = "PROMETHEUS_MULTIPROC_DIR"


class Metrics:
    """The counters of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.shared = FOLDER in os.environ
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
        self.silent = Counter("store_errors", "Looks at the release store that it did not answer", ["model"], **made)
        self.tried = Counter("trial_requests", "Requests that a canary or shadow was tried on", [*of, "channel"], **made)
        self.failed = Counter("trial_errors", "Requests that a canary or shadow could not answer", [*of, "channel"], **made)
        if not self.shared:
            ProcessCollector(registry=self.registry, namespace="")
        self.counts: WeakSet[Counts] = WeakSet()
        self._of_request: dict[tuple[str, int], tuple[Any, Any]] = {}

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        if (found := self._of_request.get((route, status))) is None:
            found = self._of_request[route, status] = (self.requests.labels(route, str(status)), self.seconds.labels(route))
        found[0].inc()
        found[1].observe(seconds)

    def turned_away(self, status: int) -> None:
        """A request was refused before it was known what it asks for."""
        self.requests.labels("none", str(status)).inc()

    def text(self) -> bytes:
        """All of it in Prometheus' text format; of other processes up to SOON ago."""
        for counts in self.counts:
            counts.count()
        if not self.shared:
            return generate_latest(self.registry)
        everyone = CollectorRegistry()
        MultiProcessCollector(everyone)  # type: ignore[no-untyped-call]
        return generate_latest(everyone)


class Counts:
    """What is counted of one bundle's rows and answers."""

    def __init__(self, metrics: Metrics, bundle: Bundle) -> None:
        self.target, self.names = bundle.encoder.target, (bundle.name, bundle.version)
        self.seen: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []  # `num`, `cat` and scores that are to be counted
        self.sizes: list[int] = []  # of the requests that they are of
        metrics.counts.add(self)
        self.rows = metrics.rows.labels(*self.names)
        flagged = [column.name for column in bundle.encoder.scaled if column.flagged]
        words = [column.name for column in bundle.encoder.categories]
        self.flags = slice(len(bundle.encoder.scaled), len(bundle.encoder.scaled) + len(flagged))
        self.missing = [metrics.missing.labels(*self.names, name) for name in flagged]
        self.no_word = [metrics.missing.labels(*self.names, name) for name in words]
        self.unknown = [metrics.unknown.labels(*self.names, name) for name in words]
        labels = [as_text(label) for label in self.target.classes] if self.target.task == "multiclass" else [""]
        regression = self.target.task == "regression"
        self.answers = [
            metrics.spreads.labels(*self.names) if regression else metrics.shares.labels(*self.names, label) for label in labels
        ]

    def see(self, encoded: Mapping[str, NDArray[Any]], scores: NDArray[Any], sizes: Iterable[int]) -> None:
        """Requests of so many rows were answered: how many, what they lack and how their answers lie will be counted with the next.

        One row alone costs NumPy and the metrics' files as much as all the rest of its answer.
        """
        if not self.seen:
            asyncio.get_running_loop().call_later(SOON, self.count)
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
        _add(self.missing, np.concatenate(nums)[:, self.flags].sum(axis=0, dtype=np.int64))
        codes = np.concatenate(cats)[:, : len(self.unknown)]
        _add(self.no_word, (codes == MISSING).sum(axis=0))
        _add(self.unknown, (codes == OTHER).sum(axis=0))
        told = self.target.decode(np.concatenate(scores))
        if self.target.task == "regression":
            told = (told - self.target.center) / self.target.scale
        for histogram, answers in zip(self.answers, np.atleast_2d(told.T), strict=True):
            for answer in answers.tolist():
                histogram.observe(answer)


def _add(counters: Sequence[Counter], rows: NDArray[Any]) -> None:
    for counter, count in zip(counters, rows.tolist(), strict=True):
        if count:
            counter.inc(count)

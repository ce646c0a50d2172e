"""What the service counts of itself, for Prometheus: requests, errors, latency, rows, and what the rows and answers look like."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.bundle import Bundle
from tasks.core.encoder import MISSING, OTHER
from tasks.core.target import as_text

# Seconds: from a tenth of what one row takes to what a client waits for at most.
SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
SHARES = tuple(i / 10 for i in range(1, 10))
SPREADS = (-3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0)  # of a regression's answers, around its training mean


class Metrics:
    """The counters of one process."""

    def __init__(self, bundle: Bundle) -> None:
        self.registry = CollectorRegistry()
        self.bundle = bundle
        made: dict[str, Any] = {"registry": self.registry, "namespace": "tidemill"}
        self.requests = Counter("requests", "Requests by route and status", ["route", "status"], **made)
        self.seconds = Histogram("request_seconds", "Time to answer, by route", ["route"], buckets=SECONDS, **made)
        self.waiting = Gauge("requests_in_progress", "Requests that are being answered", **made)
        self.rows = Histogram("request_rows", "Rows of a request for predictions", buckets=ROWS, **made)
        self.missing = Counter("missing_values", "Rows without a value, by column", ["column"], **made)
        self.unknown = Counter("unknown_categories", "Rows with a word that training did not know, by column", ["column"], **made)
        target = bundle.encoder.target
        scale = [target.center + target.scale * spread for spread in SPREADS] if target.task == "regression" else SHARES
        labels = [as_text(label) for label in target.classes] if target.task == "multiclass" else [""]
        self.answers = Histogram(
            "prediction", "Answers, by class where there are several", ["class_"], buckets=sorted(set(scale)), **made
        )
        self.of_class = [self.answers.labels(label) for label in labels]
        release = Gauge("release_info", "The release that answers: always 1", ["model", "version", "candidate"], **made)
        release.labels(bundle.name, bundle.version, bundle.chosen).set(1)

    def see(self, encoded: Mapping[str, NDArray[Any]], scores: NDArray[Any]) -> None:
        """Rows were answered: counts them, what they lack, and how their answers lie."""
        encoder, told = self.bundle.encoder, self.bundle.encoder.target.decode(scores)
        self.rows.observe(len(told))
        flag = len(encoder.scaled)
        for column in encoder.scaled:
            if column.flagged:
                self._add(self.missing, column.name, int(encoded["num"][:, flag].sum()))
                flag += 1
        for place, category in enumerate(encoder.categories):
            codes = encoded["cat"][:, place]
            self._add(self.missing, category.name, int((codes == MISSING).sum()))
            self._add(self.unknown, category.name, int((codes == OTHER).sum()))
        for histogram, answers in zip(self.of_class, np.atleast_2d(told.T), strict=True):
            for answer in answers.tolist():
                histogram.observe(answer)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)

    @staticmethod
    def _add(counter: Counter, column: str, rows: int) -> None:
        if rows:
            counter.labels(column).inc(rows)

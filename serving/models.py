"""The models of one service, each with its release in production and, while they are tried, a canary and a shadow."""

import asyncio
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.bundle import Bundle
from serving.metrics import Counts, Metrics
from serving.request import RequestError, check_rows
from serving.trial import Comparison

# What a network that does not fit its encoder, or breaks, raises: a trial that does so must not fail a request.
BROKEN = (ValueError, RuntimeError, TypeError, KeyError, IndexError, ArithmeticError)


FEW = 16  # scores that Python looks at sooner than NumPy


class UnsoundError(ArithmeticError):
    """Scores that are no numbers."""


class Served:
    """A bundle that answers, and what is counted of it."""

    def __init__(self, bundle: Bundle, metrics: Metrics) -> None:
        self.bundle, self.counts = bundle, Counts(metrics, bundle)
        self.headers = {"x-model-version": bundle.version}
        self.head = f"HTTP/1.1 200 OK\r\nx-model-version: {bundle.version}\r\ncontent-type: application/json\r\n".encode()

    @property
    def version(self) -> str:
        return self.bundle.version

    def compute(self, rows: list[dict[str, Any]]) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32]]:
        """The rows as the network takes them, and its scores; UnsoundError when one is no number."""
        encoded = self.bundle.encode(rows)
        scores = self.bundle.network(encoded)
        if not (all(map(math.isfinite, scores.ravel().tolist())) if scores.size <= FEW else np.isfinite(scores).all()):
            raise UnsoundError(f"release {self.version} answers what is no number")
        return encoded, scores

    def score(self, rows: list[dict[str, Any]], sizes: Sequence[int] = ()) -> NDArray[np.float32]:
        """The network's scores of the rows, counted as those of one request, or of several with so many rows each; UnsoundError
        when one is no number."""
        encoded, scores = self.compute(rows)
        self.counts.see(encoded, scores, sizes or (len(rows),))
        return scores


@dataclass
class Trial:
    """A release in the channel canary or shadow, with its share of the requests or the header by which one asks for it."""

    served: Served
    comparison: Comparison
    share: float
    header: tuple[str, str] | None = None
    on: bool = field(default=True)  # until its rule ends it: then none is asked of it, whatever the channel still says

    def drawn(self) -> bool:
        """Whether this request is one of its share."""
        return self.on and random.random() < self.share

    def asked(self, headers: Mapping[str, str]) -> bool:
        """Whether the request asks for it by its header."""
        return self.on and self.header is not None and headers.get(self.header[0]) == self.header[1]


class Model:
    """One model by name. What a request is answered by is decided once, and stays for that request whatever moves meanwhile."""

    def __init__(self, name: str, metrics: Metrics) -> None:
        self.name, self.metrics = name, metrics
        self.production: Served | None = None
        self.previous: Served | None = None  # ready to serve again at once
        self.canary: Trial | None = None
        self.shadow: Trial | None = None
        self.refused: dict[str, tuple[str, str]] = {}  # by channel, the version that was not taken, and why

    def __str__(self) -> str:
        if self.production is None:
            return f"{self.name} (no release yet)"
        return f"{self.name} {self.production.version} ({self.production.bundle.chosen})"

    @property
    def ready(self) -> bool:
        return self.production is not None

    @property
    def current(self) -> Served:
        """The release in production; RequestError 503 before there is one."""
        if self.production is None:
            raise RequestError(503, f"{self.name!r} has no release to serve yet", retry_after=5)
        return self.production

    @property
    def trials(self) -> dict[str, Trial]:
        """Those under way, by channel."""
        return {name: trial for name, trial in (("canary", self.canary), ("shadow", self.shadow)) if trial}

    def channels(self) -> dict[str, Served]:
        """What is served, by channel."""
        production = {"production": self.production} if self.production else {}
        return {**production, **{name: trial.served for name, trial in self.trials.items()}}

    def named(self, version: str | None, label: str | None) -> Served:
        """The release of this version or channel; RequestError 404 when it is not served here."""
        served = self.channels()
        for channel, one in served.items():
            if channel == label or one.version == version:
                return one
        known = ", ".join(f"{channel} {one.version}" for channel, one in served.items()) or "none yet"
        raise RequestError(404, f"no {'channel' if label else 'version'} {label or version!r} of {self.name!r} here, but {known}")

    def pick(self, headers: Mapping[str, str]) -> Served:
        """Whose columns the request must fit: the canary's, if it asks for it, else production's."""
        if self.canary and self.canary.asked(headers):
            return self.canary.served
        return self.current

    def score(
        self, chosen: Served, rows: list[dict[str, Any]], shadowed: Callable[[Served, NDArray[np.float32]], None] | None = None
    ) -> tuple[Served, NDArray[np.float32]]:
        """The rows' scores, and who made them: `chosen`, or a canary in its place, which is drawn by its share.

        A canary that cannot answer is no reason for a request to fail: production does. RequestError 500 when that cannot.
        `shadowed` is told later what the shadow scored, if the request was one of its share.
        """
        canary = self.canary
        if canary and chosen is self.production and canary.drawn():
            scores = self._tried("canary", canary, rows)
            if scores is not None:
                return canary.served, scores
        try:
            scores = chosen.score(rows)
        except UnsoundError as error:
            raise RequestError(500, f"{error}; nothing was answered") from error
        if self.shadow and self.shadow.drawn():
            asyncio.get_running_loop().call_soon(self._shadow, self.shadow, rows, shadowed)  # once the answer is on its way
        return chosen, scores

    def channel_of(self, served: Served) -> str:
        """The channel that the release is in; "" for one that has just left it."""
        if served is self.production:
            return "production"
        return next((channel for channel, one in self.channels().items() if one is served), "")

    def _shadow(
        self, trial: Trial, rows: list[dict[str, Any]], shadowed: Callable[[Served, NDArray[np.float32]], None] | None
    ) -> None:
        scores = self._tried("shadow", trial, rows)
        if scores is not None and shadowed is not None:
            shadowed(trial.served, scores)

    def _tried(self, channel: str, trial: Trial, rows: list[dict[str, Any]]) -> NDArray[np.float32] | None:
        """The trial's scores, compared with production's on the same rows; None when it has none."""
        names = (self.name, trial.served.version, channel)
        self.metrics.tried.labels(*names).inc()
        try:
            check_rows(rows, trial.served.bundle.encoder, "row")
            started = time.perf_counter()
            encoded, scores = trial.served.compute(rows)
            between = time.perf_counter()
            _, theirs = self.current.compute(rows)
            trial.comparison.answered(scores, theirs, (between - started, time.perf_counter() - between))
        except (*BROKEN, RequestError):  # rows that production takes may not fit it
            trial.comparison.failed()
            self.metrics.failed.labels(*names).inc()
            return None
        trial.served.counts.see(encoded, scores, (len(rows),))
        return scores


class Models:
    """All models of the service by name."""

    def __init__(self, models: list[Model]) -> None:
        self.of = {model.name: model for model in models}

    def find(self, name: str) -> Model:
        """RequestError 404 for a name that is none."""
        if name not in self.of:
            raise RequestError(404, f"no model {name[:100]!r} here; this service has {', '.join(map(repr, self.of))}")
        return self.of[name]

    @property
    def ready(self) -> bool:
        return all(model.ready for model in self.of.values())

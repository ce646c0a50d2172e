"""A release that is tried: a canary answers a share of the requests, a shadow none; both are held against production, row by row.

Production scores the rows of the trial too, so the two are compared on the same rows: what they differ by is no accident of who
asked whom.
"""

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

MOST = 20_000  # rows and requests that are remembered, the newest
FEWEST = 50  # requests that a verdict on latency or scores needs
FEWEST_ERRORS = 3


@dataclass(frozen=True)
class Rule:
    """When a canary is promoted: it answered `requests` in `minutes`, and broke none of the limits, which end it at once.

    `errors`: share of requests that it could not answer; `latency`: its 95th percentile over production's, of scoring alone;
    `shift`: largest distance between the two distributions of answers (Kolmogorov and Smirnov's statistic), 0 to 1.
    """

    requests: float = 500
    minutes: float = 10.0
    errors: float = 0.01
    latency: float = 1.5
    shift: float = 0.1


@dataclass
class Comparison:
    """What became of the trial so far."""

    rule: Rule
    since: float = field(default_factory=time.monotonic)
    requests: int = 0
    errors: int = 0
    seconds: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=MOST))
    answers: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=MOST))

    def answered(self, mine: NDArray[Any], theirs: NDArray[Any], seconds: tuple[float, float]) -> None:
        """The trial scored rows, in so many seconds, and production the same rows.

        Of a row with several scores the first tells; the others follow from it or differ with it.
        """
        self.requests += 1
        self.seconds.append(seconds)
        self.answers.extend(zip(_first(mine), _first(theirs), strict=True))

    def failed(self) -> None:
        """The trial could not answer, or answered what is no number."""
        self.requests += 1
        self.errors += 1

    @property
    def slower(self) -> float:
        """95th percentile of the trial's seconds over that of production's."""
        mine, theirs = np.percentile(np.array(self.seconds), 95, axis=0)
        return float(mine / max(theirs, 1e-9))

    @property
    def shift(self) -> float:
        """Kolmogorov and Smirnov's statistic of the two samples of answers."""
        mine, theirs = np.sort(np.array(self.answers), axis=0).T
        every = np.concatenate((mine, theirs))
        apart = np.searchsorted(mine, every, "right") - np.searchsorted(theirs, every, "right")
        return float(np.abs(apart).max() / len(mine))

    def verdict(self) -> tuple[Literal["promote", "end"], str] | None:
        """What the rule says by now, and why; None while it says nothing yet."""
        rule = self.rule
        if self.errors >= FEWEST_ERRORS and self.errors > rule.errors * self.requests:
            return "end", f"it could not answer {self.errors:,} of {self.requests:,} requests; at most {rule.errors:.1%} may fail"
        if len(self.seconds) < FEWEST:
            return None
        slower, shift = self.slower, self.shift
        if slower > rule.latency:
            return "end", f"its p95 is {slower:.2f} times that of production; at most {rule.latency:g}"
        if shift > rule.shift:
            return "end", f"its answers are {shift:.3f} from those of production (KS); at most {rule.shift:g}"
        minutes = (time.monotonic() - self.since) / 60
        if self.requests < rule.requests or minutes < rule.minutes or self.errors > rule.errors * self.requests:
            return None
        return "promote", (
            f"{self.requests:,} requests in {minutes:.1f} minutes: {self.errors:,} errors, p95 {slower:.2f} times production's, "
            f"answers {shift:.3f} apart (KS)"
        )


def _first(scores: NDArray[Any]) -> list[float]:
    found: list[float] = (scores if scores.ndim == 1 else scores[:, 0]).tolist()
    return found

"""Intervals around a number: as wide as the errors on held-out rows of similar answers were."""

from dataclasses import asdict, dataclass
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from tasks.core.errors import DataError

MOST_BINS = 20
TAIL_ROWS = 10  # of a bin beyond either bound, for the bound to be steady


@dataclass(frozen=True)
class Intervals:
    """What is added to an answer for its bounds, in the bin of answers that it falls into; bins part at `edges`."""

    edges: tuple[float, ...]
    below: tuple[float, ...]  # none above 0, and none of `above` below it: the bounds never cross, and hold the answer
    above: tuple[float, ...]

    def __call__(self, answers: NDArray[np.float64]) -> NDArray[np.float64]:
        """The bounds of each answer [row, (low, high)]."""
        bins = np.searchsorted(np.asarray(self.edges), answers, side="right")
        return np.column_stack([answers + np.asarray(self.below)[bins], answers + np.asarray(self.above)[bins]])


def fit_intervals(levels: tuple[float, float], truth: NDArray[np.float64], answers: NDArray[np.float64]) -> Intervals:
    """Bounds below which a share of `levels` of new rows like these will be, whatever the errors' distribution.

    Split conformal prediction with a bin for each range of answers, so that each has the coverage (Mondrian conformal
    regressors, Bostrom and Johansson 2020, PMLR 128). DataError when there are too few rows for these levels.
    """
    tail = min(levels[0], 1 - levels[1])
    least = ceil(1 / tail)
    if len(answers) < least:
        raise DataError(
            f"evaluate.interval {list(levels)} needs {least:,} validation rows, found {len(answers):,}; "
            "widen it towards the middle, or give preprocess.split more validation rows"
        )
    count = int(np.clip(len(answers) // ceil(TAIL_ROWS / tail), 1, MOST_BINS))
    edges = np.unique(np.quantile(answers, np.linspace(0, 1, count + 1)[1:-1]))
    bins = np.searchsorted(edges, answers, side="right")
    if np.bincount(bins, minlength=len(edges) + 1).min() < least:  # many answers are equal
        edges, bins = np.zeros(0), np.zeros(len(answers), np.int64)
    errors = [np.sort((truth - answers)[bins == one]) for one in range(len(edges) + 1)]
    below = [min(float(own[max(floor(levels[0] * (len(own) + 1)), 1) - 1]), 0.0) for own in errors]
    above = [max(float(own[min(ceil(levels[1] * (len(own) + 1)), len(own)) - 1]), 0.0) for own in errors]
    return Intervals(tuple(map(float, edges)), tuple(below), tuple(above))


@dataclass(frozen=True)
class Coverage:
    """Of bounds: the share of rows that they hold, and their mean width."""

    share: float
    width: float

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def measure_coverage(bounds: NDArray[np.float64], truth: NDArray[np.float64]) -> Coverage:
    """How bounds [row, (low, high)] did on rows that they were not fitted on."""
    low, high = bounds.T
    return Coverage(float(np.mean((low <= truth) & (truth <= high))), float(np.mean(high - low)))

"""Decisions: the class to act on, where being wrong in one way costs more than in another."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Costs = tuple[tuple[float, ...], ...]  # [truth][decision], by the codes of the classes


@dataclass(frozen=True)
class Decision:
    """Of two classes the second from `threshold` on; of several the one of the lowest expected cost."""

    costs: Costs
    threshold: float | None = None

    def __call__(self, probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
        """The code of the class to act on [row], for probabilities [row] or [row, class] as they are told."""
        if self.threshold is not None:
            return (np.asarray(probabilities) >= self.threshold).astype(np.int64)
        cheapest: NDArray[np.int64] = np.argmin(probabilities @ np.asarray(self.costs), axis=1)
        return cheapest


def fit_decision(costs: Costs, truth: NDArray[np.float64], probabilities: NDArray[np.float64]) -> Decision:
    """The decision for these costs; the threshold of two classes is the one that costs least on these rows."""
    if np.ndim(probabilities) == 2:
        return Decision(costs)
    order = np.argsort(-np.asarray(probabilities), kind="stable")
    ranked, came = np.asarray(probabilities)[order], np.asarray(truth, np.int64)[order]
    table = np.asarray(costs, np.float64)
    # What it costs to say yes to the first rows, and no to the others.
    total = table[came, 0].sum() + np.r_[0.0, np.cumsum(table[came, 1] - table[came, 0])]
    between = np.r_[True, ranked[1:] != ranked[:-1], True]  # equal scores are decided alike
    best = int(np.flatnonzero(between)[np.argmin(total[between])])
    if best in (0, len(ranked)):
        return Decision(costs, 1.0 if best == 0 else 0.0)
    return Decision(costs, float((ranked[best - 1] + ranked[best]) / 2))


def mean_cost(costs: Costs, truth: NDArray[np.float64], decided: NDArray[np.int64] | int) -> float:
    """What a row costs on average when these classes, or always this one, are acted on."""
    return float(np.asarray(costs)[np.asarray(truth, np.int64), decided].mean())

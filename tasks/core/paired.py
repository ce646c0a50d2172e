"""Two models on the same rows: which has the lower loss, and how sure that is."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.core.metrics import Interval, row_losses
from tasks.core.target import Task

Loss = Literal["log_loss", "rmse"]  # what a model must beat another one in, by task


@dataclass(frozen=True)
class Comparison:
    """The loss of both; `difference` is the challenger's less the champion's, below zero where it is the better one.

    `won` is the share of the resamples in which its loss was the lower one, equal ones counting half.
    """

    rows: int
    loss: Loss
    champion: float
    challenger: float
    difference: Interval
    won: float
    confidence: float
    resamples: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Comparison":
        return cls(**{**document, "difference": Interval(**document["difference"])})


def compare(
    task: Task,
    truth: NDArray[Any],
    champion: NDArray[Any],
    challenger: NDArray[Any],
    *,
    resamples: int,
    confidence: float,
    seed: int,
) -> Comparison:
    """The paired bootstrap (Efron and Tibshirani 1993, chapter 16): each resample draws rows, with what both said of them.

    Of classes `truth` holds codes [row], and each model probabilities [row] of code 1, or [row, class]; of a regression all are
    numbers in the target's unit.
    """
    mine, theirs = (_figures(task, truth, told) for told in (challenger, champion))
    apart = _loss(task, mine.mean()) - _loss(task, theirs.mean())
    random, rows = np.random.default_rng(seed), len(truth)
    drawn = np.empty(resamples)
    for i in range(resamples):  # one resample in memory at a time
        counts = np.bincount(random.integers(0, rows, rows), minlength=rows)
        drawn[i] = _loss(task, counts @ mine / rows) - _loss(task, counts @ theirs / rows)
    low, high = map(float, np.percentile(drawn, [50 * (1 - confidence), 50 * (1 + confidence)]))
    return Comparison(
        rows=rows,
        loss="rmse" if task == "regression" else "log_loss",
        champion=_loss(task, theirs.mean()),
        challenger=_loss(task, mine.mean()),
        difference=Interval(apart, low, high),
        won=float(np.mean(drawn < 0) + np.mean(drawn == 0) / 2),
        confidence=confidence,
        resamples=resamples,
    )


def _figures(task: Task, truth: NDArray[Any], told: NDArray[Any]) -> NDArray[np.float64]:
    """What the loss is the mean of, or its root."""
    if task == "regression":
        squares: NDArray[np.float64] = (np.asarray(told, np.float64) - truth) ** 2
        return squares
    return row_losses(truth, told)


def _loss(task: Task, mean: Any) -> float:
    return float(np.sqrt(mean)) if task == "regression" else float(mean)

"""Quality of probabilities for a binary target: ranking, loss, calibration, and how sure the numbers are."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CALIBRATION_BINS = 15


def auc(target: NDArray[Any], scores: NDArray[Any]) -> float:
    """Area under the ROC curve: the chance that a positive row scores above a negative one, ties counting half."""
    return float(_weighted_auc(*_by_score(target, scores), np.ones(len(target))))


def log_loss(target: NDArray[Any], scores: NDArray[Any]) -> float:
    """Mean binary cross-entropy of probabilities, in nats."""
    return float(np.mean(_losses(target, scores)))


def calibration_error(target: NDArray[Any], scores: NDArray[Any]) -> float:
    """Expected calibration error over bins of equally many rows (Nixon et al. 2019, arXiv 1904.01685: adaptive bins)."""
    return float(sum(len(p) * abs(p.mean() - y.mean()) for p, y in _bins(target, scores)) / len(target))


def calibration_curve(target: NDArray[Any], scores: NDArray[Any]) -> list[tuple[float, float]]:
    """Mean score and share of positive rows of each bin of equally many rows."""
    return [(float(p.mean()), float(y.mean())) for p, y in _bins(target, scores)]


@dataclass(frozen=True)
class Interval:
    """A bootstrap estimate: the value on all rows, and the percentile interval around it."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def bootstrap(
    target: NDArray[Any], scores: Sequence[NDArray[Any]], *, resamples: int, confidence: float, seed: int
) -> list[dict[str, Interval]]:
    """Intervals of auc and log_loss for each of several scorings of the same rows, from the same resamples of them."""
    random = np.random.default_rng(seed)
    draws = [np.bincount(random.integers(0, len(target), len(target)), minlength=len(target)) for _ in range(resamples)]
    tails = [50 * (1 - confidence), 50 * (1 + confidence)]
    results = []
    for one in scores:
        order, positive, groups = _by_score(target, one)
        losses = _losses(target, one)
        aucs = [_weighted_auc(order, positive, groups, draw) for draw in draws]
        means = [draw @ losses / len(target) for draw in draws]
        results.append(
            {
                "auc": Interval(auc(target, one), *map(float, np.percentile(aucs, tails))),
                "log_loss": Interval(float(losses.mean()), *map(float, np.percentile(means, tails))),
            }
        )
    return results


def _losses(target: NDArray[Any], scores: NDArray[Any]) -> NDArray[np.float64]:
    p = np.clip(np.asarray(scores, np.float64), 1e-7, 1 - 1e-7)
    losses: NDArray[np.float64] = -(target * np.log(p) + (1 - target) * np.log1p(-p))
    return losses


def _bins(target: NDArray[Any], scores: NDArray[Any]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Rows in bins of about equal size, by score; equal scores share a bin, so that the order of the rows says nothing."""
    order = np.argsort(scores, kind="stable")
    ranked = np.asarray(scores)[order]
    ends = np.linspace(0, len(ranked), CALIBRATION_BINS + 1).round().astype(int)[1:-1]
    cuts = np.unique(np.searchsorted(ranked, ranked[np.minimum(ends, len(ranked) - 1)], side="left"))
    pairs = zip(np.split(ranked, cuts), np.split(np.asarray(target)[order], cuts), strict=True)
    return [(p, y) for p, y in pairs if len(p)]


def _by_score(target: NDArray[Any], scores: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The order of the rows by score, which of them are positive, and where each run of equal scores starts."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(np.asarray(scores)[order]) != 0])
    return order, np.asarray(target)[order] > 0, starts


def _weighted_auc(order: NDArray[Any], positive: NDArray[Any], starts: NDArray[Any], weights: NDArray[Any]) -> float:
    weight = weights[order].astype(np.float64)
    positives = np.add.reduceat(weight * positive, starts)
    negatives = np.add.reduceat(weight * ~positive, starts)
    below = np.cumsum(negatives) - negatives
    pairs = positives.sum() * negatives.sum()
    return float(positives @ (below + negatives / 2) / pairs) if pairs else 0.5  # a resample of one class ranks nothing

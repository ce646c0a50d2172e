"""Quality of scores, by the task: ranking, loss, calibration, error; and how sure the numbers are."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.core.target import Target, Task

Metric = Literal["auc", "log_loss", "accuracy", "rmse", "mae", "r2"]
# The first ranks models for people, the second is what a model must beat a baseline in.
METRICS: dict[Task, tuple[Metric, ...]] = {
    "binary": ("auc", "log_loss"),
    "multiclass": ("accuracy", "log_loss"),
    "regression": ("r2", "rmse", "mae"),
}
LOWER_IS_BETTER: frozenset[Metric] = frozenset({"log_loss", "rmse", "mae"})
WORDS: dict[Metric, str] = {"auc": "AUC", "log_loss": "log loss", "accuracy": "accuracy", "rmse": "RMSE", "mae": "MAE", "r2": "R²"}
CALIBRATION_BINS = 15


def auc(target: NDArray[Any], scores: NDArray[Any]) -> float:
    """Area under the ROC curve: the chance that a positive row scores above a negative one, ties counting half."""
    return float(_weighted_auc(*_by_score(target, scores), np.ones(len(target))))


def log_loss(target: NDArray[Any], scores: NDArray[Any]) -> float:
    """Mean cross-entropy in nats of probabilities [row] of class 1, or [row, class], against class codes."""
    return float(np.mean(row_losses(target, scores)))


def mean_loss(task: Task, target: NDArray[Any], scores: NDArray[Any], class_weights: Sequence[float] = ()) -> float:
    """What training minimises, on the scale that it learns on: log loss, each class counting as its weight says where there are
    weights, or the mean squared error of a regression."""
    if task == "regression":
        return float(np.mean((np.asarray(scores, np.float64) - target) ** 2))
    if class_weights:
        return float(np.mean(np.asarray(class_weights)[np.asarray(target, np.int64)] * row_losses(target, scores)))
    return log_loss(target, scores)


def measure(target: Target, truth: NDArray[Any], scores: NDArray[Any]) -> dict[str, float]:
    """Every metric of the task, from encoded truth and scores; those of a regression in the target's own unit."""
    weights = np.ones(len(truth))
    return {name: one.weighted(weights) for name, one in _measures(target, truth, scores).items()}


def calibration_error(target: Target, truth: NDArray[Any], scores: NDArray[Any]) -> float:
    """Expected calibration error over bins of equally many rows (Nixon et al. 2019, arXiv 1904.01685: adaptive bins).

    Of several classes the one held likeliest counts (Guo et al. 2017, arXiv 1706.04599); of a regression the mean gap between
    the mean answer and the mean truth of a bin, in the target's unit.
    """
    told, came = confidence(target, truth, scores)
    return float(sum(len(p) * abs(p.mean() - y.mean()) for p, y in _bins(came, told)) / len(came))


def calibration_curve(target: Target, truth: NDArray[Any], scores: NDArray[Any]) -> list[tuple[float, float]]:
    """What was said on average, and what came of it, in each bin of equally many rows."""
    told, came = confidence(target, truth, scores)
    return [(float(p.mean()), float(y.mean())) for p, y in _bins(came, told)]


def confidence(target: Target, truth: NDArray[Any], scores: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """What is said of each row, and what came: a probability and whether; or two numbers."""
    match target.task:
        case "binary":
            return np.asarray(scores), np.asarray(truth)
        case "multiclass":
            return np.max(scores, axis=1), (np.argmax(scores, axis=1) == truth).astype(np.float64)
        case "regression":
            return target.decode(scores), target.decode(truth)


@dataclass(frozen=True)
class Interval:
    """A bootstrap estimate: the value on all rows, and the percentile interval around it."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def bootstrap(
    target: Target, truth: NDArray[Any], scores: Sequence[NDArray[Any]], *, resamples: int, confidence: float, seed: int
) -> list[dict[str, Interval]]:
    """Intervals of every metric for each of several scorings of the same rows, from the same resamples of them."""
    random = np.random.default_rng(seed)
    measures = [_measures(target, truth, one) for one in scores]
    drawn: list[dict[str, list[float]]] = [{name: [] for name in one} for one in measures]
    for _ in range(resamples):  # one resample in memory at a time
        draw = np.bincount(random.integers(0, len(truth), len(truth)), minlength=len(truth))
        for measured, values in zip(measures, drawn, strict=True):
            for name, one in measured.items():
                values[name].append(one.weighted(draw))
    tails = [50 * (1 - confidence), 50 * (1 + confidence)]
    whole = np.ones(len(truth))
    return [
        {name: Interval(one.weighted(whole), *map(float, np.percentile(values[name], tails))) for name, one in measured.items()}
        for measured, values in zip(measures, drawn, strict=True)
    ]


@dataclass(frozen=True)
class _Auc:
    """The area under the curve of rows that count as often as their weights say."""

    order: NDArray[Any]
    positive: NDArray[Any]
    starts: NDArray[Any]

    def weighted(self, weights: NDArray[Any]) -> float:
        return _weighted_auc(self.order, self.positive, self.starts, weights)


@dataclass(frozen=True)
class _Mean:
    """The mean of a figure of each row, or its square root."""

    figures: NDArray[np.float64]
    root: bool = False

    def weighted(self, weights: NDArray[Any]) -> float:
        mean = float(weights @ self.figures / weights.sum())
        return float(np.sqrt(mean)) if self.root else mean


@dataclass(frozen=True)
class _Explained:
    """The share of the target's variance that is explained."""

    truth: NDArray[np.float64]
    squares: NDArray[np.float64]

    def weighted(self, weights: NDArray[Any]) -> float:
        mean = weights @ self.truth / weights.sum()
        spread = weights @ (self.truth - mean) ** 2
        return float(1 - weights @ self.squares / spread) if spread else 0.0  # a resample of one value explains nothing


def _measures(target: Target, truth: NDArray[Any], scores: NDArray[Any]) -> dict[Metric, _Auc | _Mean | _Explained]:
    """The task's metrics, ready to be computed under any weights of the rows."""
    match target.task:
        case "binary":
            return {"auc": _Auc(*_by_score(truth, scores)), "log_loss": _Mean(row_losses(truth, scores))}
        case "multiclass":
            hits = (np.argmax(scores, axis=1) == truth).astype(np.float64)
            return {"accuracy": _Mean(hits), "log_loss": _Mean(row_losses(truth, scores))}
        case "regression":
            came, gap = target.decode(truth), target.decode(scores) - target.decode(truth)
            squares = gap**2
            return {"r2": _Explained(came, squares), "rmse": _Mean(squares, root=True), "mae": _Mean(np.abs(gap))}


def row_losses(target: NDArray[Any], scores: NDArray[Any]) -> NDArray[np.float64]:
    """The cross-entropy of each row in nats, of probabilities as `log_loss` takes them."""
    p = np.clip(np.asarray(scores, np.float64), 1e-7, 1 - 1e-7)
    if p.ndim == 2:
        chosen: NDArray[np.float64] = -np.log(p[np.arange(len(p)), np.asarray(target, np.int64)])
        return chosen
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

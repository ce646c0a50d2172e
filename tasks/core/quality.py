"""Quality of answers by sums alone, so that rows need not be kept: every metric with its standard error, and the calibration."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.metrics import Metric
from tasks.core.target import Target, Task

GRID = 2400  # cells of the logit from -12 to 12, in which binary answers are ranked; those of one cell count as equal
REACH = 12.0
LEAST = 1e-7  # a probability's distance from 0 and 1, as metrics.log_loss has it
CURVE = 10  # points of the calibration curve that are drawn


@dataclass(frozen=True)
class Measured:
    """A metric and its standard error."""

    value: float
    error: float


@dataclass
class Quality:
    """Sums over rows whose truth is known: of the classes, losses, gaps between what was said and what came, and their squares;
    `ranks` [2, GRID] are the rows of a binary target by truth and answer."""

    rows: int
    classes: NDArray[np.int64]
    sums: dict[str, float]
    ranks: NDArray[np.int64]

    def add(self, other: "Quality") -> None:
        """What was summed over other rows counts here too."""
        self.rows += other.rows
        self.classes = self.classes + other.classes
        self.sums = {key: self.sums.get(key, 0.0) + other.sums.get(key, 0.0) for key in {**self.sums, **other.sums}}
        self.ranks = self.ranks + other.ranks

    def to_json(self) -> dict[str, Any]:
        used = np.flatnonzero(self.ranks.any(axis=0)) if self.ranks.size else np.zeros(0, np.int64)
        return {
            "rows": self.rows,
            "classes": self.classes.tolist(),
            "sums": self.sums,
            "ranks": {"at": used.tolist(), "rows": self.ranks[:, used].tolist() if self.ranks.size else []},
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any], target: Target) -> "Quality":
        """TypeError, ValueError, IndexError or KeyError for what `to_json` did not write."""
        found = empty(target)
        found.rows, found.sums = document["rows"], dict(document["sums"])
        found.classes = np.array(document["classes"], np.int64)
        if found.ranks.size:
            found.ranks[:, document["ranks"]["at"]] = document["ranks"]["rows"]
        return found


def empty(target: Target) -> Quality:
    """No rows yet."""
    ranks = np.zeros((2, GRID) if target.task == "binary" else (0, 0), np.int64)
    return Quality(0, np.zeros(max(len(target.classes), 1), np.int64), {}, ranks)


def observe(target: Target, truth: NDArray[Any], told: NDArray[np.float64]) -> Quality:
    """The sums of these rows: class codes, or numbers in the target's unit, and the answers [row] or [row, class] as told."""
    found = empty(target)
    found.rows = len(truth)
    told = np.asarray(told, np.float64)
    if target.task == "regression":
        gap = told - truth
        found.classes[0] = len(truth)
        found.sums = _moments(square=gap**2, absolute=np.abs(gap), gap=-gap / target.scale)
        return found
    codes = np.asarray(truth, np.int64)
    found.classes = np.bincount(codes, minlength=len(target.classes)).astype(np.int64)
    if target.task == "multiclass":
        sure, hit = told.max(axis=1), (told.argmax(axis=1) == codes).astype(np.float64)
        loss = -np.log(np.clip(told[np.arange(len(codes)), codes], LEAST, 1 - LEAST))
        found.sums = _moments(loss=loss, hit=hit, gap=hit - sure)
        return found
    p = np.clip(told, LEAST, 1 - LEAST)
    loss = -np.where(codes == 1, np.log(p), np.log1p(-p))
    found.sums = _moments(loss=loss, gap=codes - told)
    cell = np.clip(((np.log(p) - np.log1p(-p) + REACH) * (GRID / (2 * REACH))).astype(np.int64), 0, GRID - 1)
    found.ranks = np.stack([np.bincount(cell[codes == code], minlength=GRID) for code in (0, 1)]).astype(np.int64)
    return found


def _moments(**figures: NDArray[np.float64]) -> dict[str, float]:
    return {name: float(one.sum()) for name, one in figures.items()} | {
        f"{name}²": float(one @ one) for name, one in figures.items()
    }


def metrics(task: Task, quality: Quality) -> dict[Metric, Measured]:
    """The metrics that a window is judged by; those that its rows cannot tell are left out."""
    if quality.rows < 2:
        return {}
    match task:
        case "binary":
            ranked, loss = _auc(quality.ranks), _mean(quality, "loss")
            return {"auc": ranked, "log_loss": loss} if ranked else {"log_loss": loss}
        case "multiclass":
            return {"accuracy": _mean(quality, "hit"), "log_loss": _mean(quality, "loss")}
        case "regression":
            squares = _mean(quality, "square")
            root = math.sqrt(squares.value)
            return {"rmse": Measured(root, squares.error / (2 * root) if root else 0.0), "mae": _mean(quality, "absolute")}


def gap(quality: Quality) -> Measured:
    """How much more came than was said: of a probability its shortfall, of several classes that of the likeliest one's, of a
    number in standard deviations of training."""
    return _mean(quality, "gap")


def _mean(quality: Quality, name: str) -> Measured:
    rows = quality.rows
    mean = quality.sums[name] / rows
    return Measured(mean, math.sqrt(max(quality.sums[f"{name}²"] / rows - mean**2, 0.0) / rows))


def _auc(ranks: NDArray[np.int64]) -> Measured | None:
    """Area under the ROC curve and its standard error (DeLong et al. 1988, Biometrics 44); None without rows of both classes."""
    negatives, positives = ranks.astype(np.float64)
    n, p = negatives.sum(), positives.sum()
    if n < 2 or p < 2:
        return None
    below = (np.cumsum(negatives) - negatives / 2) / n  # of a positive row in the cell: the negatives that it beats
    above = (p - np.cumsum(positives) + positives / 2) / p
    area = float(positives @ below / p)
    spread = positives @ (below - area) ** 2 / (p - 1) / p + negatives @ (above - area) ** 2 / (n - 1) / n
    return Measured(area, math.sqrt(float(spread)))


def curve(quality: Quality) -> list[tuple[float, float, int]]:
    """Of a binary target: what was said, what came, and the rows, in cells of about equal rows."""
    if not quality.ranks.size or not quality.rows:
        return []
    at = -REACH + (np.arange(GRID) + 0.5) * (2 * REACH / GRID)
    said = 1 / (1 + np.exp(-at))
    rows, came = quality.ranks.sum(axis=0), quality.ranks[1]
    place = np.minimum((np.cumsum(rows) - rows / 2) * CURVE // max(rows.sum(), 1), CURVE - 1).astype(int)
    points = []
    for one in range(CURVE):
        own = place == one
        count = int(rows[own].sum())
        if count:
            points.append((float(rows[own] @ said[own] / count), float(came[own].sum() / count), count))
    return points

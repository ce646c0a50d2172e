"""Calibration: probabilities that come true as often as they say, by a slope and shifts of the logits."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST = 1e-7  # a probability's distance from 0 and 1, so that its logarithm is finite
FOLDS = 10
MOST_SCORES = 1_000_000  # that a calibration is fitted on
STEPS, ENOUGH = 100, 1e-10  # of Newton's method: at most so many, and the gain of one that is the last


@dataclass(frozen=True)
class Calibration:
    """Logits times `slope` plus `bias`: one bias of a single probability, one for each of several classes.

    Platt scaling (Platt 1999), and temperature scaling with a shift for each class (Guo et al. 2017, arXiv 1706.04599). Class
    weights move the logits by a constant for each class, so the shifts undo them.
    """

    slope: float
    bias: tuple[float, ...]

    def __call__(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities [row] or [row, class] as they are told."""
        p = np.clip(np.asarray(scores, np.float64), LEAST, 1 - LEAST)
        if p.ndim == 1:
            told: NDArray[np.float64] = 1 / (1 + np.exp(-(self.slope * (np.log(p) - np.log1p(-p)) + self.bias[0])))
            return told
        return _softmax(self.slope * np.log(p) + np.asarray(self.bias))


def fit_calibration(truth: NDArray[np.float64], scores: NDArray[np.float64], *, ordered: bool, seed: int) -> Calibration | None:
    """The calibration of class codes [row] and their scores; None when it would not help.

    It helps when the folds that it was not fitted on gain in log loss, on the mean by more than the standard error of their gains.
    Folds are stretches of rows that are `ordered` by time, so that the base rate of a season is not taken for a fault of
    the model; else they are drawn by chance. Scores that rank the wrong way round are left as they are.
    """
    codes = np.asarray(truth, np.int64)
    rows = len(codes)
    if rows < FOLDS:
        return None
    order = np.arange(rows) if ordered else np.random.default_rng(seed).permutation(rows)
    most = MOST_SCORES // (scores.shape[1] if scores.ndim == 2 else 1)
    order = order[:: -(-rows // most)]  # a few parameters need no more
    gains = []
    for own in np.array_split(order, FOLDS):
        others = np.setdiff1d(order, own)
        found = _fit(codes[others], scores[others])
        gains.append(np.mean(_losses(codes[own], scores[own]) - _losses(codes[own], found(scores[own]))))
    whole = _fit(codes[order], scores[order])
    helps = np.mean(gains) > np.std(gains, ddof=1) / np.sqrt(FOLDS)
    return whole if helps and whole.slope > 0 else None


def _fit(codes: NDArray[np.int64], scores: NDArray[np.float64]) -> Calibration:
    """The most likely slope and shifts, by Newton's method with halved steps.

    The belief of one row in no change keeps them finite.
    """
    logs = _logs(scores)
    rows, classes = logs.shape
    came = np.eye(classes)[codes]
    none = np.r_[1.0, np.zeros(classes)]

    def loss(values: NDArray[np.float64]) -> float:
        moved = values[0] * logs + values[1:]
        top = moved.max(axis=1)
        normal = top + np.log(np.exp(moved - top[:, None]).sum(axis=1))
        return float(np.sum(normal - moved[np.arange(rows), codes]) + ((values - none) ** 2).sum() / 2)

    values, now = none, loss(none)
    for _ in range(STEPS):
        p = _softmax(values[0] * logs + values[1:])
        gap = p - came
        slope = np.r_[np.sum(gap * logs), gap.sum(axis=0)] + values - none
        spread = p * (logs - np.sum(p * logs, axis=1, keepdims=True))  # how each class's probability moves with the slope
        bend = np.empty((classes + 1, classes + 1))
        bend[0, 0] = np.sum(spread * logs)
        bend[0, 1:] = bend[1:, 0] = spread.sum(axis=0)
        bend[1:, 1:] = np.diag(p.sum(axis=0)) - p.T @ p
        step = np.linalg.solve(bend + np.eye(classes + 1), slope)
        while (after := loss(values - step)) > now and np.abs(step).max() > ENOUGH:
            step = step / 2
        if now - after <= ENOUGH * rows:
            break
        values, now = values - step, after
    bias = values[1:] if scores.ndim == 2 else values[2:] - values[1:2]
    return Calibration(float(values[0]), tuple(map(float, bias)))


def _logs(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log probabilities [row, class], of two classes where one probability is given."""
    p = np.clip(np.asarray(scores, np.float64), LEAST, 1 - LEAST)
    logs: NDArray[np.float64] = np.log(p) if p.ndim == 2 else np.column_stack([np.log1p(-p), np.log(p)])
    return logs


def _losses(codes: NDArray[np.int64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    losses: NDArray[np.float64] = -_logs(scores)[np.arange(len(codes)), codes]
    return losses


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return shares

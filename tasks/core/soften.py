"""The teacher's opinion as a target: softened by a temperature, and how far a student is from it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.target import Task

LEAST = 1e-7  # of a probability, for a logarithm


def soften(task: Task, scores: NDArray[Any], temperature: float) -> NDArray[Any]:
    """Probabilities [row] or [row, class] with their logits divided by the temperature (Hinton et al. 2015, arXiv 1503.02531)."""
    if temperature == 1 or task == "regression":
        return scores
    p = np.clip(scores.astype(np.float64), LEAST, 1 - LEAST)
    if task == "binary":
        return np.asarray(1 / (1 + ((1 - p) / p) ** (1 / temperature)), scores.dtype)
    power = p ** (1 / temperature)
    return np.asarray(power / power.sum(axis=1, keepdims=True), scores.dtype)


def distance(task: Task, opinion: NDArray[Any], scores: NDArray[Any]) -> float:
    """How far scores are from the opinion of the same rows: the mean Kullback-Leibler divergence in nats, or squared difference."""
    told, said = np.asarray(opinion, np.float64), np.asarray(scores, np.float64)
    if task == "regression":
        return float(np.mean((told - said) ** 2))
    if task == "binary":
        told, said = np.column_stack([1 - told, told]), np.column_stack([1 - said, said])
    told, said = np.clip(told, LEAST, 1), np.clip(said, LEAST, 1)
    return float(np.mean(np.sum(told * np.log(told / said), axis=1)))

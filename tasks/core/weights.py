"""Class weights: how much a row of each class counts in the loss."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.core.target import Target, as_text

Weighing = Literal["none", "balanced"] | Mapping[str, float]


def weigh_classes(weighing: Weighing, target: Target, codes: NDArray[Any]) -> tuple[float, ...]:
    """A weight for each class, 1 on the mean over these rows, so that the learning rate means the same; none for "none".

    balanced: all rows of a class count together as much as those of any other (King and Zeng 2001).
    """
    if weighing == "none":
        return ()
    rows = np.bincount(np.asarray(codes, np.int64), minlength=len(target.classes))
    if isinstance(weighing, str):
        asked = 1 / np.maximum(rows, 1)
    else:
        asked = np.array([weighing[as_text(label)] for label in target.classes])
    return tuple(float(weight) for weight in asked * rows.sum() / (asked @ rows))


def without_weights(scores: NDArray[Any], weights: tuple[float, ...]) -> NDArray[Any]:
    """Probabilities [row] or [row, class] that a network would have learned without these weights (Elkan 2001, theorem 2)."""
    if not weights:
        return scores
    shares: NDArray[Any] = (np.column_stack([1 - scores, scores]) if scores.ndim == 1 else scores) / np.asarray(weights)
    shares /= shares.sum(axis=1, keepdims=True)
    return shares[:, 1] if scores.ndim == 1 else shares

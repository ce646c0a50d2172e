"""The blend: how much each of several models counts in what they say together."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDS = 30  # of choosing one more: shares come in steps of about a thirtieth


def choose_shares(loss: Callable[[NDArray[Any]], float], scores: Sequence[NDArray[Any]]) -> list[float]:
    """The share of each model, none below zero, together one, whose mean of scores has the lowest loss that was met.

    Greedy selection with replacement, each round the model that helps most (Caruana et al. 2004, "Ensemble selection from
    libraries of models"). A model whose scores are no numbers gets no share; ValueError when that leaves none.
    """
    usable = [place for place, one in enumerate(scores) if np.isfinite(one).all()]
    if not usable:
        raise ValueError("no model says numbers alone")
    counts, best = np.zeros(len(scores)), np.zeros(len(scores))
    total: NDArray[Any] = np.zeros_like(np.asarray(scores[usable[0]], np.float64))
    lowest = np.inf
    for chosen in range(1, ROUNDS + 1):
        losses = [loss((total + scores[place]) / chosen) for place in usable]
        place = usable[int(np.argmin(losses))]
        total = total + scores[place]
        counts[place] += 1
        if min(losses) < lowest:
            lowest, best = min(losses), counts.copy()
    return [float(share) for share in best / best.sum()]


def mix(shares: Sequence[float], scores: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """What the models say together; those without a share are not looked at."""
    counted = [(share, one) for share, one in zip(shares, scores, strict=True) if share]
    mixed = sum(share * np.asarray(one, np.float64) for share, one in counted)
    return np.asarray(mixed, np.float32)

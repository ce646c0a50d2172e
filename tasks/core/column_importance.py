"""Importance: how much worse a model is where a column's values are shuffled among the rows."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.encoder import Places
from tasks.core.metrics import Interval
from tasks.core.rows import Rows


def measure_importance(
    loss: Callable[[NDArray[Any]], float],
    score: Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]],
    rows: Rows,
    places: Places,
    *,
    repeats: int,
    seed: int,
) -> dict[str, Interval]:
    """By how much the loss grows for each raw column, the most important first: mean, lowest and highest of the repeats.

    Breiman 2001; Fisher et al. 2019, arXiv 1801.01489. `loss` is that of scores of these rows. All that is encoded of a column
    moves together; columns that tell the same share what they are worth, so that each looks less important than both are.
    """
    whole = loss(score(rows.inputs))
    random = np.random.default_rng(seed)
    orders = [random.permutation(len(rows)) for _ in range(repeats)]
    found: dict[str, Interval] = {}
    for name, own in places.items():
        grown = [loss(score(shuffled(rows.inputs, own, order))) - whole for order in orders]
        found[name] = Interval(float(np.mean(grown)), min(grown), max(grown))
    return dict(sorted(found.items(), key=lambda pair: -pair[1].value))


def shuffled(
    inputs: Mapping[str, NDArray[Any]], places: Mapping[str, list[int]], order: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """The inputs with these columns in another order of the rows."""
    moved = dict(inputs)
    for array, columns in places.items():
        moved[array] = np.array(inputs[array])
        moved[array][:, columns] = inputs[array][order][:, columns]
    return moved

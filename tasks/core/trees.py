"""Trees for the teacher: what they see of the rows, and scikit-learn's boosting and forest under one face."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)

from tasks.core.encoder import Sizes
from tasks.core.rows import Rows
from tasks.core.target import Target, Task

CELLS = 10  # of a side of the grid that stands for an image
# Leaves of a tree of boosting: scikit-learn's own, twice as many for numbers, which have less noise than classes.
NODES: dict[Task, int] = {"binary": 31, "multiclass": 31, "regression": 63}
PATIENCE = 30  # iterations of boosting without a better validation loss before it stops


@dataclass(frozen=True)
class Trees:
    """How they grow: `boosting` iterations at most, each of `learning_rate`; `forest` trees; `leaf` rows in a leaf at least."""

    boosting: int
    learning_rate: float
    forest: int
    leaf: int
    rows: int


@dataclass(frozen=True)
class Grown:
    """Trees that have learned: what they say of rows, and of the ones that they learned from as far as these were left out."""

    score: Callable[[NDArray[Any]], NDArray[np.float64]]
    held_out: NDArray[np.float64] | None = None


def tree_columns(rows: Rows, sizes: Sizes) -> NDArray[np.float32]:
    """[row, column]: numbers (not once more as magnitudes, which order rows the same), what is seen of images, codes
    of categories."""
    numbers = rows.num.shape[1] - sizes.magnitudes
    return np.hstack([np.asarray(rows.num)[:, :numbers], *_seen_of(rows), rows.cat[:, : len(sizes.categories)]])


def dense_columns(rows: Rows) -> NDArray[np.float32]:
    """The numbers, and of each image the mean, -1 to 1, of the cells of a grid of at most CELLS x CELLS over it."""
    return np.hstack([np.asarray(rows.num), *_seen_of(rows)])


def grow_boosting(
    target: Target, how: Trees, learned: tuple[NDArray[Any], ...], watched: tuple[NDArray[Any], NDArray[Any]], seed: int
) -> Grown:
    """HistGradientBoosting of (columns, target, weights), which stops when the watched part gets no better.

    Slower and with fewer columns for each split than scikit-learn sets it: both regularise.
    """
    kind = HistGradientBoostingRegressor if target.task == "regression" else HistGradientBoostingClassifier
    model = kind(
        learning_rate=how.learning_rate,
        max_iter=how.boosting,
        max_leaf_nodes=NODES[target.task],
        min_samples_leaf=max(20, how.leaf),
        max_features=0.5,
        early_stopping=True,
        n_iter_no_change=PATIENCE,
        random_state=seed,
    )
    columns, truth, weights = learned
    model.fit(columns, truth, sample_weight=weights, X_val=watched[0], y_val=watched[1])
    return Grown(_scorer(target, model))


def grow_forest(target: Target, how: Trees, learned: tuple[NDArray[Any], ...], seed: int) -> Grown:
    """Extremely randomised trees (Geurts et al. 2006), each on a draw of the rows, so that the others say what it has not seen."""
    regression = target.task == "regression"
    kind = ExtraTreesRegressor if regression else ExtraTreesClassifier
    model = kind(
        how.forest,
        min_samples_leaf=how.leaf,
        max_features=1.0 if regression else 0.4,
        bootstrap=True,
        oob_score=True,
        n_jobs=-1,
        random_state=seed,
    )
    columns, truth, weights = learned
    model.fit(columns, truth, sample_weight=weights)
    told = model.oob_prediction_ if regression else class_scores(target, model.classes_, model.oob_decision_function_)
    return Grown(_scorer(target, model), told)


def _scorer(target: Target, model: Any) -> Callable[[NDArray[Any]], NDArray[np.float64]]:
    if target.task == "regression":
        return lambda columns: np.asarray(model.predict(columns), np.float64)
    return lambda columns: class_scores(target, model.classes_, model.predict_proba(columns))


def class_scores(target: Target, classes: NDArray[Any], scores: NDArray[Any]) -> NDArray[np.float64]:
    """Of class 1 [row], or of every class [row, class]; one that the rows lack has none."""
    full = np.zeros((len(scores), len(target.classes)))
    full[:, np.asarray(classes, int)] = scores
    return full[:, 1] if target.task == "binary" else full


def _seen_of(rows: Rows) -> list[NDArray[np.float32]]:
    """Of each image the features that a backbone made of it, or its cells."""
    images = {name: array for name, array in rows.inputs.items() if name not in ("num", "cat")}
    return [_cells(array) if name.startswith("image") else np.asarray(array) for name, array in images.items()]


def _cells(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[row, line * column * channel] of uint8 [row, height, width, channel]."""
    for axis in (1, 2):
        size = pixels.shape[axis]
        starts = np.unique(np.linspace(0, size, min(size, CELLS), endpoint=False).astype(int))
        counts = np.diff([*starts, size]).reshape([-1 if i == axis else 1 for i in range(4)])
        pixels = np.add.reduceat(pixels, starts, axis=axis, dtype=np.float32) / counts
    return np.asarray(pixels.reshape(len(pixels), -1) / 127.5 - 1.0, np.float32)

"""A linear model on the words of texts, and on all else that rows hold: what short texts are hard to beat with."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, StratifiedKFold

from tasks.core.encoder import MISSING, Sizes
from tasks.core.rows import Rows
from tasks.core.target import Target
from tasks.core.trees import Grown, class_scores, dense_columns

STRENGTHS = (0.3, 1.0, 3.0)  # of the fit against the size of its weights, of which the one that validates best is taken
FOLDS = 5  # of training rows, each told by a model that has not seen it
ITERATIONS = 300


class SparseColumns:
    """Rows as one wide sparse matrix: numbers, means of images' cells, a column for each code of a category, TF-IDF of texts.

    Of each text, and of its pieces apart, the row's squares make one; counts by their logarithm, rare words more, by
    ln((1 + rows) / (1 + rows with it)) + 1, as scikit-learn has it (Salton and Buckley 1988).
    """

    def __init__(self, rows: Rows, sizes: Sizes) -> None:
        """The words' rarity is that in these rows."""
        self.sizes = sizes
        counted = (np.bincount(one.indices, minlength=one.shape[1]) for one in self._counts(rows))
        self.rarity = [np.log((1 + len(rows)) / (1 + found)) + 1 for found in counted]

    def of(self, rows: Rows) -> sparse.csr_matrix:
        """[row, column]."""
        categories = np.asarray(rows.cat)[:, : len(self.sizes.categories)]
        parts = [sparse.csr_matrix(dense_columns(rows)), _one_hot(categories, self.sizes.categories)]
        for counts, rarity in zip(self._counts(rows), self.rarity, strict=True):
            counts.data = (1 + np.log(counts.data)) * rarity[counts.indices]
            squares = np.asarray(counts.multiply(counts).sum(axis=1)).ravel()
            parts.append(sparse.diags(1 / np.sqrt(np.maximum(squares, 1e-12))) @ counts)
        return sparse.hstack(parts).tocsr().astype(np.float32)

    def _counts(self, rows: Rows) -> list[sparse.csr_matrix]:
        """How often each code but that of no word stands in each row, text by text."""
        found, start = [], len(self.sizes.categories)
        for slots, words in self.sizes.texts:
            codes = np.asarray(rows.cat)[:, start : start + slots]
            present = codes != MISSING
            pointers = np.concatenate([[0], np.cumsum(present.sum(axis=1))])
            counts = sparse.csr_matrix((np.ones(pointers[-1], np.float32), codes[present], pointers), (len(codes), words))
            counts.sum_duplicates()
            found.append(counts)
            start += slots
        return found


def _one_hot(codes: NDArray[Any], spans: tuple[int, ...]) -> sparse.csr_matrix:
    count, width = codes.shape
    places = codes + np.cumsum([0, *spans[:-1]])[:width]
    return sparse.csr_matrix(
        (np.ones(count * width, np.float32), places.ravel(), np.arange(count + 1) * width), (count, int(sum(spans)))
    )


def fit_linear(
    target: Target, columns: sparse.csr_matrix, truth: NDArray[Any], weights: NDArray[Any] | None, strength: float, iterations: int
) -> Any:
    """scikit-learn's LogisticRegression, or Ridge; `score_with` says what it tells."""
    if target.task == "regression":
        return Ridge(alpha=1 / strength, solver="lsqr").fit(columns, truth, sample_weight=weights)
    return LogisticRegression(max_iter=iterations, C=strength).fit(columns, truth, sample_weight=weights)


def score_with(target: Target, model: Any, columns: sparse.csr_matrix) -> NDArray[np.float64]:
    """[row], or [row, class] of several classes."""
    if target.task == "regression":
        return np.asarray(model.predict(columns), np.float64)
    return class_scores(target, model.classes_, model.predict_proba(columns))


def grow_linear(
    target: Target,
    learned: tuple[sparse.csr_matrix, NDArray[Any], NDArray[Any] | None],
    loss: Callable[[NDArray[Any]], float],
    watched: sparse.csr_matrix,
    seed: int,
) -> Grown:
    """The linear model of (columns, target, weights) whose scores of the watched rows have the lowest loss.

    Of each row that it learned from it says what a model of the other folds does: it knows so rare words that its own opinion of
    these rows is the truth that it was told.
    """
    columns, truth, weights = learned
    models = [fit_linear(target, columns, truth, weights, one, ITERATIONS) for one in STRENGTHS]
    losses = [loss(score_with(target, model, watched)) for model in models]
    best = int(np.argmin(losses))
    rarest = len(truth) if target.task == "regression" else int(np.unique(truth, return_counts=True)[1].min())
    if rarest < 2:  # without that row nothing is known of its class
        return Grown(lambda asked: score_with(target, models[best], asked))
    kind = KFold if target.task == "regression" else StratifiedKFold
    held = np.zeros((len(truth), target.outputs) if target.task == "multiclass" else len(truth))
    for seen, left in kind(min(FOLDS, rarest), shuffle=True, random_state=seed).split(truth, truth):
        some = None if weights is None else weights[seen]
        model = fit_linear(target, columns[seen], truth[seen], some, STRENGTHS[best], ITERATIONS)
        held[left] = score_with(target, model, columns[left])
    return Grown(lambda asked: score_with(target, models[best], asked), held)

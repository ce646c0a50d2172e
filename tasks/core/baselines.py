"""What any model must be compared with: the constant, a linear model, scikit-learn's gradient boosting."""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge

from tasks.core.encoder import Sizes
from tasks.core.rows import Rows
from tasks.core.target import Target
from tasks.core.trees import class_scores, dense_columns, tree_columns

MOST_CATEGORIES = 254  # HistGradientBoosting takes 255 of a column, one is ours for the rest


def score_constant(target: Target, train: Rows, test: Rows) -> NDArray[np.float64]:
    """The training rows' share of each class, or their mean, for every test row."""
    if target.task == "multiclass":
        shares = np.bincount(np.asarray(train.target, np.int64), minlength=target.outputs) / len(train)
        return np.tile(shares, (len(test), 1))
    return np.full(len(test), np.asarray(train.target).mean(dtype=np.float64))


def score_linear(target: Target, train: Rows, test: Rows, sizes: Sizes) -> NDArray[np.float64]:
    """scikit-learn's LogisticRegression, or Ridge, on the numbers, the means of an image's cells and one column for each
    category's code and each word."""
    fitted, asked = _one_hot(train, sizes), _one_hot(test, sizes)
    if target.task == "regression":
        return np.asarray(Ridge(alpha=1.0, solver="lsqr").fit(fitted, train.target).predict(asked), np.float64)
    model = LogisticRegression(max_iter=200, C=0.1).fit(fitted, np.asarray(train.target))
    return class_scores(target, model.classes_, model.predict_proba(asked))


def score_gradient_boosting(target: Target, train: Rows, test: Rows, sizes: Sizes, seed: int) -> NDArray[np.float64]:
    """HistGradientBoosting as scikit-learn sets it, told which columns are categories; words of texts it does not see."""
    fitted, asked = tree_columns(train, sizes), tree_columns(test, sizes)
    categories = [size <= MOST_CATEGORIES + 1 for size in sizes.categories]
    kind = HistGradientBoostingRegressor if target.task == "regression" else HistGradientBoostingClassifier
    model = kind(categorical_features=[False] * (fitted.shape[1] - len(categories)) + categories, random_state=seed)
    model.fit(fitted, train.target)
    if target.task == "regression":
        return np.asarray(model.predict(asked), np.float64)
    return class_scores(target, model.classes_, model.predict_proba(asked))


def _one_hot(rows: Rows, sizes: Sizes) -> sparse.csr_matrix:
    spans = [*sizes.categories, *(words for slots, words in sizes.texts for _ in range(slots))]
    starts = np.cumsum([0, *spans[:-1]])
    # A text's slots share one column for each word.
    slot = len(sizes.categories)
    for slots, _ in sizes.texts:
        starts[slot : slot + slots] = starts[slot]
        slot += slots
    places = np.asarray(rows.cat) + starts
    count, width = places.shape
    ones = np.ones(count * width, np.float32)
    pointers = np.arange(count + 1) * width
    words = sparse.csr_matrix((ones, places.ravel(), pointers), (count, int(sum(spans))))
    words.sum_duplicates()
    return sparse.hstack([sparse.csr_matrix(dense_columns(rows)), words]).tocsr()

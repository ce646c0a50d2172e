"""What any model must be compared with: the constant, a linear model, scikit-learn's gradient boosting."""

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from tasks.core.encoder import Sizes
from tasks.core.rows import Rows
from tasks.core.sparse import SparseColumns, fit_linear, score_with
from tasks.core.target import Target
from tasks.core.trees import class_scores, tree_columns

MOST_CATEGORIES = 254  # HistGradientBoosting takes 255 of a column, one is ours for the rest


def score_constant(target: Target, train: Rows, test: Rows) -> NDArray[np.float64]:
    """The training rows' share of each class, or their mean, for every test row."""
    if target.task == "multiclass":
        shares = np.bincount(np.asarray(train.target, np.int64), minlength=target.outputs) / len(train)
        return np.tile(shares, (len(test), 1))
    return np.full(len(test), np.asarray(train.target).mean(dtype=np.float64))


def score_linear(target: Target, train: Rows, test: Rows, sizes: Sizes) -> NDArray[np.float64]:
    """scikit-learn's LogisticRegression, or Ridge, on the numbers, the means of an image's cells, one column for each category's
    code and TF-IDF of texts."""
    columns = SparseColumns(train, sizes)
    strength = 1.0 if sizes.texts or target.task == "regression" else 0.1
    return score_with(
        target, fit_linear(target, columns.of(train), np.asarray(train.target), None, strength, 200), columns.of(test)
    )


def score_gradient_boosting(target: Target, train: Rows, test: Rows, sizes: Sizes, seed: int) -> NDArray[np.float64]:
    """HistGradientBoosting as scikit-learn sets it, told which columns are categories; words of texts it does not see.

    Where there are texts alone, that leaves it the constant.
    """
    fitted, asked = tree_columns(train, sizes), tree_columns(test, sizes)
    if not fitted.shape[1]:
        return score_constant(target, train, test)
    categories = [size <= MOST_CATEGORIES + 1 for size in sizes.categories]
    kind = HistGradientBoostingRegressor if target.task == "regression" else HistGradientBoostingClassifier
    model = kind(categorical_features=[False] * (fitted.shape[1] - len(categories)) + categories, random_state=seed)
    model.fit(fitted, train.target)
    if target.task == "regression":
        return np.asarray(model.predict(asked), np.float64)
    return class_scores(target, model.classes_, model.predict_proba(asked))

"""What any model must be compared with: the constant, a logistic regression, scikit-learn's gradient boosting."""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from tasks.core.rows import Rows

MOST_CATEGORIES = 254  # HistGradientBoosting takes 255 of a column, one is ours for the rest


def score_constant(train: Rows, test: Rows) -> NDArray[np.float64]:
    """The share of positive training rows, for every test row."""
    return np.full(len(test), np.asarray(train.target).mean(dtype=np.float64))


def score_logistic_regression(train: Rows, test: Rows, sizes: tuple[int, ...]) -> NDArray[np.float64]:
    """scikit-learn's LogisticRegression on the numbers and one column for each category's code."""
    model = LogisticRegression(max_iter=200, C=0.1)
    model.fit(_one_hot(train, sizes), train.target)
    return np.asarray(model.predict_proba(_one_hot(test, sizes))[:, 1])


def score_gradient_boosting(train: Rows, test: Rows, sizes: tuple[int, ...], seed: int) -> NDArray[np.float64]:
    """HistGradientBoostingClassifier as scikit-learn sets it, told which columns are categories."""
    categorical = [False] * train.num.shape[1] + [size <= MOST_CATEGORIES + 1 for size in sizes]
    model = HistGradientBoostingClassifier(categorical_features=categorical, random_state=seed)
    model.fit(np.hstack([train.num, train.cat]), train.target)
    return np.asarray(model.predict_proba(np.hstack([test.num, test.cat]))[:, 1])


def _one_hot(rows: Rows, sizes: tuple[int, ...]) -> sparse.csr_matrix:
    starts = np.cumsum([0, *sizes[:-1]])
    places = np.asarray(rows.cat) + starts
    count, width = places.shape
    ones = np.ones(count * width, np.float32)
    pointers = np.arange(0, count * width + 1, width)
    return sparse.hstack(
        [sparse.csr_matrix(rows.num), sparse.csr_matrix((ones, places.ravel(), pointers), (count, sum(sizes)))]
    ).tocsr()

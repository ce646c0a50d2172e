"""The linear model on texts: what it sees, and what it says of rows that it has learned from."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from tasks.core.encoder import Sizes
from tasks.core.metrics import log_loss
from tasks.core.rows import Rows
from tasks.core.sparse import SparseColumns, grow_linear
from tasks.core.target import Target

RANDOM = np.random.default_rng(4)
BINARY = Target("binary", "y", (0, 1))


def texts(codes: np.ndarray, truth: np.ndarray) -> Rows:
    return Rows({"num": np.zeros((len(codes), 0), np.float32), "cat": codes.astype(np.int32)}, truth.astype(np.float32))


def test_texts_weigh_as_scikit_learn_weighs_them() -> None:
    codes = RANDOM.integers(0, 12, (50, 7))
    said = [" ".join(f"w{code:02d}" for code in row if code) for row in codes]
    own = TfidfVectorizer(sublinear_tf=True)
    wanted = own.fit_transform(said).toarray()
    rows = texts(codes, np.zeros(50))
    columns = SparseColumns(rows, Sizes(0, 0, (), ((7, 12),))).of(rows).toarray()
    np.testing.assert_allclose(columns[:, 1:], wanted, atol=1e-6)
    assert not columns[:, 0].any()  # code 0 is no word


def test_words_pieces_and_all_else_stand_beside_each_other() -> None:
    num, cat = np.array([[0.5], [-1.0]], np.float32), np.array([[1, 3, 0, 2], [0, 2, 2, 0]], np.int32)
    rows = Rows({"num": num, "cat": cat}, np.zeros(2, np.float32))
    columns = SparseColumns(rows, Sizes(1, 0, (2,), ((2, 4), (1, 3)))).of(rows).toarray()
    assert columns.shape == (2, 1 + 2 + 4 + 3)
    np.testing.assert_array_equal(columns[:, :3], [[0.5, 0, 1], [-1, 1, 0]])
    np.testing.assert_allclose((columns[:, 3:7] ** 2).sum(axis=1), 1)
    np.testing.assert_allclose((columns[:, 7:] ** 2).sum(axis=1), [1, 0])  # the second row has no known piece


@pytest.mark.parametrize("rare", [1, 3])
def test_opinion_of_learned_rows_is_that_of_models_that_have_not_seen_them(rare: int) -> None:
    # Each row has a word of its own, which tells its truth to whoever has seen it, and to nobody else.
    count, truth = 200, np.zeros(200)
    truth[:rare] = 1
    if rare == 3:
        truth[::2] = 1
    codes = np.stack([np.arange(count) + 2, np.ones(count)], axis=1)
    rows = texts(codes, truth)
    columns = SparseColumns(rows, Sizes(0, 0, (), ((2, count + 2),)))
    grown = grow_linear(BINARY, (columns.of(rows), truth, None), lambda scores: log_loss(truth, scores), columns.of(rows), 1)
    own = grown.score(columns.of(rows))
    assert own[truth == 1].min() > own[truth == 0].max()
    if rare == 1:  # of a class of one row nothing can be held out
        assert grown.held_out is None
    else:
        assert grown.held_out is not None
        assert abs(grown.held_out[truth == 1].mean() - grown.held_out[truth == 0].mean()) < 0.05


def test_regression_and_several_classes_are_told_in_their_shapes() -> None:
    codes = RANDOM.integers(2, 9, (90, 4))
    sizes = Sizes(0, 0, (), ((4, 9),))
    for target, truth, shape in (
        (Target("regression", "y", ()), (codes == 3).sum(axis=1).astype(float), (90,)),
        (Target("multiclass", "y", ("a", "b", "c")), codes[:, 0] % 3, (90, 3)),
    ):
        rows = texts(codes, truth)
        columns = SparseColumns(rows, sizes)

        def loss(scores: np.ndarray, truth: np.ndarray = truth) -> float:
            return float(((scores - truth) ** 2).mean()) if scores.ndim == 1 else log_loss(truth, scores)

        grown = grow_linear(target, (columns.of(rows), truth, None), loss, columns.of(rows), 1)
        assert grown.score(columns.of(rows)).shape == shape
        assert grown.held_out is not None
        assert grown.held_out.shape == shape
        assert loss(grown.held_out) < loss(np.broadcast_to(grown.held_out.mean(axis=0), shape))

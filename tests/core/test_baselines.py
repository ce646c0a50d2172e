"""The baselines learn from whatever columns there are."""

import numpy as np
import pytest

from tasks.core.baselines import score_gradient_boosting, score_linear
from tasks.core.encoder import Sizes
from tasks.core.rows import Rows
from tasks.core.target import Target


@pytest.mark.parametrize(("numbers", "categories"), [(2, ()), (0, (4, 3)), (2, (4,))])
def test_linear_learns_with_numbers_alone_and_with_categories_alone(numbers: int, categories: tuple[int, ...]) -> None:
    draw = np.random.default_rng(0)
    num = draw.normal(size=(200, numbers)).astype(np.float32)
    cat = np.stack([draw.integers(0, size, 200) for size in categories], axis=1) if categories else np.zeros((200, 0))
    truth = (num[:, 0] if numbers else cat[:, 0] > 1) > 0
    rows = Rows({"num": num, "cat": cat.astype(np.int32)}, truth.astype(np.float32))
    scores = score_linear(Target("binary", "y", (0, 1)), rows, rows, Sizes(numbers, 0, categories, ()))
    assert scores[truth].mean() > scores[~truth].mean() + 0.5


def test_baselines_learn_from_the_cells_of_an_image() -> None:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 100, (300, 23, 31, 3), np.uint8)
    truth = draw.integers(0, 2, 300).astype(bool)
    pixels[truth, :8, :8] += 80
    nothing = {"num": np.zeros((300, 0), np.float32), "cat": np.zeros((300, 0), np.int32)}
    rows, sizes = Rows({**nothing, "image0": pixels}, truth.astype(np.float32)), Sizes(0, 0, (), (), ((23, 31, 3),))
    target = Target("binary", "y", (0, 1))
    for scores in (score_linear(target, rows, rows, sizes), score_gradient_boosting(target, rows, rows, sizes, 1)):
        assert scores[truth].mean() > scores[~truth].mean() + 0.8


def test_baselines_of_texts_alone_read_their_words_or_tell_the_constant() -> None:
    draw = np.random.default_rng(0)
    codes = draw.integers(2, 40, (300, 6)).astype(np.int32)
    truth = (codes == 7).any(axis=1)
    rows = Rows({"num": np.zeros((300, 0), np.float32), "cat": codes}, truth.astype(np.float32))
    target, sizes = Target("binary", "y", (0, 1)), Sizes(0, 0, (), ((6, 40),))
    linear = score_linear(target, rows, rows, sizes)
    assert linear[truth].min() > linear[~truth].max()
    np.testing.assert_allclose(score_gradient_boosting(target, rows, rows, sizes, 1), truth.mean(), atol=1e-6)

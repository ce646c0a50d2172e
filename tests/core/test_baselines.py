"""The baselines learn from whatever columns there are."""

import numpy as np
import pytest

from tasks.core.baselines import score_linear
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

"""The shares of a blend, and what it says."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.core.blend import choose_shares, mix

RANDOM = np.random.default_rng(0)
TRUTH = RANDOM.normal(size=2000)


def loss(scores: NDArray[Any]) -> float:
    return float(np.mean((scores - TRUTH) ** 2))


def off(spread: float) -> NDArray[np.float64]:
    """Scores that are wrong by so much, each in its own way."""
    return TRUTH + RANDOM.normal(size=len(TRUTH)) * spread


def test_blend_of_equally_good_models_is_better_than_each_and_shares_alike() -> None:
    scores = [off(1.0) for _ in range(4)]
    shares = choose_shares(loss, scores)
    assert sum(shares) == pytest.approx(1)
    assert min(shares) > 0.15
    assert loss(mix(shares, scores)) < 0.5 * min(map(loss, scores))


def test_model_that_only_harms_has_no_share() -> None:
    assert choose_shares(loss, [off(0.1), off(9.0)]) == [1.0, 0.0]


def test_model_that_says_no_number_is_left_out() -> None:
    broken = off(0.01)
    broken[7] = np.nan
    assert choose_shares(loss, [broken, off(1.0)]) == [0.0, 1.0]
    with pytest.raises(ValueError, match="no model says numbers alone"):
        choose_shares(loss, [broken])


def test_mix_does_not_look_at_a_model_without_a_share() -> None:
    np.testing.assert_array_equal(mix([0.0, 1.0], [np.zeros(0), TRUTH]), TRUTH.astype(np.float32))


def test_blend_is_never_worse_on_its_rows_than_the_best_model() -> None:
    for seed in range(5):
        random = np.random.default_rng(seed)
        scores = [TRUTH + random.normal(size=len(TRUTH)) * spread for spread in random.uniform(0.1, 3, 6)]
        assert loss(mix(choose_shares(loss, scores), scores)) <= min(map(loss, scores)) + 1e-6

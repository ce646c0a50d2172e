"""Two models on the same rows: the paired bootstrap finds small differences that two intervals apart would not."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.core.paired import Comparison, compare


def drawn(rows: int, worse_by: float, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Truth, what is true of each row, and the same with an error on the scale of log odds."""
    random = np.random.default_rng(seed)
    odds = random.normal(size=rows)
    truth = (random.random(rows) < 1 / (1 + np.exp(-odds))).astype(float)
    return truth, 1 / (1 + np.exp(-odds)), 1 / (1 + np.exp(-odds - random.normal(0, worse_by, rows)))


def held(truth: NDArray[np.float64], champion: NDArray[np.float64], challenger: NDArray[np.float64]) -> Comparison:
    return compare("binary", truth, champion, challenger, resamples=400, confidence=0.95, seed=1)


def test_the_better_one_wins_whichever_side_it_is_on() -> None:
    truth, good, bad = drawn(4000, 0.7)
    better, worse = held(truth, bad, good), held(truth, good, bad)
    assert better.difference.high < 0 < worse.difference.low
    assert (better.won, worse.won) == (1.0, 0.0)
    assert better.champion == worse.challenger == pytest.approx(better.champion)
    assert better.difference.value == pytest.approx(better.challenger - better.champion)


def test_the_same_answers_win_half_of_the_resamples() -> None:
    truth, good, _ = drawn(500, 0)
    same = held(truth, good, good)
    assert (same.difference.value, same.difference.low, same.difference.high, same.won) == (0, 0, 0, 0.5)


def test_of_two_that_are_equally_good_few_win_by_chance() -> None:
    wins = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        truth, good, _ = drawn(400, 0, seed)
        noise = [np.clip(good + random.normal(0, 0.05, len(good)), 0.01, 0.99) for _ in range(2)]
        wins += compare("binary", truth, *noise, resamples=200, confidence=0.95, seed=seed).won >= 0.9
    assert 1 <= wins <= 14  # one in ten, of sixty


def test_several_classes_and_numbers_are_compared_by_their_own_loss() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, 900)
    sure, unsure = (np.where(np.arange(3) == truth[:, None], top, (1 - top) / 2) for top in (0.8, 0.5))
    several = compare("multiclass", truth, unsure, sure, resamples=200, confidence=0.9, seed=0)
    assert (several.loss, several.won) == ("log_loss", 1.0)
    assert several.challenger == pytest.approx(-np.log(0.8))
    numbers = random.normal(100, 20, 900)
    near, far = numbers + random.normal(0, 1, 900), numbers + random.normal(0, 2, 900)
    found = compare("regression", numbers, far, near, resamples=200, confidence=0.9, seed=0)
    assert found.loss == "rmse"
    assert (found.challenger, found.champion) == (pytest.approx(1, abs=0.1), pytest.approx(2, abs=0.2))
    assert found.won == 1.0


def test_comparison_is_what_json_says_of_it() -> None:
    found = held(*drawn(100, 0.5))
    assert Comparison.from_json(found.to_json()) == found

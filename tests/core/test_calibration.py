"""Calibration: undoes what distorts probabilities, and leaves alone what is right or what only a season distorts."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.core.calibration import Calibration, fit_calibration
from tasks.core.metrics import calibration_error, log_loss
from tasks.core.target import Target

BINARY = Target("binary", "late", (0, 1))


def logit(p: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(p) - np.log1p(-p)


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def draw(rows: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Classes, drawn from the probabilities beside them."""
    random = np.random.default_rng(seed)
    p = random.uniform(0.02, 0.98, rows)
    return (random.uniform(size=rows) < p).astype(np.float64), p


def test_sureness_and_shift_are_undone() -> None:
    truth, p = draw(20_000)
    told = sigmoid(2.0 * logit(p) + 1.0)  # too sure, and shifted
    found = fit_calibration(truth, told, ordered=False, seed=0)
    assert found is not None
    assert found.slope == pytest.approx(0.5, abs=0.03)
    assert found.bias[0] == pytest.approx(-0.5, abs=0.06)
    fresh, q = draw(20_000, seed=1)
    wrong = sigmoid(2.0 * logit(q) + 1.0)
    assert calibration_error(BINARY, fresh, wrong) > 0.08
    assert calibration_error(BINARY, fresh, found(wrong)) < 0.02
    assert log_loss(fresh, found(wrong)) == pytest.approx(log_loss(fresh, q), abs=0.002)


def test_probabilities_that_are_right_are_left_alone() -> None:
    kept = [fit_calibration(*draw(5000, seed), ordered=False, seed=0) for seed in range(20)]
    assert sum(found is not None for found in kept) <= 5  # chance alone


def test_shift_of_one_season_is_not_learned() -> None:
    _, p = draw(10_000)
    rates = np.where(np.arange(10_000) // 500 % 4 == 0, 2.0, -0.5)  # one stretch in four is another world
    came = (np.random.default_rng(1).uniform(size=10_000) < sigmoid(logit(p) + rates)).astype(np.float64)
    assert fit_calibration(came, p, ordered=True, seed=0) is None
    assert fit_calibration(came, p, ordered=False, seed=0) is not None


def test_class_weights_are_undone_for_several_classes() -> None:
    random = np.random.default_rng(0)
    p = random.dirichlet((1, 2, 3), 20_000)
    truth = (p.cumsum(axis=1) < random.uniform(size=(20_000, 1))).sum(axis=1).astype(np.float64)
    weighted = p * [6, 3, 2] / (p * [6, 3, 2]).sum(axis=1, keepdims=True)
    found = fit_calibration(truth, weighted, ordered=False, seed=0)
    assert found is not None
    assert np.abs(found(weighted) - p).max() < 0.03
    assert np.abs(found(weighted).sum(axis=1) - 1).max() < 1e-12


def test_certain_and_wrong_scores_stay_finite_and_a_reversed_ranking_is_left_alone() -> None:
    truth, p = draw(1000)
    assert fit_calibration(truth, 1 - p, ordered=False, seed=0) is None
    found = fit_calibration(truth, np.where(p > 0.5, 1.0, 0.0), ordered=False, seed=0)
    assert found is not None
    assert np.isfinite(found(np.array([0.0, 0.5, 1.0]))).all()
    perfect = fit_calibration(truth, truth * 0.8 + 0.1, ordered=False, seed=0)
    assert perfect is not None
    assert np.isfinite([perfect.slope, *perfect.bias]).all()


def test_few_rows_are_not_calibrated() -> None:
    assert fit_calibration(np.array([0.0, 1.0]), np.array([0.2, 0.4]), ordered=False, seed=0) is None


def test_no_change_is_no_change() -> None:
    p = np.linspace(0.01, 0.99, 50)
    np.testing.assert_allclose(Calibration(1.0, (0.0,))(p), p, atol=1e-12)

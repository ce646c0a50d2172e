"""The metrics against scikit-learn, and what the intervals and the calibration error promise."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.core.metrics import auc, bootstrap, calibration_curve, calibration_error, log_loss

labelled = st.lists(st.tuples(st.integers(0, 1), st.integers(1, 9)), min_size=2, max_size=60).filter(
    lambda rows: len({target for target, _ in rows}) == 2
)


def sample(rows: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Targets drawn from their scores, which are therefore calibrated."""
    random = np.random.default_rng(seed)
    scores = random.uniform(0.02, 0.98, rows)
    return (random.uniform(size=rows) < scores).astype(np.float64), scores


@settings(max_examples=100, deadline=None)
@given(labelled)
def test_auc_and_log_loss_are_those_of_scikit_learn_on_tied_scores(rows: list[tuple[int, int]]) -> None:
    target, tenths = np.array(rows).T
    scores = tenths / 10
    assert auc(target, scores) == pytest.approx(sklearn.metrics.roc_auc_score(target, scores), abs=1e-12)
    assert log_loss(target, scores) == pytest.approx(sklearn.metrics.log_loss(target, scores, labels=[0, 1]), abs=1e-12)


def test_auc_and_log_loss_are_those_of_scikit_learn_on_float32_scores() -> None:
    target, scores = sample(5000)
    narrow = scores.astype(np.float32)
    assert auc(target, narrow) == pytest.approx(sklearn.metrics.roc_auc_score(target, narrow), abs=1e-12)
    assert log_loss(target, narrow) == pytest.approx(sklearn.metrics.log_loss(target, narrow.astype(np.float64)), abs=1e-12)


def test_auc_of_known_orders() -> None:
    target = np.array([0, 0, 1, 1])
    assert auc(target, np.array([0.1, 0.2, 0.3, 0.4])) == 1
    assert auc(target, np.array([0.4, 0.3, 0.2, 0.1])) == 0
    assert auc(target, np.full(4, 0.3)) == 0.5


def test_log_loss_of_a_certain_mistake_is_large_and_finite() -> None:
    assert log_loss(np.array([1.0]), np.array([0.0])) == pytest.approx(-np.log(1e-7))


def test_intervals_contain_the_value_on_all_rows() -> None:
    target, scores = sample(400)
    (found,) = bootstrap(target, [scores], resamples=200, confidence=0.95, seed=1)
    assert found["auc"].value == auc(target, scores)
    assert found["log_loss"].value == log_loss(target, scores)
    for interval in found.values():
        assert interval.low < interval.value < interval.high


def test_intervals_are_the_same_for_the_same_seed_only() -> None:
    target, scores = sample(400)
    first, again, other = (bootstrap(target, [scores], resamples=50, confidence=0.9, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_intervals_of_equal_scorings_are_equal() -> None:
    target, scores = sample(400)
    one, two = bootstrap(target, [scores, scores.copy()], resamples=50, confidence=0.9, seed=3)
    assert one == two


def test_intervals_widen_with_the_confidence_wanted() -> None:
    target, scores = sample(400)
    widths = [
        interval.high - interval.low
        for confidence in (0.6, 0.99)
        for interval in [bootstrap(target, [scores], resamples=100, confidence=confidence, seed=3)[0]["auc"]]
    ]
    assert widths[0] < widths[1]


def test_interval_is_finite_when_positive_rows_are_rare() -> None:
    target = np.arange(40) == 0
    (found,) = bootstrap(target.astype(np.float64), [np.linspace(0.1, 0.9, 40)], resamples=50, confidence=0.95, seed=0)
    assert np.isfinite([found["auc"].low, found["auc"].high]).all()


def test_calibration_error_is_zero_when_every_bin_holds_its_share() -> None:
    shares = np.arange(1, 16) / 20  # as many as there are bins, 20 rows each
    scores = np.repeat(shares, 20)
    target = np.concatenate([np.arange(20) < round(share * 20) for share in shares]).astype(np.float64)
    assert calibration_error(target, scores) == pytest.approx(0, abs=1e-12)
    for mean, share in calibration_curve(target, scores):
        assert mean == pytest.approx(share)


def test_calibration_error_is_the_gap_of_scores_that_are_wrong_everywhere() -> None:
    target = np.tile([1.0] + [0.0] * 9, 15)
    assert calibration_error(target, np.full(150, 0.9)) == pytest.approx(0.8)


def test_calibration_error_is_small_for_calibrated_scores_and_large_for_their_opposite() -> None:
    target, scores = sample(20_000)
    assert calibration_error(target, scores) < 0.02
    assert calibration_error(target, 1 - scores) > 0.4


def test_calibration_error_of_tied_scores_does_not_depend_on_the_order_of_rows() -> None:
    target = np.repeat([0.0, 1.0], 150)
    assert calibration_error(target, np.full(300, 0.5)) == pytest.approx(0)


def test_calibration_error_takes_fewer_rows_than_bins() -> None:
    assert calibration_error(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == 0

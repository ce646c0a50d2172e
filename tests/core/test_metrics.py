"""The metrics against scikit-learn, and what the intervals and the calibration error promise."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.core import metrics
from tasks.core.metrics import auc, bootstrap, log_loss, mean_loss, measure
from tasks.core.target import Target

BINARY = Target("binary", "late", (0, 1))
KINDS = Target("multiclass", "kind", ("a", "b", "c"))
PRICE = Target("regression", "price", (), center=100.0, scale=20.0)

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
    (found,) = bootstrap(BINARY, target, [scores], resamples=200, confidence=0.95, seed=1)
    assert found["auc"].value == auc(target, scores)
    assert found["log_loss"].value == pytest.approx(log_loss(target, scores), rel=1e-12)
    for interval in found.values():
        assert interval.low < interval.value < interval.high


def test_intervals_are_the_same_for_the_same_seed_only() -> None:
    target, scores = sample(400)
    first, again, other = (bootstrap(BINARY, target, [scores], resamples=50, confidence=0.9, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_intervals_of_equal_scorings_are_equal() -> None:
    target, scores = sample(400)
    one, two = bootstrap(BINARY, target, [scores, scores.copy()], resamples=50, confidence=0.9, seed=3)
    assert one == two


def test_intervals_widen_with_the_confidence_wanted() -> None:
    target, scores = sample(400)
    widths = [
        interval.high - interval.low
        for confidence in (0.6, 0.99)
        for interval in [bootstrap(BINARY, target, [scores], resamples=100, confidence=confidence, seed=3)[0]["auc"]]
    ]
    assert widths[0] < widths[1]


def test_interval_is_finite_when_positive_rows_are_rare() -> None:
    target = np.arange(40) == 0
    (found,) = bootstrap(BINARY, target.astype(np.float64), [np.linspace(0.1, 0.9, 40)], resamples=50, confidence=0.95, seed=0)
    assert np.isfinite([found["auc"].low, found["auc"].high]).all()


def test_calibration_error_is_zero_when_every_bin_holds_its_share() -> None:
    shares = np.arange(1, 16) / 20  # as many as there are bins, 20 rows each
    scores = np.repeat(shares, 20)
    target = np.concatenate([np.arange(20) < round(share * 20) for share in shares]).astype(np.float64)
    assert metrics.calibration_error(BINARY, target, scores) == pytest.approx(0, abs=1e-12)
    for mean, share in metrics.calibration_curve(BINARY, target, scores):
        assert mean == pytest.approx(share)


def test_calibration_error_is_the_gap_of_scores_that_are_wrong_everywhere() -> None:
    target = np.tile([1.0] + [0.0] * 9, 15)
    assert metrics.calibration_error(BINARY, target, np.full(150, 0.9)) == pytest.approx(0.8)


def test_calibration_error_is_small_for_calibrated_scores_and_large_for_their_opposite() -> None:
    target, scores = sample(20_000)
    assert metrics.calibration_error(BINARY, target, scores) < 0.02
    assert metrics.calibration_error(BINARY, target, 1 - scores) > 0.4


def test_calibration_error_of_tied_scores_does_not_depend_on_the_order_of_rows() -> None:
    target = np.repeat([0.0, 1.0], 150)
    assert metrics.calibration_error(BINARY, target, np.full(300, 0.5)) == pytest.approx(0)


def test_calibration_error_takes_fewer_rows_than_bins() -> None:
    assert metrics.calibration_error(BINARY, np.array([0.0, 1.0]), np.array([0.0, 1.0])) == 0


def test_metrics_of_several_classes_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(4)
    truth = random.integers(0, 3, 300)
    scores = random.dirichlet([1, 1, 1], 300)
    found = measure(KINDS, truth, scores)
    assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(truth, scores.argmax(axis=1)))
    assert found["log_loss"] == pytest.approx(sklearn.metrics.log_loss(truth, scores, labels=[0, 1, 2]))
    assert mean_loss("multiclass", truth, scores) == pytest.approx(found["log_loss"])
    (interval,) = bootstrap(KINDS, truth, [scores], resamples=100, confidence=0.9, seed=0)
    assert interval["accuracy"].low < found["accuracy"] < interval["accuracy"].high


def test_metrics_of_a_regression_are_those_of_scikit_learn_in_its_own_unit() -> None:
    random = np.random.default_rng(5)
    price = random.normal(100, 20, 400)
    answer = price + random.normal(0, 5, 400)
    found = measure(PRICE, PRICE.encode(price), PRICE.encode(answer))
    assert found["rmse"] == pytest.approx(sklearn.metrics.mean_squared_error(price, answer) ** 0.5, rel=1e-5)
    assert found["mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(price, answer), rel=1e-5)
    assert found["r2"] == pytest.approx(sklearn.metrics.r2_score(price, answer), rel=1e-5)
    assert mean_loss("regression", PRICE.encode(price), PRICE.encode(answer)) == pytest.approx((found["rmse"] / 20) ** 2, rel=1e-5)
    (interval,) = bootstrap(PRICE, PRICE.encode(price), [PRICE.encode(answer)], resamples=100, confidence=0.9, seed=0)
    assert all(interval[metric].low < found[metric] < interval[metric].high for metric in ("r2", "rmse", "mae"))


def test_calibration_of_several_classes_is_that_of_the_likeliest() -> None:
    truth = np.tile([0, 0, 0, 1], 50)
    sure = np.tile([0.75, 0.2, 0.05], (200, 1))
    assert metrics.calibration_error(KINDS, truth, sure) == pytest.approx(0, abs=1e-9)
    assert metrics.calibration_error(KINDS, truth, np.tile([0.95, 0.05, 0.0], (200, 1))) == pytest.approx(0.2)


def test_calibration_of_a_regression_is_a_gap_in_its_own_unit() -> None:
    price = np.linspace(50, 150, 300)
    assert metrics.calibration_error(PRICE, PRICE.encode(price), PRICE.encode(price + 3)) == pytest.approx(3, rel=1e-4)

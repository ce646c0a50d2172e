"""Intervals: they hold the share that they promise, follow the errors' size, and never cross."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.core.errors import DataError
from tasks.core.intervals import fit_intervals, measure_coverage


def draw(rows: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Truth with skewed errors that grow with the answer."""
    random = np.random.default_rng(seed)
    answers = random.uniform(1, 10, rows)
    return answers + answers * (random.exponential(1, rows) - 1), answers


@pytest.mark.parametrize("levels", [(0.1, 0.9), (0.05, 0.5), (0.025, 0.975)])
def test_coverage_is_what_was_asked_for_at_every_size_of_the_answer(levels: tuple[float, float]) -> None:
    found = fit_intervals(levels, *draw(20_000, 0))
    truth, answers = draw(20_000, 1)
    wanted = levels[1] - levels[0]
    bounds = found(answers)
    for own in (answers < 3, (answers >= 3) & (answers < 7), answers >= 7):
        assert measure_coverage(bounds[own], truth[own]).share >= wanted - 0.02
    if levels[1] == 0.9:
        assert measure_coverage(bounds, truth).share == pytest.approx(wanted, abs=0.02)


def test_interval_is_wide_where_errors_are_and_narrower_than_one_for_all() -> None:
    found = fit_intervals((0.1, 0.9), *draw(20_000, 0))
    small, large = found(np.array([1.5, 9.5]))
    assert large[1] - large[0] > 4 * (small[1] - small[0])
    truth, answers = draw(20_000, 1)
    same = np.tile(np.quantile(truth, (0.1, 0.9)), (len(truth), 1))
    assert measure_coverage(found(answers), truth).width < measure_coverage(same, truth).width


def test_bounds_never_cross_and_hold_the_answer() -> None:
    random = np.random.default_rng(0)
    answers = random.normal(size=3000)
    for truth in (answers + 5, answers - 5, answers, random.normal(size=3000)):  # a model that is off, and one that is right
        low, high = fit_intervals((0.1, 0.9), truth, answers)(np.linspace(-9, 9, 100)).T
        assert (low <= np.linspace(-9, 9, 100)).all()
        assert (np.linspace(-9, 9, 100) <= high).all()


def test_few_rows_and_equal_answers_still_give_honest_bounds() -> None:
    shares = []
    for seed in range(200):
        truth, answers = np.random.default_rng(seed).normal(size=20), np.zeros(20)
        found = fit_intervals((0.1, 0.9), truth[:19], answers[:19])
        shares.append(measure_coverage(found(answers[19:]), truth[19:]).share)
    assert np.mean(shares) >= 0.75


def test_too_few_rows_are_refused_in_a_sentence() -> None:
    with pytest.raises(DataError, match=r"evaluate.interval \[0.01, 0.99\] needs 100 validation rows, found 50; widen"):
        fit_intervals((0.01, 0.99), np.zeros(50), np.zeros(50))

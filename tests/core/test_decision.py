"""Decisions: the cheapest threshold, and the cheapest class of several."""

import numpy as np
import pytest

from tasks.core.decision import Decision, fit_decision, mean_cost

FIVE = ((0.0, 1.0), (5.0, 0.0))  # a missed positive costs five false alarms


def test_threshold_is_that_of_the_costs_where_probabilities_are_right() -> None:
    random = np.random.default_rng(0)
    p = random.uniform(size=50_000)
    truth = (random.uniform(size=50_000) < p).astype(float)
    found = fit_decision(FIVE, truth, p)
    assert found.threshold == pytest.approx(1 / 6, abs=0.03)  # Elkan 2001
    cost = mean_cost(FIVE, truth, found(p))
    assert cost < min(mean_cost(FIVE, truth, 0), mean_cost(FIVE, truth, 1), mean_cost(FIVE, truth, (p >= 0.5).astype(int)))


def test_no_threshold_is_cheaper_on_the_rows_it_was_chosen_by() -> None:
    random = np.random.default_rng(1)
    scores = random.integers(0, 10, 300) / 10  # with ties
    truth = (random.uniform(size=300) < scores).astype(float)
    found = fit_decision(FIVE, truth, scores)
    tried = [mean_cost(FIVE, truth, (scores >= cut).astype(int)) for cut in np.linspace(0, 1.1, 112)]
    assert mean_cost(FIVE, truth, found(scores)) == pytest.approx(min(tried))


def test_useless_scores_are_answered_by_always_the_cheaper_class() -> None:
    truth, flat = np.array([0.0, 0.0, 0.0, 1.0]), np.full(4, 0.25)
    assert fit_decision(FIVE, truth, flat)(flat).tolist() == [1] * 4
    assert fit_decision(((0.0, 1.0), (1.0, 0.0)), truth, flat)(flat).tolist() == [0] * 4


def test_of_several_classes_the_cheapest_and_not_the_likeliest_is_decided() -> None:
    costs = ((0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (10.0, 10.0, 0.0))
    truth, p = np.array([0.0, 2.0]), np.array([[0.5, 0.3, 0.2], [0.8, 0.15, 0.05]])
    assert fit_decision(costs, truth, p)(p).tolist() == [2, 0]
    assert Decision(costs)(p).tolist() == [2, 0]
    assert mean_cost(costs, truth, np.array([2, 0])) == pytest.approx(5.5)

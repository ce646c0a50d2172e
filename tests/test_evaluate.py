"""What evaluate fits to a candidate's scores on the validation part, and what it says of it on the test part."""

import logging
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.core.rows import Rows
from tasks.core.target import Target
from tasks.evaluate import cost_matrix, describe_fitted, draw_sample, fit_target, references, say_fitted
from tasks.params import Params, with_values
from tests.conftest import ROOT

KINDS = Target("multiclass", "kind", ("a", "b", "c"))
PRICE = Target("regression", "price", (), center=100.0, scale=20.0)
LATE = Target("binary", "late", ("no", "yes"))


UNASKED = [f"evaluate.gate.{key}={{}}" for key in ("at_least", "at_most", "near_teacher")]  # of metrics of another task


def params(*settings: str) -> Params:
    return Params.parse(with_values((ROOT / "params.yaml").read_text(), settings), "params.yaml")


NUMBER = params(
    "table.task=regression",
    "table.classes=[]",
    "evaluate.costs=null",
    "evaluate.interval=[0.1, 0.9]",
    *UNASKED,
)


def rows(target: NDArray[Any]) -> Rows:
    return Rows({"num": np.zeros((len(target), 1), np.float32), "cat": np.zeros((len(target), 0), np.int32)}, target)


def draw(count: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Classes, and scores that a doubled weight of the second class makes too high."""
    random = np.random.default_rng(seed)
    p = random.beta(1, 4, count)
    return (random.uniform(size=count) < p).astype(np.float64), 2 * p / (1 + p)


def test_candidate_is_calibrated_before_its_threshold_is_chosen_and_both_hold_on_other_rows() -> None:
    both = params("evaluate.costs={false_positive: 1, false_negative: 4}")
    held, scores = draw(20_000, 0)
    found = fit_target(LATE, rows(held), scores, both.table, both.evaluate, seed=0)
    assert found.decision is not None
    assert found.decision.threshold == pytest.approx(1 / 5, abs=0.04)  # of the right probability
    truth, raw = draw(20_000, 1)
    said = describe_fitted(found, truth, raw)
    assert said["uncalibrated"]["calibration_error"] > 0.08
    assert said["decision"]["cost"] < min(references(LATE, truth, held, both.evaluate)["costs"].values())


def test_nothing_asked_for_and_nothing_to_gain_leaves_the_target_as_it_was() -> None:
    none = params("evaluate.costs=null")
    random = np.random.default_rng(0)
    p = random.uniform(size=5000)
    held = (random.uniform(size=5000) < p).astype(np.float64)
    assert fit_target(LATE, rows(held), p, none.table, none.evaluate, seed=0) == LATE
    assert references(LATE, held, held, none.evaluate) == describe_fitted(LATE, held, p) == {}


def test_interval_of_a_number_is_in_its_unit_and_compared_with_one_for_all() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=8000)
    truth = scores + 0.2 * random.normal(size=8000)
    found = fit_target(PRICE, rows(truth[:4000]), scores[:4000], NUMBER.table, NUMBER.evaluate, seed=0)
    said = describe_fitted(found, truth[4000:], scores[4000:])["interval"]
    same = references(PRICE, truth[4000:], truth[:4000], NUMBER.evaluate)
    assert said["share"] == pytest.approx(same["wanted_share"], abs=0.03)
    assert said["width"] == pytest.approx(2 * 1.2816 * 0.2 * 20, rel=0.05)  # of a normal error
    assert same["interval"]["width"] > 4 * said["width"]


def test_costs_of_several_classes_are_one_where_none_is_named_and_a_right_decision_is_free() -> None:
    several = params("table.task=multiclass", "table.classes=[a, b, c]", "evaluate.costs={c: {a: 9, b: 0.5}}", *UNASKED)
    assert cost_matrix(several.evaluate, KINDS) == ((0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (9.0, 0.5, 0.0))


def test_model_that_is_not_worth_asking_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="tasks.evaluate"):
        say_fitted({"decision": {"cost": 0.5}}, {"costs": {"no": 0.7, "yes": 0.9}})
    assert [one.levelname for one in caplog.records] == ["INFO"]
    say_fitted({"decision": {"cost": 0.7}}, {"costs": {"no": 0.7, "yes": 0.9}})
    assert caplog.records[-1].levelname == "WARNING"
    assert "decide no for every row" in caplog.text


def test_importance_of_many_columns_is_measured_on_fewer_rows() -> None:
    importance = params().evaluate.importance
    test = rows(np.zeros(20_000))
    assert len(draw_sample(test, 20, importance, seed=0)) == 10_000
    assert len(draw_sample(test, 1000, importance, seed=0)) == 1000

"""The target: labels of any type to codes and back, numbers to a scale and back."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tasks.core.calibration import Calibration
from tasks.core.decision import Decision
from tasks.core.intervals import Intervals
from tasks.core.target import Target, encode_labels


@pytest.mark.parametrize(
    ("classes", "values"),
    [
        ((0, 1), np.array([0, 1, 1])),
        ((0, 1), np.array([0.0, 1.0, 1.0])),
        ((False, True), np.array([False, True, True])),
        (("false", "true"), np.array([False, True, True])),
        (("no", "yes"), np.array(["no", "yes", "yes"], object)),
        ((2, 1), np.array(["2", "1", "1"], object)),
    ],
)
def test_labels_are_found_however_they_are_typed(classes: tuple[int | str | bool, ...], values: np.ndarray) -> None:  # type: ignore[type-arg]
    assert encode_labels(values, classes).tolist() == [0, 1, 1]


def test_label_that_is_no_class_is_named() -> None:
    with pytest.raises(ValueError, match=r"the target holds 'maybe'; table.classes are \['no', 'yes'\]"):
        encode_labels(np.array(["yes", "maybe"], object), ("no", "yes"))


def test_regression_is_learned_on_a_scale_and_told_in_its_unit() -> None:
    target = Target("regression", "price", (), center=100.0, scale=20.0)
    learned = target.encode(np.array([80.0, 100.0, 140.0]))
    assert learned.tolist() == [-1.0, 0.0, 2.0]
    assert target.answer(learned) == [80.0, 100.0, 140.0]
    assert target.outputs == 1


def test_several_classes_are_told_by_their_labels() -> None:
    target = Target("multiclass", "kind", (1, "b", True))
    assert target.answer(np.array([[0.5, 0.25, 0.25]])) == [{"1": 0.5, "b": 0.25, "true": 0.25}]
    assert target.outputs == 3


def test_number_with_an_interval_is_told_with_its_bounds() -> None:
    target = Target("regression", "price", (), 100.0, 20.0, intervals=Intervals((110.0,), (-5.0, -50.0), (10.0, 60.0)))
    assert target.answer(np.array([0.0, 1.0])) == [
        {"value": 100.0, "low": 95.0, "high": 110.0},
        {"value": 120.0, "low": 70.0, "high": 180.0},
    ]


def test_decision_is_told_by_its_label_and_of_the_calibrated_probability() -> None:
    target = Target("binary", "late", ("no", "yes"), decision=Decision(((0.0, 1.0), (5.0, 0.0)), 0.3))
    assert target.decide(np.array([0.29, 0.3, 0.9])) == ["no", "yes", "yes"]
    shifted = replace(target, calibration=Calibration(1.0, (-5.0,)))
    assert shifted.decide(np.array([0.29, 0.3, 0.9])) == ["no", "no", "no"]
    assert shifted.answer(np.array([0.9]))[0] == pytest.approx(1 / (1 + np.exp(5) / 9))


def test_document_of_a_target_that_is_none_is_refused() -> None:
    for wrong in ({"calibration": {"slope": 1.0}}, {"decision": {"cost": 3}}, {"surprise": 1}):
        with pytest.raises(TypeError):
            Target.from_json({**Target("binary", "late", (0, 1)).to_json(), **wrong})


def test_target_survives_json() -> None:
    for target in (
        Target("binary", "late", (0, 1)),
        Target("binary", "late", (0, 1), calibration=Calibration(0.9, (0.1,)), decision=Decision(((0.0, 1.0), (5.0, 0.0)), 0.2)),
        Target("multiclass", "kind", ("a", "b", "c"), decision=Decision(((0.0, 1.0, 1.0),) * 3)),
        Target("regression", "price", (), 3.5, 2.0, intervals=Intervals((), (-1.0,), (2.0,))),
    ):
        assert Target.from_json(json.loads(json.dumps(target.to_json()))) == target

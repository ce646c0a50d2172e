"""The target: labels of any type to codes and back, numbers to a scale and back."""

import json

import numpy as np
import pytest

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


def test_target_survives_json() -> None:
    for target in (Target("binary", "late", (0, 1)), Target("regression", "price", (), 3.5, 2.0)):
        assert Target.from_json(json.loads(json.dumps(target.to_json()))) == target

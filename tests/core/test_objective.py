"""What is minimised under class weights, and that TensorFlow tells scores as NumPy does."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tasks.core import objective
from tasks.core.calibration import Calibration
from tasks.core.decision import Decision
from tasks.core.intervals import Intervals
from tasks.core.target import Target, Task
from tasks.core.weights import weigh_classes, without_weights

BINARY = Target("binary", "late", (0, 1))
KINDS = Target("multiclass", "kind", ("a", "b", "c"))
PRICE = Target("regression", "price", (), center=100.0, scale=20.0)


def learn(task: Task, target: np.ndarray[Any, Any], weights: tuple[float, ...], outputs: int) -> Any:
    """The scores of one network without inputs that minimises the loss, by gradient descent."""
    logits = tf.Variable(tf.zeros((1, outputs)))
    for _ in range(500):
        with tf.GradientTape() as tape:
            wide = tf.repeat(logits, len(target), axis=0)
            loss = objective.loss(task, wide, tf.constant(target, tf.float32), weights)
        logits.assign_sub(2.0 * tape.gradient(loss, logits))
    return objective.scores(task, logits).numpy()[0]


def test_balanced_weights_make_a_rare_class_as_likely_as_the_other_and_are_taken_out_again() -> None:
    target = np.array([1.0] * 10 + [0.0] * 90)
    weights = weigh_classes("balanced", BINARY, target)
    assert weights == pytest.approx((50 / 90, 5.0))
    (score,) = learn("binary", target, weights, 1)
    assert score == pytest.approx(0.5, abs=0.01)
    assert without_weights(np.array([score]), weights) == pytest.approx([0.1], abs=0.01)
    (plain,) = learn("binary", target, (), 1)
    assert plain == pytest.approx(0.1, abs=0.01)


def test_weights_by_label_count_in_several_classes_and_in_opinions() -> None:
    codes = np.repeat([0.0, 1.0, 2.0], [50, 30, 20])
    weights = weigh_classes({"a": 1.0, "b": 1.0, "c": 4.0}, KINDS, codes)
    assert weights @ np.bincount(codes.astype(int)) == pytest.approx(100)  # the learning rate means the same
    for target in (codes, np.tile([0.5, 0.3, 0.2], (100, 1))):  # by code, and by a teacher's opinion
        scores = learn("multiclass", target, weights, 3)
        assert scores == pytest.approx(np.array([0.5, 0.3, 0.8]) / 1.6, abs=0.01)
        assert without_weights(scores[None], weights)[0] == pytest.approx([0.5, 0.3, 0.2], abs=0.01)


def test_equal_weights_are_no_weights() -> None:
    logits, target = tf.constant([[0.3, -1.0], [2.0, 0.1]]), tf.constant([1.0, 0.0])
    plain = objective.loss("binary", logits, target)
    assert float(objective.loss("binary", logits, target, (1.0, 1.0))) == pytest.approx(float(plain), rel=1e-6)
    assert weigh_classes("none", BINARY, np.zeros(3)) == ()


@pytest.mark.parametrize(
    "target",
    [
        BINARY,
        replace(BINARY, calibration=Calibration(0.7, (-1.1,)), decision=Decision(((0.0, 1.0), (5.0, 0.0)), 0.2)),
        KINDS,
        replace(KINDS, calibration=Calibration(1.4, (0.3, -0.2, 0.0)), decision=Decision(((0, 1, 1), (1, 0, 1), (9, 9, 0)))),
        PRICE,
        replace(PRICE, intervals=Intervals((90.0, 105.0), (-3.0, -5.0, 0.0), (1.0, 2.0, 30.0))),
        replace(PRICE, intervals=Intervals((), (-3.0,), (1.0,))),
    ],
    ids=["binary", "binary fitted", "multiclass", "multiclass fitted", "regression", "regression fitted", "regression of one bin"],
)
def test_tensorflow_tells_scores_as_numpy_does(target: Target) -> None:
    random = np.random.default_rng(0)
    if target.task == "multiclass":
        scores = random.dirichlet((1, 1, 1), 200).astype(np.float32)
    else:
        scores = (random.uniform(size=200) if target.task == "binary" else random.normal(size=200)).astype(np.float32)
    said = objective.tell(target, tf.constant(scores if scores.ndim == 2 else scores[:, None]))
    np.testing.assert_allclose(said["score"], target.decode(scores), atol=1e-5 * target.scale)
    assert set(said) == {"score"} | ({"decision"} if target.decision else set()) | ({"low", "high"} if target.intervals else set())
    if target.decision:
        assert [text.decode() for text in said["decision"].numpy()] == [str(label) for label in target.decide(scores)]
    if target.intervals:
        answers = target.answer(scores)
        np.testing.assert_allclose(said["low"], [one["low"] for one in answers], atol=1e-3)
        np.testing.assert_allclose(said["high"], [one["high"] for one in answers], atol=1e-3)

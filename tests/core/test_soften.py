"""The teacher's opinion at a temperature, and how far a student is from it."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from tasks.core.models import NetworkSpec, build
from tasks.core.rows import Rows
from tasks.core.soften import distance, soften
from tasks.core.training import Schedule, Training, predict


def test_temperature_divides_logits_and_one_changes_nothing() -> None:
    p = np.array([0.01, 0.5, 0.9], np.float32)
    assert soften("binary", p, 1.0) is p
    np.testing.assert_allclose(soften("binary", p, 2.0), 1 / (1 + np.exp(-np.log(p / (1 - p)) / 2)), rtol=1e-5)
    classes = np.array([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]], np.float32)
    soft = soften("multiclass", classes, 2.0)
    np.testing.assert_allclose(soft.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(soft[0], np.sqrt(classes[0]) / np.sqrt(classes[0]).sum(), rtol=1e-5)
    assert np.isfinite(np.log(soft)).all()
    assert soften("regression", p, 2.0) is p


def test_distance_is_nothing_to_oneself_and_known_elsewhere() -> None:
    p = np.array([0.0, 0.25, 1.0])
    assert distance("binary", p, p) == pytest.approx(0, abs=1e-6)
    assert distance("binary", np.array([0.5]), np.array([0.25])) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75))
    classes = np.array([[0.5, 0.25, 0.25]])
    assert distance("multiclass", classes, np.array([[0.25, 0.5, 0.25]])) == pytest.approx(0.25 * np.log(2))
    assert distance("regression", np.array([1.0, 2.0]), np.array([1.0, 4.0])) == 2.0


def test_student_of_softened_opinions_tells_them_unsoftened() -> None:
    num = np.random.default_rng(0).uniform(-1, 1, (4096, 1)).astype(np.float32)
    opinion = (1 / (1 + np.exp(-4 * num[:, 0]))).astype(np.float32)
    inputs = {"num": num, "cat": np.zeros((len(num), 0), np.int32)}
    schedule = Schedule(epochs=10, batch=64, learning_rate=0.03, weight_decay=0.0, seed=0, patience=10, temperature=3.0)

    def learn(how: Schedule) -> float:
        keras.utils.set_random_seed(0)
        model = build(keras, NetworkSpec(1, 0, (), (), bins=8, embedding=1, hidden=(8,)))
        lesson = Rows(inputs, soften("binary", opinion, 3.0))
        for _ in Training(model, "binary", how, len(lesson)).epochs(lesson, Rows(inputs, opinion), lambda done, of: None):
            pass
        return distance("binary", opinion, predict(model, "binary", lesson))

    assert learn(schedule) < 0.002
    assert learn(replace(schedule, temperature=1.0)) > 0.05  # without it the softened opinion is what is told

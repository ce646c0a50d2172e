"""The training loop: that it learns, stops, restores, and goes on in a fresh process as if it had never stopped."""

import dataclasses
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tasks.core import order
from tasks.core.calibration import fit_calibration
from tasks.core.errors import DataError, DivergedError, ParamsError
from tasks.core.metrics import log_loss
from tasks.core.models import NetworkSpec, build
from tasks.core.precision import dtype_policy, fastest_policy
from tasks.core.rows import Rows
from tasks.core.target import Target
from tasks.core.team import Team
from tasks.core.training import Epoch, Schedule, Training, predict
from tasks.core.weights import weigh_classes

SPEC = NetworkSpec(
    numbers=2, flags=0, categories=(3,), texts=(), bins=2, embedding=2, hidden=(8,), members=2, dropout=0.2, embedding_dropout=0.2
)
SCHEDULE = Schedule(epochs=3, batch=32, learning_rate=0.02, weight_decay=0.01, seed=5, patience=3)


def rows(count: int, seed: int) -> Rows:
    """Rows whose target follows from the first number and the category."""
    random = np.random.default_rng(seed)
    num = random.uniform(-1, 1, (count, 2)).astype(np.float32)
    cat = random.integers(0, 3, (count, 1)).astype(np.int32)
    return Rows({"num": num, "cat": cat}, (num[:, 0] + 0.5 * (cat[:, 0] - 1) > 0).astype(np.float32))


TRAIN, VALIDATION = rows(1100, seed=1), rows(300, seed=2)


def start(schedule: Schedule = SCHEDULE, *, seed: int = 0) -> Training:
    keras.utils.set_random_seed(seed)
    return Training(build(keras, SPEC), "binary", schedule, len(TRAIN))


def finish(training: Training, validation: Rows = VALIDATION) -> list[Epoch]:
    return list(training.epochs(TRAIN, validation, lambda done, of: None))


def assert_same(ours: list[Any], theirs: list[Any]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_training_learns_and_goes_on_from_its_state_bit_for_bit() -> None:
    undisturbed = start()
    seen: list[tuple[int, int]] = []
    epochs, state = [], {}
    for epoch in undisturbed.epochs(TRAIN, VALIDATION, lambda done, of: seen.append((done, of))):
        epochs.append(epoch)
        if epoch.number == 1:
            state = {name: array.copy() for name, array in undisturbed.state.items()}
    assert [epoch.number for epoch in epochs] == [1, 2, 3]
    assert epochs[0].train_loss > epochs[1].train_loss > epochs[2].train_loss
    assert epochs[2].validation_loss < 0.9 * epochs[0].validation_loss
    assert undisturbed.finished
    whole = [i for i, (done, of) in enumerate(seen) if done == of == len(TRAIN) // 32 * 32]
    assert len(whole) == 3
    assert seen[: whole[0] + 1] == sorted(seen[: whole[0] + 1])

    resumed = start(seed=99)  # other first weights and dropout: all of it must come from the state
    resumed.state = state
    rest = finish(resumed)
    assert [epoch.number for epoch in rest] == [2, 3]
    losses = [(epoch.train_loss, epoch.validation_loss, epoch.best) for epoch in epochs[1:]]
    assert [(epoch.train_loss, epoch.validation_loss, epoch.best) for epoch in rest] == losses
    assert_same(resumed.model.get_weights(), undisturbed.model.get_weights())
    assert_same(list(resumed.state.values()), list(undisturbed.state.values()))


def test_same_seed_gives_the_same_bits_twice_whether_rows_are_held_or_read_by_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "WINDOW_BYTES", 400 * TRAIN.nbytes // len(TRAIN))  # three windows of 12 steps
    monkeypatch.setattr(order, "BLOCK_BYTES", 7 * TRAIN.nbytes // len(TRAIN))
    states, losses = [], []
    for memory in (None, None, 0):
        training = start()
        epochs = list(training.epochs(TRAIN, VALIDATION, lambda done, of: None, memory))
        losses.append([(epoch.train_loss, epoch.validation_loss) for epoch in epochs])
        states.append(list(training.state.values()))
    assert losses[0] == losses[1] == losses[2]
    assert_same(states[0], states[1])
    assert_same(states[0], states[2])


@pytest.mark.parametrize("memory", [None, 0])
def test_training_goes_on_from_the_middle_of_an_epoch(monkeypatch: pytest.MonkeyPatch, memory: int | None) -> None:
    monkeypatch.setattr(order, "WINDOW_BYTES", 400 * TRAIN.nbytes // len(TRAIN))
    undisturbed, states = start(), []

    def watch(done: int, of: int) -> None:
        states.append({name: array.copy() for name, array in undisturbed.state.items()})

    wanted = list(undisturbed.epochs(TRAIN, VALIDATION, watch))
    for state in (next(one for one in states if 12 < one["counters"][3] < 34), next(s for s in states if s["counters"][3] == 34)):
        resumed = start(seed=99)
        resumed.state = state
        epochs = list(resumed.epochs(TRAIN, VALIDATION, lambda done, of: None, memory))
        assert [epoch.train_loss for epoch in epochs] == [epoch.train_loss for epoch in wanted]
        assert_same(resumed.model.get_weights(), undisturbed.model.get_weights())


def test_training_stops_when_it_grows_worse_and_keeps_its_best_weights() -> None:
    against = VALIDATION.taught(1 - VALIDATION.target)  # whatever is learned makes this worse
    training = start(dataclasses.replace(SCHEDULE, epochs=9, patience=2))
    after_first: list[Any] = []
    epochs = []
    for epoch in training.epochs(TRAIN, against, lambda done, of: None):
        epochs.append(epoch)
        after_first = after_first or training.model.get_weights()
    assert [epoch.best for epoch in epochs] == [True, False, False]
    assert_same(training.model.get_weights(), after_first)
    assert log_loss(against.target, predict(training.model, "binary", against)) == epochs[0].validation_loss
    assert finish(training) == []


def test_loss_that_is_no_number_ends_the_training() -> None:
    training = start(dataclasses.replace(SCHEDULE, learning_rate=1e20))
    with pytest.raises(DivergedError, match=r"the loss became \S+ in epoch \d; lower the learning rate"):
        finish(training)


def test_network_that_computes_in_half_the_width_learns_in_whole_weights() -> None:
    keras.utils.set_random_seed(0)
    with dtype_policy("mixed_bfloat16"):
        network = build(keras, SPEC)
    assert keras.config.dtype_policy().name == "float32"
    assert {weight.dtype for weight in network.get_weights()} == {np.dtype(np.float32)}
    training = Training(network, "binary", SCHEDULE, len(TRAIN))
    epochs = finish(training)
    assert epochs[2].validation_loss < 0.9 * epochs[0].validation_loss


def test_machine_without_a_gpu_computes_in_whole_numbers() -> None:
    if not tf.config.list_physical_devices("GPU"):
        assert fastest_policy() == "float32"


def test_batch_without_equal_shares_is_refused() -> None:
    with pytest.raises(ParamsError, match="a batch of 32 rows has no equal shares for 3 workers"):
        Training(build(keras, SPEC), "binary", SCHEDULE, len(TRAIN), Team(3, 0, None))


def test_too_few_rows_for_one_batch_are_refused() -> None:
    with pytest.raises(DataError, match="31 training rows do not fill one batch of 32; lower the batch"):
        Training(build(keras, SPEC), "binary", SCHEDULE, 31)


def test_predictions_are_probabilities_that_do_not_depend_on_the_other_rows() -> None:
    network = build(keras, SPEC)
    many = rows(8195, seed=3)  # more than are scored at once
    scores = predict(network, "binary", many)
    assert scores.shape == (8195,)
    assert ((scores > 0) & (scores < 1)).all()
    tail = many.take(np.arange(8192, 8195))
    np.testing.assert_allclose(predict(network, "binary", tail), scores[-3:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("members", [1, 3])
def test_several_classes_are_learned_from_codes_and_from_probabilities_alike(members: int) -> None:
    codes = (TRAIN.cat[:, 0] + (TRAIN.num[:, 0] > 0)) % 3
    spec = dataclasses.replace(SPEC, outputs=3, members=members, dropout=0.0, embedding_dropout=0.0)
    losses = []
    for target in (codes.astype(np.float32), np.eye(3, dtype=np.float32)[codes]):
        keras.utils.set_random_seed(0)
        network = build(keras, spec)
        training = Training(network, "multiclass", dataclasses.replace(SCHEDULE, epochs=6, patience=6), len(TRAIN))
        taught = TRAIN.taught(target)
        truth = TRAIN.taught(codes.astype(np.float32))
        epochs = list(training.epochs(taught, truth, lambda done, of: None))
        scores = predict(network, "multiclass", truth)
        assert scores.shape == (len(TRAIN), 3)
        np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
        assert (scores.argmax(axis=1) == codes).mean() > 0.9
        losses.append([epoch.validation_loss for epoch in epochs])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_regression_learns_a_number() -> None:
    target = (TRAIN.num[:, 0] - TRAIN.cat[:, 0]).astype(np.float32)
    keras.utils.set_random_seed(0)
    network = build(keras, dataclasses.replace(SPEC, dropout=0.0, embedding_dropout=0.0))
    taught = TRAIN.taught((target - target.mean()) / target.std())
    training = Training(network, "regression", dataclasses.replace(SCHEDULE, epochs=8, patience=8), len(TRAIN))
    epochs = list(training.epochs(taught, taught, lambda done, of: None))
    assert epochs[-1].validation_loss < 0.05
    assert epochs[-1].validation_loss < epochs[0].validation_loss / 2
    assert predict(network, "regression", taught).shape == (len(TRAIN),)


def test_balanced_weights_find_the_rare_class_and_calibration_makes_its_probability_right_again() -> None:
    random = np.random.default_rng(3)

    def rare(count: int) -> Rows:
        drawn = rows(count, int(random.integers(1 << 30)))
        chance = 0.02 + 0.2 * (drawn.inputs["num"][:, 0] > 0)
        return drawn.taught((random.uniform(size=count) < chance).astype(np.float32))

    train, validation, test = rare(4000), rare(3000), rare(3000)
    target = Target("binary", "rare", (0, 1))
    weights = weigh_classes("balanced", target, train.target)
    keras.utils.set_random_seed(0)
    weighed = Training(build(keras, SPEC), "binary", dataclasses.replace(SCHEDULE, class_weights=weights), len(train))
    list(weighed.epochs(train, validation, lambda done, of: None))
    said = predict(weighed.model, "binary", test)
    assert said.mean() > 0.35  # of 12 rows in a hundred
    found = fit_calibration(validation.target, predict(weighed.model, "binary", validation), ordered=False, seed=0)
    assert found is not None
    assert found(said).mean() == pytest.approx(test.target.mean(), abs=0.02)
    assert log_loss(test.target, found(said)) < log_loss(test.target, said) - 0.1

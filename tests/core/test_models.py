"""The builder of networks: the same network in both Keras, and members that stay apart."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tf_keras
from numpy.typing import NDArray

from tasks.core.models import NetworkSpec, build

SPEC = NetworkSpec(
    numbers=3, flags=1, categories=(4, 6), texts=((5, 9),), bins=4, embedding=3, hidden=(8, 5), dropout=0.2, embedding_dropout=0.1
)
ENSEMBLE = NetworkSpec(numbers=2, flags=0, categories=(3,), texts=(), bins=2, embedding=2, hidden=(4,), members=5)
CLASSES = NetworkSpec(numbers=2, flags=0, categories=(3,), texts=(), bins=2, embedding=2, hidden=(4,), outputs=3)


def inputs(spec: NetworkSpec, rows: int) -> dict[str, NDArray[np.generic]]:
    random = np.random.default_rng(0)
    num = random.uniform(-1, 1, (rows, spec.numbers + spec.flags)).astype(np.float32)
    sizes = [*spec.categories, *(words for slots, words in spec.texts for _ in range(slots))]
    cat = np.array([random.integers(0, size, rows) for size in sizes], np.int32).reshape(len(sizes), rows).T
    return {"num": num, "cat": cat}


def test_both_keras_build_the_same_network() -> None:
    new, old = build(keras, SPEC), build(tf_keras, SPEC)
    assert [weight.shape for weight in new.get_weights()] == [weight.shape for weight in old.get_weights()]
    old.set_weights(new.get_weights())
    rows = inputs(SPEC, 50)
    ours, theirs = np.asarray(new(rows, training=False)), np.asarray(old(rows, training=False))
    assert ours.shape == (50, 1)
    assert ours.std() > 0
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5)


def test_members_give_one_logit_each() -> None:
    network = build(keras, ENSEMBLE)
    logits = np.asarray(network(inputs(ENSEMBLE, 7), training=False))
    assert logits.shape == (7, 5)
    assert (logits.std(axis=1) > 0).all()


def test_row_is_answered_alike_alone_and_among_others() -> None:
    network, rows = build(keras, ENSEMBLE), inputs(ENSEMBLE, 7)
    alone = np.concatenate([network({name: array[i : i + 1] for name, array in rows.items()}, training=False) for i in range(7)])
    np.testing.assert_allclose(alone, network(rows, training=False), rtol=0, atol=1e-6)


def test_network_of_one_kind_of_input_alone() -> None:
    for numbers, flags, categories, texts in ((2, 1, (), ()), (0, 0, (3, 2), ()), (0, 0, (), ((4, 7),))):
        spec = NetworkSpec(numbers, flags, categories, texts, 2, 2, (3,))
        assert np.asarray(build(keras, spec)(inputs(spec, 4), training=False)).shape == (4, 1)


def test_network_of_several_classes_gives_a_logit_for_each() -> None:
    one, many = build(keras, CLASSES), build(keras, dataclasses.replace(CLASSES, members=5))
    rows = inputs(CLASSES, 7)
    assert np.asarray(one(rows, training=False)).shape == (7, 3)
    assert np.asarray(many(rows, training=False)).shape == (7, 5, 3)


def test_text_counts_by_its_words_whatever_their_order_and_its_length() -> None:
    spec = NetworkSpec(0, 0, (), ((4, 9),), 2, 3, (3,))
    network = build(keras, spec)

    def answer(*codes: int) -> float:
        return float(network({"num": np.zeros((1, 0), np.float32), "cat": np.array([codes], np.int32)}, training=False)[0, 0])

    assert answer(2, 5, 0, 0) == pytest.approx(answer(5, 2, 0, 0), abs=1e-6)
    assert answer(2, 5, 0, 0) == pytest.approx(answer(2, 5, 2, 5), abs=1e-6)  # the mean of the words
    assert answer(2, 5, 0, 0) != pytest.approx(answer(2, 6, 0, 0), abs=1e-6)


def test_spec_survives_json() -> None:
    for spec in (SPEC, ENSEMBLE, CLASSES):
        assert NetworkSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec

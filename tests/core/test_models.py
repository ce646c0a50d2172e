"""The builder of networks: the same network in both Keras, and members that stay apart."""

import json

import keras
import numpy as np
import tf_keras
from numpy.typing import NDArray

from tasks.core.models import NetworkSpec, build

SPEC = NetworkSpec(numbers=3, flags=1, categories=(4, 6), bins=4, embedding=3, hidden=(8, 5), dropout=0.2, embedding_dropout=0.1)
ENSEMBLE = NetworkSpec(numbers=2, flags=0, categories=(3,), bins=2, embedding=2, hidden=(4,), members=5)


def inputs(spec: NetworkSpec, rows: int) -> dict[str, NDArray[np.generic]]:
    random = np.random.default_rng(0)
    num = random.uniform(-1, 1, (rows, spec.numbers + spec.flags)).astype(np.float32)
    cat = np.stack([random.integers(0, size, rows) for size in spec.categories], axis=1).astype(np.int32)
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


def test_network_of_numbers_alone_and_of_categories_alone() -> None:
    for spec in (NetworkSpec(2, 1, (), 2, 2, (3,)), NetworkSpec(0, 0, (3, 2), 2, 2, (3,))):
        rows = inputs(spec, 4) if spec.categories else {**inputs(ENSEMBLE, 4), "num": np.zeros((4, 3), np.float32)}
        if not spec.categories:
            rows["cat"] = np.zeros((4, 0), np.int32)
        assert np.asarray(build(keras, spec)(rows, training=False)).shape == (4, 1)


def test_spec_survives_json() -> None:
    for spec in (SPEC, ENSEMBLE):
        assert NetworkSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec

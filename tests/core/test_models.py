"""The builder of networks: the same network in both Keras, and members that stay apart."""

import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tf_keras
from numpy.typing import NDArray

from tasks.core.errors import ParamsError
from tasks.core.models import NetworkSpec, build, fold_scaling

SPEC = NetworkSpec(
    numbers=3, flags=1, categories=(4, 6), texts=((5, 9),), bins=4, embedding=3, hidden=(8, 5), dropout=0.2, embedding_dropout=0.1
)
ENSEMBLE = NetworkSpec(numbers=2, flags=0, categories=(3,), texts=(), bins=2, embedding=2, hidden=(4,), members=5)
CLASSES = NetworkSpec(numbers=2, flags=0, categories=(3,), texts=(), bins=2, embedding=2, hidden=(4,), outputs=3)


@pytest.fixture(autouse=True)
def seed() -> None:
    """Of three hidden units all can be dead from the start: in one of forty networks the row would not count."""
    keras.utils.set_random_seed(2013)


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


def test_text_counts_by_its_words_whatever_their_order() -> None:
    spec = NetworkSpec(0, 0, (), ((4, 9),), 2, 3, (3,))
    network = build(keras, spec)

    def answer(*codes: int) -> float:
        return float(network({"num": np.zeros((1, 0), np.float32), "cat": np.array([codes], np.int32)}, training=False)[0, 0])

    assert answer(2, 5, 0, 0) == pytest.approx(answer(5, 2, 0, 0), abs=1e-6)
    assert answer(2, 5, 0, 0) == pytest.approx(answer(0, 2, 0, 5), abs=1e-6)  # code 0 is no word
    assert answer(2, 5, 0, 0) != pytest.approx(answer(2, 6, 0, 0), abs=1e-6)


def test_spec_survives_json() -> None:
    for spec in (SPEC, ENSEMBLE, CLASSES):
        assert NetworkSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_folded_scaling_changes_no_answer_and_leaves_no_layer() -> None:
    for hidden in ((8, 5), ()):
        spec = dataclasses.replace(SPEC, hidden=hidden, scaling=True)
        network, rows = build(keras, spec), inputs(SPEC, 20)
        factors = np.random.default_rng(1).normal(size=network.get_layer("scaling").get_weights()[0].shape)
        network.get_layer("scaling").set_weights([factors])
        folded, weights = fold_scaling(keras, spec, network.get_weights())
        plain = build(keras, folded)
        plain.set_weights(weights)
        assert "scaling" not in [layer.name for layer in plain.layers]
        np.testing.assert_allclose(plain(rows, training=False), network(rows, training=False), rtol=0, atol=1e-5)
        assert (
            np.abs(np.asarray(build(keras, folded)(rows, training=False)) - np.asarray(network(rows, training=False))).max() > 1e-3
        )


def test_additive_network_sums_what_each_input_says() -> None:
    spec = dataclasses.replace(SPEC, hidden=(), embedding=1, texts=())
    network = build(keras, spec)
    one, other = inputs(spec, 2)["num"], inputs(spec, 1)["cat"]

    def answer(num: NDArray[np.generic], cat: NDArray[np.generic]) -> float:
        return float(network({"num": num, "cat": cat}, training=False)[0, 0])

    swapped = one[:1].copy()
    swapped[0, 0] = one[1, 0]
    gaps = []
    for cat in (other, (other + 1) % 4):
        gaps.append(answer(swapped, cat) - answer(one[:1], cat))
    assert gaps[0] == pytest.approx(gaps[1], abs=1e-6)  # whatever the others say
    assert abs(gaps[0]) > 1e-4


def test_cross_network_multiplies_inputs_that_an_additive_one_only_sums() -> None:
    """The product of two signs, which no sum of functions of each tells."""
    num = np.random.default_rng(0).choice([-1.0, 1.0], (2000, 2)).astype(np.float32)
    product = (num[:, 0] * num[:, 1]).astype(np.float32)[:, None]
    cat = np.zeros((2000, 0), np.int32)
    left = {}
    for crosses in (0, 2):
        keras.utils.set_random_seed(0)
        spec = NetworkSpec(2, 0, (), (), bins=1, embedding=1, hidden=(), crosses=crosses)
        network = build(keras, spec)
        network.compile(keras.optimizers.Adam(0.05), "mse")
        network.fit({"num": num, "cat": cat}, product, batch_size=200, epochs=20, verbose=0)
        left[crosses] = network.evaluate({"num": num, "cat": cat}, product, verbose=0)
    assert left[0] > 0.95
    assert left[2] < 0.1


def test_builder_of_a_user_is_given_the_same_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets_of_a_team.py").write_text(
        "def build(keras, spec):\n"
        "    num = keras.layers.Input((spec.numbers + spec.flags,), name='num')\n"
        "    cat = keras.layers.Input((2,), dtype='int32', name='cat')\n"
        "    hidden = keras.layers.Dense(int(dict(spec.values)['units']))(num)\n"
        "    return keras.Model({'num': num, 'cat': cat}, keras.layers.Dense(spec.outputs)(hidden))\n"
        "def wide(keras, spec):\n"
        "    num = keras.layers.Input((spec.numbers + spec.flags,), name='num')\n"
        "    cat = keras.layers.Input((2,), dtype='int32', name='cat')\n"
        "    return keras.Model({'num': num, 'cat': cat}, keras.layers.Dense(spec.outputs + 1)(num))\n"
        "def other(keras, spec):\n"
        "    return 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = dataclasses.replace(SPEC, texts=(), family="nets_of_a_team:build", values=(("units", 7),))
    network = build(keras, spec)
    assert network.count_params() == 4 * 7 + 7 + 7 + 1
    assert np.asarray(network(inputs(spec, 4), training=False)).shape == (4, 1)
    for family, words in (
        ("nets_of_a_team:nothing", "no attribute 'nothing'"),
        ("no_such_nets:build", "No module named"),
        ("nets_of_a_team:wide", r"makes \(None, 2\); expected logits \[row, 1\]"),
        ("nets_of_a_team:other", "expected a keras.Model that takes the inputs num and cat"),
    ):
        with pytest.raises(ParamsError, match=words):
            build(keras, dataclasses.replace(spec, family=family))

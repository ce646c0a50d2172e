"""Explanations and importance: they add up, agree with the definition, and give nothing away."""

from collections.abc import Mapping
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.core.column_importance import measure_importance
from tasks.core.encoder import CategoryColumn, DateColumn, Encoder, NumberColumn, TextColumn, fit_edges
from tasks.core.explain import explain, make_background
from tasks.core.rows import Rows
from tasks.core.target import Target

Inputs = Mapping[str, NDArray[Any]]
PLACES = {"a": {"num": [0]}, "b": {"num": [1, 3]}, "c": {"num": [2]}, "d": {"cat": [0]}}


def draw(rows: int, seed: int) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(seed)
    return {"num": random.normal(size=(rows, 4)).astype(np.float32), "cat": random.integers(0, 3, (rows, 1)).astype(np.int32)}


def crossed(inputs: Inputs) -> NDArray[np.float64]:
    """A function in which columns matter together."""
    num, cat = inputs["num"].astype(np.float64), inputs["cat"][:, 0]
    return np.tanh(num[:, 0] * num[:, 1]) + num[:, 3] * (cat == 2) + 0.5 * num[:, 2] ** 2


def by_definition(row: Inputs, background: Inputs) -> dict[str, float]:
    """Shapley values over all orders and all rows of the background."""
    values = dict.fromkeys(PLACES, 0.0)
    orders = list(permutations(PLACES))
    for order in orders:
        mixed = {name: array.copy() for name, array in background.items()}
        before = crossed(mixed).mean()
        for name in order:
            for array, own in PLACES[name].items():
                mixed[array][:, own] = row[array][0, own]
            after = crossed(mixed).mean()
            values[name] += (after - before) / len(orders)
            before = after
    return values


def test_values_add_up_exactly_and_approach_the_definition() -> None:
    background, row = draw(512, 0), draw(1, 1)
    found = explain(crossed, row, background, PLACES, seed=0)
    assert found.base == pytest.approx(crossed(background).mean(), abs=1e-12)
    assert found.answer == crossed(row)[0]
    assert found.base + sum(found.contributions.values()) == pytest.approx(found.answer, abs=1e-12)
    assert found.contributions == pytest.approx(by_definition(row, background), abs=0.05)


def test_values_of_a_sum_are_exact_with_one_row_of_background_and_a_column_without_effect_has_none() -> None:
    background, row = draw(1, 0), draw(1, 1)
    found = explain(lambda inputs: 3.0 * inputs["num"][:, 0] - inputs["cat"][:, 0], row, background, PLACES, seed=0)
    assert found.contributions == pytest.approx(
        {
            "a": 3 * float(row["num"][0, 0] - background["num"][0, 0]),
            "b": 0,
            "c": 0,
            "d": float(background["cat"][0, 0] - row["cat"][0, 0]),
        },
        abs=1e-5,
    )


def test_same_seed_gives_the_same_explanation_and_inputs_are_left_as_they_were() -> None:
    background, row = draw(8, 0), draw(1, 1)
    first = explain(crossed, row, background, PLACES, seed=0)
    assert explain(crossed, row, background, PLACES, seed=0) == first
    assert all((background[name] == array).all() for name, array in draw(8, 0).items())


def test_explanation_is_the_same_however_few_rows_are_in_memory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    background, row = draw(16, 0), draw(1, 1)
    whole = explain(crossed, row, background, PLACES, seed=0)
    calls: list[int] = []
    monkeypatch.setattr("tasks.core.explain.MOST_BYTES", 3 * 2 * 5 * 20)  # three rows of the background

    def count(inputs: Inputs) -> NDArray[np.float64]:
        calls.append(len(inputs["num"]))
        return crossed(inputs)

    assert explain(count, row, background, PLACES, seed=0) == whole
    assert calls == [30] * 5 + [10]


ENCODER = Encoder(
    numbers=(
        NumberColumn("engines", False, True, (1.0, 2.0, 4.0)),
        NumberColumn("salary", True, False, fit_edges(np.exp(np.random.default_rng(0).normal(size=5000)), 16)),
    ),
    dates=(DateColumn("due", False, True, (0.0, 1e8, 2e8), ()),),
    categories=(CategoryColumn("carrier", False, ("AA", "UA")), CategoryColumn("name", True, ())),
    texts=(TextColumn("remark", False, 3, ("secret", "words")),),
    target=Target("binary", "late", (0, 1)),
)


def people(rows: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(1)
    return [
        {
            "engines": [None, 2, 2, 2][i % 4],
            "salary": float(np.exp(random.normal())),
            "due": "1971-03-04" if i % 2 else None,
            "carrier": ["UA", "UA", "AA", "ZZ"][i % 4],
            "name": f"person {i}",
            "remark": "secret words",
        }
        for i in range(rows)
    ]


def test_background_has_each_columns_distribution_and_no_value_that_the_encoder_does_not_tell() -> None:
    inputs = ENCODER.encode(ENCODER.columns(people(4000)))
    made = make_background(ENCODER, inputs, 32, seed=0)
    assert {name: array.shape[1:] for name, array in made.items()} == {name: array.shape[1:] for name, array in inputs.items()}
    engines, flag = made["num"][:, 0], made["num"][:, 3]
    assert flag.mean() == pytest.approx(0.25)
    assert set(engines[flag == 0]) == {0.0}  # two engines stand in the middle of the scale
    assert np.bincount(made["cat"][:, 0], minlength=4).tolist() == [0, 8, 8, 16]  # missing, rare, AA, UA
    assert set(made["cat"][:, 1]) == {1}  # each name is rare
    assert (made["cat"][:, 2:] == 0).all()  # no text
    steps = (made["num"][:, 1] + 1) / 2 * (len(ENCODER.numbers[1].edges) - 1)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-5)  # quantiles that the encoder tells anyway
    assert abs(made["num"][:, 1].mean() - inputs["num"][:, 1].mean()) < 0.1


def test_every_column_of_the_arrays_belongs_to_one_raw_column_which_alone_moves_it() -> None:
    rows = people(2)
    base = ENCODER.encode(ENCODER.columns(rows))
    owned = [(array, place) for own in ENCODER.places.values() for array, places in own.items() for place in places]
    assert sorted(owned) == sorted((name, place) for name, array in base.items() for place in range(array.shape[1]))
    changes = {"engines": 4, "salary": 99.0, "due": "1972-01-01T12:00", "carrier": "AA", "name": None, "remark": "words"}
    for name, value in changes.items():
        moved = ENCODER.encode(ENCODER.columns([{**row, name: value} for row in rows]))
        places = {(array, int(place)) for array in base for place in np.flatnonzero((moved[array] != base[array]).any(axis=0))}
        assert places
        assert places <= {(array, place) for array, own in ENCODER.places[name].items() for place in own}


def test_importance_is_what_the_loss_grows_by_and_none_for_a_column_without_use() -> None:
    inputs = draw(2000, 0)
    truth = 3.0 * inputs["num"][:, 0] + inputs["num"][:, 1] + inputs["num"][:, 3]
    found = measure_importance(
        lambda scores: float(np.mean((scores - truth) ** 2)),
        lambda arrays: 3.0 * arrays["num"][:, 0] + arrays["num"][:, 1] + arrays["num"][:, 3],
        Rows(inputs, truth),
        PLACES,
        repeats=3,
        seed=0,
    )
    assert list(found)[:2] == ["a", "b"]
    assert found["a"].value == pytest.approx(18.0, rel=0.1)  # twice the variance of 3 a
    assert found["b"].value == pytest.approx(4.0, rel=0.15)  # both its columns move together
    assert found["c"].value == found["d"].value == 0
    assert found["a"].low < found["a"].value < found["a"].high

"""What a service can expect: shares of scores and columns, and how far is farther than chance."""

from dataclasses import replace

import numpy as np
import pytest

from tasks.core.encoder import CategoryColumn, Encoder, NumberColumn
from tasks.core.expected import Expected, by_chance, distance, expect
from tasks.core.target import Target

ENCODER = Encoder(
    numbers=(NumberColumn("distance", False, True, (0.0, 10.0)), NumberColumn("seats", True, False, (0.0, 10.0))),
    dates=(),
    categories=(CategoryColumn("carrier", False, ("AA", "UA")),),
    texts=(),
    target=Target("binary", "late", (0, 1)),
)
ROWS = [{"distance": 1, "seats": 2, "carrier": "AA"}, {"seats": 2, "carrier": "ZZ"}, {"seats": 1}, {"seats": 1, "carrier": "UA"}]


def found(encoder: Encoder = ENCODER, scores: object = (0.1, 0.11, 0.95, 1.0)) -> Expected:
    encoded = encoder.encode(encoder.columns(ROWS))
    blocks = [{name: array[i : i + 3] for name, array in encoded.items()} for i in (0, 3)]
    return expect(encoder, np.array(scores), blocks)


def test_shares_are_those_of_the_rows_and_an_edge_belongs_to_the_bucket_below() -> None:
    expected = found()
    assert expected.scores == {"": (0.25, 0.25, 0, 0, 0, 0, 0, 0, 0, 0.5)}
    assert expected.missing == {"distance": 0.75, "carrier": 0.25}
    assert expected.unknown == {"carrier": 0.25}
    assert (expected.tested, expected.trained) == (4, 4)


def test_several_classes_are_counted_each_and_numbers_by_their_spread() -> None:
    several = replace(ENCODER, target=Target("multiclass", "kind", ("a", "b")))
    expected = found(several, [[0.05, 0.95], [0.05, 0.95]])
    assert expected.scores == {"a": (1, 0, 0, 0, 0, 0, 0, 0, 0, 0), "b": (0, 0, 0, 0, 0, 0, 0, 0, 0, 1)}
    number = found(replace(ENCODER, target=Target("regression", "price", center=500.0, scale=10.0)), [-4.0, 0.0, 0.1, 9.0])
    assert number.scores == {"": (0.25, 0, 0, 0, 0, 0.25, 0.25, 0, 0, 0, 0, 0.25)}


def test_it_survives_json_and_that_of_another_model_is_refused() -> None:
    expected = found()
    document = expected.to_json()
    assert Expected.from_json(document, ENCODER) == expected
    several = replace(ENCODER, target=Target("multiclass", "kind", ("a", "b")))
    wrong = [
        {**document, "edges": [0.5]},
        {**document, "scores": {"": [0.5, 0.5]}},
        {**document, "scores": {"": [2.0, *document["scores"][""][1:]]}},
        {**document, "scores": {"": [float("nan"), *document["scores"][""][1:]]}},
        {**document, "missing": {"distance": 0.1}},
        {**document, "unknown": {"carrier": 0.1, "distance": 0.1}},
        {**document, "tested": 0},
    ]
    for one in wrong:
        with pytest.raises(ValueError):  # noqa: PT011  a caller tells of any of them
            Expected.from_json(one, ENCODER)
    with pytest.raises(ValueError, match="buckets or classes"):
        Expected.from_json(document, several)
    with pytest.raises(TypeError):
        Expected.from_json({"edges": []}, ENCODER)


def test_distance_is_the_largest_gap_of_the_cumulative_shares() -> None:
    assert distance([1, 1, 2], [10, 10, 20]) == 0
    assert distance([1, 0, 0], [0, 0, 1]) == 1
    assert distance([2, 1, 1], [1, 1, 2]) == pytest.approx(0.25)


def test_chance_goes_beyond_its_bound_once_in_a_hundred_times_at_most() -> None:
    chance = np.random.default_rng(0)
    bound, beyond = by_chance(200, 1000), 0
    edges = np.linspace(0, 1, 201)
    for _ in range(1000):
        one, other = (np.histogram(chance.random(rows), edges)[0].tolist() for rows in (200, 1000))
        beyond += distance(one, other) > bound
    assert 1 <= beyond <= 15  # and not never: the bound is no looser than it has to be
    assert by_chance(200, 1000, classes=5) > bound

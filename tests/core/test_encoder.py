"""The encoder and its two executors, which must say the same of any row."""

import json
import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.core.encoder import UNKNOWN, Encoder, fit_encoder
from tasks.core.encoder_graph import GraphEncoder

Columns = dict[str, Any]

# Rounded: TensorFlow computes subnormal numbers as zero, NumPy does not, and no column lives on that scale.
finite = st.floats(-1e9, 1e9).map(lambda value: round(value, 6))
numbers = finite | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, 1e300, -1e300])
characters = st.characters(exclude_categories=("Cs",), exclude_characters="\x00")
words = st.sampled_from([None, "", "known", "AA", "Ünïcödé", "東京", "🛫", " AA", "nan", "None"]) | st.text(characters, max_size=8)


def fit(columns: Columns, *, bins: int = 4, min_count: int = 1, required: frozenset[str] = frozenset()) -> Encoder:
    """Columns of floats are numbers, the others are categories."""
    kinds = {name: isinstance(values, np.ndarray) and values.dtype.kind == "f" for name, values in columns.items()}
    return fit_encoder(
        columns,
        numbers=[name for name, number in kinds.items() if number],
        categories=[name for name, number in kinds.items() if not number],
        required=required,
        bins=bins,
        min_count=min_count,
    )


def floats(*values: float) -> NDArray[np.float64]:
    return np.array(values, np.float64)


def graph_encode(encoder: Encoder, columns: Columns) -> dict[str, NDArray[Any]]:
    values = {column.name: tf.constant(columns[column.name], tf.float64) for column in encoder.numbers}
    texts = {column.name: tf.constant([word or "" for word in columns[column.name]], tf.string) for column in encoder.categories}
    return {name: array.numpy() for name, array in GraphEncoder(encoder)(values | texts).items()}


@st.composite
def tables(draw: st.DrawFn) -> tuple[Columns, Columns]:
    """Training rows and other rows of the same columns: two numbers, one of them constant at times, and two categories."""

    def rows(count: int, *, constant: bool) -> Columns:
        def column(values: st.SearchStrategy[Any]) -> list[Any]:
            return draw(st.lists(values, min_size=count, max_size=count))

        second = [draw(finite)] * count if constant else column(numbers)
        return {"n": floats(*column(numbers)), "m": floats(*second), "c": column(words), "d": column(words)}

    training = rows(draw(st.integers(1, 12)), constant=draw(st.booleans()))
    training["c"][0] = training["d"][0] = "known"
    return training, rows(draw(st.integers(1, 12)), constant=False)


@settings(max_examples=60, deadline=None)
@given(tables(), st.sampled_from([2, 3, 64]))
def test_graph_and_numpy_encode_any_row_alike(both: tuple[Columns, Columns], bins: int) -> None:
    training, others = both
    encoder = fit(training, bins=bins)
    for columns in (training, others):
        ours, theirs = encoder.encode(columns), graph_encode(encoder, columns)
        np.testing.assert_allclose(theirs["num"], ours["num"], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(theirs["cat"], ours["cat"])
        assert (theirs["num"].dtype, theirs["cat"].dtype) == (ours["num"].dtype, ours["cat"].dtype) == (np.float32, np.int32)
        assert (np.abs(ours["num"]) <= 1).all()


@settings(max_examples=60, deadline=None)
@given(tables())
def test_encoder_survives_json(both: tuple[Columns, Columns]) -> None:
    training, others = both
    encoder = fit(training)
    again = Encoder.from_json(json.loads(json.dumps(encoder.to_json(), ensure_ascii=False)))
    assert again == encoder
    np.testing.assert_array_equal(again.encode(others)["num"], encoder.encode(others)["num"])
    np.testing.assert_array_equal(again.encode(others)["cat"], encoder.encode(others)["cat"])


def test_graph_encoder_takes_a_category_without_any_known_word() -> None:
    columns = {"n": floats(1, 2), "c": ["rare", "rarer"]}
    encoder = fit(columns, min_count=2)
    assert encoder.categories[0].vocabulary == ()
    np.testing.assert_array_equal(graph_encode(encoder, columns)["cat"], [[UNKNOWN], [UNKNOWN]])


def test_words_that_differ_in_a_trailing_nul_stay_apart() -> None:
    encoder = fit({"c": ["a\x00", "a\x00", "b"]}, min_count=2)
    assert encoder.categories[0].vocabulary == ("a\x00",)


def test_document_that_is_no_encoder_is_a_type_or_key_error() -> None:
    with pytest.raises(KeyError):
        Encoder.from_json({"numbers": []})
    with pytest.raises(TypeError):
        Encoder.from_json({"numbers": [{"name": "n", "edges": [0.0], "colour": "red"}], "categories": []})


def test_quantiles_and_words_are_those_of_the_training_rows_alone() -> None:
    encoder = fit({"n": floats(10, 20, 30, 40, 50), "c": ["AA", "AA", "BB", "BB", "BB"]})
    assert encoder.numbers[0].edges == (10, 20, 30, 40, 50)
    assert encoder.categories[0].vocabulary == ("AA", "BB")
    encoded = encoder.encode({"n": floats(-1000, 35, 1000), "c": ["BB", "CC", "AA"]})
    np.testing.assert_allclose(encoded["num"], [[-1], [0.25], [1]])
    np.testing.assert_array_equal(encoded["cat"], [[2], [UNKNOWN], [1]])
    assert encoder.numbers[0].edges == (10, 20, 30, 40, 50)


def test_infinities_stand_at_the_ends_and_are_not_fitted_on() -> None:
    encoder = fit({"n": floats(-math.inf, 0, 1, math.inf)}, bins=2)
    assert encoder.numbers[0].edges == (0, 0.5, 1)
    np.testing.assert_array_equal(encoder.encode({"n": floats(-math.inf, math.inf)})["num"], [[-1], [1]])


def test_missing_number_is_the_middle_and_raises_its_flag() -> None:
    encoder = fit({"n": floats(0, math.nan, 4), "m": floats(0, 2, 4)}, bins=2)
    assert [column.flagged for column in encoder.numbers] == [True, False]
    encoded = encoder.encode({"n": floats(math.nan, 4), "m": floats(math.nan, 0)})
    np.testing.assert_array_equal(encoded["num"], [[0, 0, 1], [1, -1, 0]])


@pytest.mark.parametrize("value", [7.0, math.nan, math.inf])
def test_column_of_one_value_says_nothing(value: float) -> None:
    encoder = fit({"n": floats(value, value, value)})
    np.testing.assert_array_equal(encoder.encode({"n": floats(-5, 7, 900)})["num"][:, 0], [0, 0, 0])


def test_words_in_fewer_rows_than_min_count_are_unknown() -> None:
    encoder = fit({"c": ["thrice", "twice", "thrice", "once", "twice", "thrice"]}, min_count=2)
    assert encoder.categories[0].vocabulary == ("thrice", "twice")
    np.testing.assert_array_equal(encoder.encode({"c": ["once", "twice"]})["cat"], [[UNKNOWN], [2]])


def test_missing_word_is_unknown_however_it_is_written() -> None:
    encoder = fit({"c": [None, None, "", "", "a"]})
    assert encoder.categories[0].vocabulary == ("a",)
    np.testing.assert_array_equal(encoder.encode({"c": [None, "", "a"]})["cat"], [[UNKNOWN], [UNKNOWN], [1]])


def test_width_and_sizes_are_those_of_the_encoded_arrays() -> None:
    columns = {"n": floats(0, math.nan), "m": floats(1, 2), "c": ["a", "b"], "d": ["x", None]}
    encoder = fit(columns, required=frozenset({"m", "c"}))
    assert encoder.names == ["n", "m", "c", "d"]
    assert encoder.sizes == (2, 1, (3, 2))
    assert encoder.width == 3
    encoded = encoder.encode(columns)
    assert (encoded["num"].shape, encoded["cat"].shape) == ((2, 3), (2, 2))
    assert [column.required for column in (*encoder.numbers, *encoder.categories)] == [False, True, True, False]

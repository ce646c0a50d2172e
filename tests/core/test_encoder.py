"""The encoder and its two executors, which must say the same of any row."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.core.calendar import CYCLES, cycles, format_time, parse_time
from tasks.core.encoder import FEW, MISSING, OTHER, Encoder, Words, fit_encoder
from tasks.core.encoder_graph import GraphEncoder
from tasks.core.target import Target
from tasks.core.tokens import pair_words, split_pieces, split_words

Rows = list[dict[str, Any]]

# Rounded: TensorFlow computes subnormal numbers as zero, NumPy does not, and no column lives on that scale.
finite = st.floats(-1e9, 1e9).map(lambda value: round(value, 6))
numbers = st.none() | finite | st.sampled_from([math.inf, -math.inf, 0.0, -0.0, 1.0, 1e300, -1e300])
characters = st.characters(exclude_categories=("Cs",), exclude_characters="\x00")
words = st.sampled_from([None, "", "known", "AA", "Ünïcödé", "東京", "🛫", " AA", "nan", "None"]) | st.text(characters, max_size=8)
texts = (
    st.none()
    | st.sampled_from(
        ["Known words", "known: WORDS, and (many) more-of them\n", "ÄÖ äö", "東京 is far", "İI", "end\ufffe \ufdd0\U0001ffff"]
    )
    | st.text(characters, max_size=30)
)
moments = st.datetimes(datetime(1600, 1, 1), datetime(2400, 1, 1)).map(lambda when: when.isoformat(timespec="seconds"))
times = st.none() | moments | moments.map(lambda text: text[:10]) | moments.map(lambda text: f"{text[:16].replace('T', ' ')}Z")
rows = st.fixed_dictionaries({"n": numbers, "m": numbers, "t": times, "c": words, "d": words, "x": texts})
HOLIDAYS = tuple((date(2013, month, 4) - date(1970, 1, 1)).days for month in range(1, 13))


def fit(
    rows: Rows,
    *,
    quantiles: int = 4,
    min_count: int = 1,
    max_words: int = 100,
    slots: int = 3,
    required: frozenset[str] = frozenset(),
    piece_slots: int = 0,
) -> Encoder:
    """Fitted on rows as a client sends them: n, m numbers; t a time; c, d categories; x text; of these those that are there."""

    def floats(name: str) -> NDArray[np.float64]:
        return np.array([math.nan if row[name] is None else row[name] for row in rows], np.float64)

    def seconds(name: str) -> NDArray[np.float64]:
        return np.array([math.nan if row[name] is None else parse_time(row[name]) for row in rows])

    names = list(rows[0])
    words = [split_words(row.get("x") or "") for row in rows]
    return fit_encoder(
        Target("binary", "late", (0, 1)),
        numbers={name: floats(name) for name in names if name in ("n", "m")},
        dates={name: seconds(name) for name in names if name == "t"},
        categories={name: Counter(row[name] for row in rows if row[name]) for name in names if name in ("c", "d")},
        texts={name: twice(word for one in words for word in {*one, *pair_words(one)}) for name in names if name == "x"},
        missing=frozenset(name for name in names if any(row[name] is None for row in rows)),
        required=required,
        quantiles=quantiles,
        min_count=min_count,
        max_words=max_words,
        slots=slots,
        token_words=max_words,
        pieces={name: twice(piece for one in words for piece in set(split_pieces(one))) for name in names if name == "x"},
        piece_slots=piece_slots,
        most_pieces=max_words,
        holidays=HOLIDAYS,
    )


def twice(words: Iterable[str]) -> Counter[str]:
    """As of a table that has each row twice: in a text only words of two rows are known."""
    counts = Counter(words)
    return counts + counts


def encode(encoder: Encoder, *rows: dict[str, Any]) -> dict[str, NDArray[Any]]:
    return encoder.encode(encoder.columns(rows))


def graph_encode(encoder: Encoder, rows: Rows) -> dict[str, NDArray[Any]]:
    graph = GraphEncoder(encoder)
    fed = graph.feed(rows)
    encoded = graph({name: fed[argument] for name, argument in graph.arguments.items()})
    return {name: array.numpy() for name, array in encoded.items()}


@settings(max_examples=80, deadline=None)
@given(
    st.lists(rows, min_size=1, max_size=10),
    st.lists(rows, min_size=1, max_size=10),
    st.sampled_from([2, 3, 64]),
    st.sampled_from([0, 9]),
)
def test_graph_and_numpy_encode_any_row_alike(training: Rows, others: Rows, quantiles: int, piece_slots: int) -> None:
    encoder = fit(training, quantiles=quantiles, piece_slots=piece_slots)
    for some in (training, others):
        ours, theirs = encode(encoder, *some), graph_encode(encoder, some)
        np.testing.assert_allclose(theirs["num"], ours["num"], rtol=0, atol=2e-6)
        np.testing.assert_array_equal(theirs["cat"], ours["cat"])
        assert (theirs["num"].dtype, theirs["cat"].dtype) == (ours["num"].dtype, ours["cat"].dtype) == (np.float32, np.int32)
        assert (np.abs(ours["num"]) <= 1).all()
        assert ours["num"].shape == (len(some), encoder.width)
        assert ours["cat"].shape == (len(some), encoder.codes)


@settings(max_examples=80, deadline=None)
@given(st.lists(rows, min_size=1, max_size=10), st.lists(rows, min_size=1, max_size=10), st.sampled_from([0, 9]))
def test_few_rows_are_encoded_as_many_are(training: Rows, others: Rows, piece_slots: int) -> None:
    encoder = fit(training, piece_slots=piece_slots)
    for some in (training, others, others * (FEW // len(others) + 1)):
        one_by_one, together = encoder.encode_rows(some), encode(encoder, *some)
        np.testing.assert_allclose(one_by_one["num"], together["num"], rtol=0, atol=2e-7)  # a sine's last bit
        np.testing.assert_array_equal(one_by_one["cat"], together["cat"])
        assert [one.dtype for one in one_by_one.values()] == [np.float32, np.int32]
    for name in ("n", "c", "t", "x"):  # a column of one kind alone
        few = [{name: row[name]} for row in others]
        alone = fit([{name: row[name]} for row in training], piece_slots=piece_slots)
        for array, wanted in encode(alone, *few).items():
            np.testing.assert_allclose(alone.encode_rows(few)[array], wanted, rtol=0, atol=2e-7)


@settings(max_examples=60, deadline=None)
@given(st.lists(rows, min_size=1, max_size=10), st.lists(rows, min_size=1, max_size=10))
def test_encoder_survives_json(training: Rows, others: Rows) -> None:
    encoder = fit(training)
    again = Encoder.from_json(json.loads(json.dumps(encoder.to_json(), ensure_ascii=False)))
    assert again == encoder
    for name, array in encode(encoder, *others).items():
        np.testing.assert_array_equal(encode(again, *others)[name], array)


def test_column_of_distinct_words_is_encoded_as_its_rows() -> None:
    encoder = fit([{"c": "a", "x": "one two"}, {"c": "b", "x": "two three"}])
    many = {"c": Words(["b", None, "z"], np.array([0, 0, 1, 2])), "x": Words(["two one", None], np.array([0, 1, 0, 0]))}
    wanted = encode(encoder, {"c": "b", "x": "two one"}, {"c": "b"}, {"x": "two one"}, {"c": "z", "x": "two one"})
    np.testing.assert_array_equal(encoder.encode(many)["cat"], wanted["cat"])


def test_graph_encoder_takes_a_category_without_any_known_word() -> None:
    some = [{"n": 1, "c": "rare"}, {"n": 2, "c": "rarer"}]
    encoder = fit(some, min_count=2)
    assert encoder.categories[0].vocabulary == ()
    np.testing.assert_array_equal(graph_encode(encoder, some)["cat"], [[OTHER], [OTHER]])


def test_column_name_that_tensorflow_refuses_goes_by_another() -> None:
    encoder = fit([{"n": 1.0, "c": "a"}])
    odd = Encoder.from_json(json.loads(json.dumps(encoder.to_json()).replace('"n"', "\"价格 '元' é\"")))
    assert GraphEncoder(odd).arguments == {"价格 '元' é": "column_0", "c": "c"}
    assert set(GraphEncoder(odd).signature) == {"column_0", "c"}
    taken = Encoder.from_json(json.loads(json.dumps(encoder.to_json()).replace('"n"', '"1st"').replace('"c"', '"column_0"')))
    assert GraphEncoder(taken).arguments == {"1st": "column_1", "column_0": "column_0"}
    np.testing.assert_array_equal(graph_encode(odd, [{"价格 '元' é": 1.0, "c": "a"}])["cat"], [[2]])


def test_words_that_differ_in_a_trailing_nul_stay_apart() -> None:
    encoder = fit([{"c": "a\x00"}, {"c": "a\x00"}, {"c": "b"}], min_count=2)
    assert encoder.categories[0].vocabulary == ("a\x00",)


def test_document_that_is_no_encoder_is_a_type_or_key_error() -> None:
    with pytest.raises(KeyError):
        Encoder.from_json({"numbers": []})
    document = fit([{"n": 1.0}]).to_json()
    with pytest.raises(TypeError):
        Encoder.from_json({**document, "numbers": [{"name": "n", "edges": [0.0], "colour": "red"}]})


def test_quantiles_and_words_are_those_of_the_training_rows_alone() -> None:
    pairs = zip((10, 20, 30, 40, 50), ("AA", "AA", "BB", "BB", "BB"), strict=True)
    encoder = fit([{"n": number, "c": word} for number, word in pairs])
    assert encoder.numbers[0].edges == (10, 20, 30, 40, 50)
    assert encoder.categories[0].vocabulary == ("AA", "BB")
    encoded = encode(encoder, {"n": -1000, "c": "BB"}, {"n": 35, "c": "CC"}, {"n": 1000, "c": "AA"})
    np.testing.assert_allclose(encoded["num"][:, :1], [[-1], [0.25], [1]])
    far = np.array([-1030, 5, 970]) / 60  # from the median, in thrice the distance of the quartiles
    np.testing.assert_allclose(encoded["num"][:, 1], far / np.sqrt(1 + far**2), rtol=1e-6)
    np.testing.assert_array_equal(encoded["cat"], [[3], [OTHER], [2]])


def test_infinities_stand_at_the_ends_and_are_not_fitted_on() -> None:
    encoder = fit([{"n": value} for value in (-math.inf, 0, 1, math.inf)], quantiles=2)
    assert encoder.numbers[0].edges == (0, 0.5, 1)
    np.testing.assert_array_equal(encode(encoder, {"n": -math.inf}, {"n": math.inf})["num"], [[-1, -1], [1, 1]])


def test_missing_number_is_the_middle_and_raises_its_flag() -> None:
    encoder = fit([{"n": 0, "m": 0}, {"n": None, "m": 2}, {"n": 4, "m": 4}], quantiles=2)
    assert [column.flagged for column in encoder.numbers] == [True, False]
    encoded = encode(encoder, {}, {"n": 4, "m": 0})["num"]
    np.testing.assert_array_equal(encoded[:, :3], [[0, 0, 1], [1, -1, 0]])
    assert encoded[0, 3:].tolist() == [0, 0]  # the magnitude of what is missing
    assert encoded[1, 3] > 0 > encoded[1, 4]


@pytest.mark.parametrize("value", [7.0, None, math.inf])
def test_column_of_one_value_says_nothing(value: float | None) -> None:
    encoder = fit([{"n": value}, {"n": value}, {"n": value}])
    np.testing.assert_array_equal(encode(encoder, {"n": -5}, {"n": 7}, {"n": 900})["num"][:, 0], [0, 0, 0])


def test_words_in_fewer_rows_than_min_count_are_rare() -> None:
    encoder = fit([{"c": word} for word in ("thrice", "twice", "thrice", "once", "twice", "thrice")], min_count=2)
    assert encoder.categories[0].vocabulary == ("thrice", "twice")
    np.testing.assert_array_equal(encode(encoder, {"c": "once"}, {"c": "twice"})["cat"], [[OTHER], [3]])


def test_vocabulary_keeps_the_most_frequent_words_when_there_are_too_many() -> None:
    encoder = fit([{"c": word} for word in ("b", "b", "a", "c", "c", "c", "d")], max_words=3)
    assert encoder.categories[0].vocabulary == ("a", "b", "c")  # of a and d, which are as frequent, the first by name


def test_missing_word_is_not_a_rare_one_however_it_is_written() -> None:
    encoder = fit([{"c": word} for word in (None, None, "", "", "a")])
    assert encoder.categories[0].vocabulary == ("a",)
    np.testing.assert_array_equal(
        encode(encoder, {"c": None}, {"c": ""}, {"c": "z"}, {"c": "a"})["cat"], [[MISSING], [MISSING], [OTHER], [2]]
    )


def test_text_is_the_codes_of_its_first_words() -> None:
    encoder = fit([{"x": "The quick, BROWN fox"}], slots=3)
    assert encoder.texts[0].vocabulary == ("brown", "brown fox", "fox", "quick", "quick brown", "the", "the quick")
    encoded = encode(encoder, {"x": "the fox"}, {"x": "a brown-fox; the end"}, {"x": None}, {"x": "--"})
    np.testing.assert_array_equal(encoded["cat"], [[7, 4, 0], [OTHER, 2, 4], [0, 0, 0], [0, 0, 0]])


def test_known_pairs_stand_behind_the_words_and_pieces_in_slots_of_their_own() -> None:
    encoder = fit([{"x": "good day"}], slots=4, piece_slots=3)
    text = encoder.texts[0]
    assert text.vocabulary == ("day", "good", "good day")
    assert text.pieces == tuple(
        sorted(["<day>", "<goo", "good>", "<good", "good", "ood>", "<go", "goo", "ood", "od>", "<day", "day>", "<da", "day", "ay>"])
    )
    (same, other) = encode(encoder, {"x": "a good day"}, {"x": "goody"})["cat"]
    assert same[:4].tolist() == [OTHER, 3, 2, 4]
    assert [text.pieces[code - 2] for code in same[4:]] == ["<good", "good>", "<day>"]
    assert other[:4].tolist() == [OTHER, 0, 0, 0]
    assert [text.pieces[code - 2] for code in other[4:]] == ["<good", "<goo", "good"]  # what a word that is not known has of them


def test_word_of_a_text_is_known_when_it_stands_in_two_rows() -> None:
    counts = {"x": {"twice": 2, "once": 1}}
    encoder = fit_encoder(
        Target("binary", "late", (0, 1)), numbers={}, dates={}, categories={}, texts=counts, missing=frozenset(),
        required=frozenset(), quantiles=2, min_count=100, max_words=9, slots=2, token_words=9,
    )  # fmt: skip
    assert encoder.texts[0].vocabulary == ("twice",)
    assert encoder.texts[0].blocks == ((2, 3),)


def test_time_is_a_position_and_where_it_stands_in_day_week_and_year() -> None:
    encoder = fit([{"t": "2013-01-01"}, {"t": "2013-12-31T12:00:00"}])
    thursday, friday, saturday = encode(encoder, {"t": "2013-07-04T06:00:00"}, {"t": "2013-07-05"}, {"t": "2013-07-06"})["num"]
    assert thursday.shape == (1 + CYCLES,)
    assert -0.1 < thursday[0] < 0.1  # the middle of the year
    np.testing.assert_allclose(thursday[1:3], [1, 0], atol=1e-6)  # a quarter of the day
    np.testing.assert_allclose(thursday[3:5], [math.sin(2 * math.pi * 3 / 7), math.cos(2 * math.pi * 3 / 7)], atol=1e-6)
    assert [thursday[-1], friday[-1], saturday[-1]] == [1, 0, 1]  # the fourth is a holiday here, Saturday is free
    spring, autumn = encode(encoder, {"t": "2013-04-01"}, {"t": "2013-10-01"})["num"]
    np.testing.assert_allclose(spring[5:7], -autumn[5:7], atol=0.03)  # half a year apart


def test_missing_time_is_the_middle_without_cycles_and_raises_its_flag() -> None:
    encoder = fit([{"t": "2013-01-01"}, {"t": None}])
    assert encode(encoder, {})["num"].tolist() == [[0.0, 1.0] + [0.0] * CYCLES]


@pytest.mark.parametrize(
    "text",
    ["2013", "2013-1-1", "01.02.2013", "2013-01-01T25:00", "2013-13-01", "2013-02-29", "2013-01-01T10:00+02:00", "", "x" * 9999],
)
def test_text_that_is_no_time_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a date or time|no such date or time"):
        parse_time(text)


@given(st.datetimes(datetime(1600, 1, 1), datetime(2400, 1, 1)))
def test_time_survives_its_text(when: datetime) -> None:
    whole = when.replace(microsecond=0)
    assert parse_time(format_time((whole - datetime(1970, 1, 1)) / timedelta(seconds=1))) == parse_time(whole.isoformat())


def test_weekday_is_that_of_the_calendar() -> None:
    days = [date(2013, 1, 1) + timedelta(days=i) for i in range(400)]
    seconds = np.array([parse_time(day.isoformat()) for day in days])
    free = cycles(seconds, np.zeros(0, np.int64))[:, -1]
    assert free.tolist() == [float(day.weekday() >= 5) for day in days]


def test_width_and_sizes_are_those_of_the_encoded_arrays() -> None:
    some = [
        {"n": 0, "m": 1, "t": "2013-01-01", "c": "a", "d": "x", "x": "one"},
        {"n": None, "m": 2, "t": None, "c": "b", "d": None, "x": "two"},
    ]
    encoder = fit(some, required=frozenset({"m", "c"}))
    assert encoder.names == ["n", "m", "t", "c", "d", "x"]
    sizes = encoder.sizes
    assert (sizes.numbers, sizes.flags, sizes.categories, sizes.texts) == (3, 2 + CYCLES + 1, (4, 3), ((3, 4),))
    encoded = encode(encoder, *some)
    assert (encoded["num"].shape, encoded["cat"].shape) == ((2, 6 + CYCLES), (2, 5))
    assert encoder.required == ["m", "c"]

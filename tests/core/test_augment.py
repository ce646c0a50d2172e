"""Made-up rows: near the real ones, whole columns at a time."""

import numpy as np

from tasks.core.augment import LENT, mix_rows
from tasks.core.rows import Rows

RANDOM = np.random.default_rng(3)
COUNT = 3000
AXIS = RANDOM.uniform(-1, 1, COUNT)
NUM = np.column_stack([AXIS, AXIS**2, AXIS]).astype(np.float32)  # the third column repeats the first one
ROWS = Rows({"num": NUM, "cat": (AXIS[:, None] > 0).astype(np.int32)}, np.zeros(COUNT, np.float32))
PLACES = {"a": {"num": [0, 2]}, "b": {"num": [1]}, "c": {"cat": [0]}}


def test_made_rows_are_as_many_as_asked_for_and_as_many_columns_are_lent_as_said() -> None:
    made = mix_rows(ROWS, AXIS, PLACES, 1, 7500, seed=1)
    assert len(made) == 7500
    assert {name: (array.shape[1:], array.dtype) for name, array in made.inputs.items()} == {
        name: (array.shape[1:], array.dtype) for name, array in ROWS.inputs.items()
    }
    whole = {tuple(row) for row in NUM}
    kept = np.mean([tuple(row) in whole for row in made.num])
    assert abs(kept - (LENT**2 + (1 - LENT) ** 2)) < 0.03  # both columns lent by the same row, or none


def test_what_is_encoded_of_a_column_is_lent_together() -> None:
    made = mix_rows(ROWS, AXIS, PLACES, 1, COUNT, seed=1)
    np.testing.assert_array_equal(made.num[:, 0], made.num[:, 2])


def test_lent_values_are_those_of_similar_rows() -> None:
    made = mix_rows(ROWS, AXIS, PLACES, 1, COUNT, seed=1)
    gap = np.abs(made.num[:, 1] - made.num[:, 0] ** 2)
    strange = np.abs(RANDOM.permutation(NUM[:, 1]) - NUM[:, 0] ** 2)  # had any row lent it
    assert gap.mean() < 0.2 * LENT * strange.mean()


def test_real_rows_are_as_they_were_and_the_same_seed_makes_the_same_rows() -> None:
    before = NUM.copy()
    first, again, other = (mix_rows(ROWS, AXIS, PLACES, 1, 500, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(NUM, before)
    np.testing.assert_array_equal(first.num, again.num)
    assert (first.num != other.num).any()
    assert len(mix_rows(ROWS, AXIS, PLACES, 1, 0, seed=1)) == 0


def test_words_of_texts_are_left_out_and_none_comes_in() -> None:
    codes = RANDOM.integers(1, 50, (COUNT, 9)).astype(np.int32)
    rows = Rows({"num": np.zeros((COUNT, 0), np.float32), "cat": codes}, np.zeros(COUNT, np.float32))
    made = mix_rows(rows, AXIS, {"c": {"cat": [0]}, "text": {"cat": list(range(1, 9))}}, 1, 2000, seed=1).cat
    assert abs((made[:, 1:] == 0).mean() - LENT) < 0.01
    assert (made[:, 0] > 0).all()
    known = {tuple(row) for row in codes[:, 1:]}
    whole = [tuple(row) in known for row in made[:, 1:]]
    assert abs(np.mean(whole) - (1 - LENT) ** 8) < 0.03

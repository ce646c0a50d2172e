"""The split: every row in one part, classes divided alike, groups whole, and the same for the same seed."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.split import TEST, TRAIN, VALIDATION, by_chance, by_group, by_time, last_days


def test_time_splits_whole_days_and_the_end() -> None:
    times = np.arange("2013-01-01", "2013-03-01", np.timedelta64(6, "h"), dtype="datetime64[us]")
    parts = by_time(times, np.datetime64("2013-02-01"), 10)
    days = times.astype("datetime64[D]")
    assert (parts[times >= np.datetime64("2013-02-01")] == TEST).all()
    assert (parts[times < np.datetime64("2013-02-01")] != TEST).all()
    assert {Counter(parts[days == day]).__len__() for day in np.unique(days)} == {1}
    assert 3 <= len(np.unique(days[parts == VALIDATION])) <= 4


@pytest.mark.parametrize("newest", ["2013-03-01T00:00", "2013-03-01T23:59:59"])
def test_last_days_are_whole_and_the_newest_rows_day_is_one_of_them(newest: str) -> None:
    assert last_days(np.datetime64(newest, "us"), 1) == np.datetime64("2013-03-01")
    assert last_days(np.datetime64(newest, "us"), 29) == np.datetime64("2013-02-01")


@given(st.lists(st.integers(0, 3), min_size=12, max_size=200), st.floats(0.1, 0.4), st.floats(0.1, 0.4), st.integers(0, 9))
def test_chance_divides_every_class_by_the_shares(classes: list[int], test: float, validation: float, seed: int) -> None:
    strata = np.array(classes)
    parts = by_chance(strata, test, validation, seed)
    for stratum, rows in Counter(classes).items():
        own = Counter(parts[strata == stratum].tolist())
        if rows >= 3:
            assert abs(own[TEST] - rows * test) <= 1
            assert abs(own[VALIDATION] - rows * validation) <= 1
            assert min(own[TEST], own[VALIDATION]) >= 1
    assert (by_chance(strata, test, validation, seed) == parts).all()


def test_chance_depends_on_the_seed() -> None:
    strata = np.zeros(1000)
    assert (by_chance(strata, 0.2, 0.1, 1) != by_chance(strata, 0.2, 0.1, 2)).any()


def test_groups_fill_the_parts_by_their_rows() -> None:
    sizes = {f"g{i}": 1 + i % 7 for i in range(300)}
    parts = by_group(sizes, 0.2, 0.1, 3)
    assert parts.keys() == sizes.keys()
    total = sum(sizes.values())
    rows = Counter[int]()
    for group, part in parts.items():
        rows[part] += sizes[group]
    assert rows[TEST] / total == pytest.approx(0.2, abs=0.02)
    assert rows[VALIDATION] / total == pytest.approx(0.1, abs=0.02)
    assert rows[TRAIN] / total == pytest.approx(0.7, abs=0.03)
    assert by_group(dict(reversed(sizes.items())), 0.2, 0.1, 3) == parts

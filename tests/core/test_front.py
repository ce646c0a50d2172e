"""Which candidates nothing beats, and which contenders go on to a longer training."""

from math import inf

import pytest

from tasks.core.front import front
from tasks.core.halving import best_of, rung_epochs, rungs


def test_front_holds_what_nothing_is_as_good_as_in_all_and_better_than_in_one() -> None:
    figures = {
        "best": (-0.9, 900, 30.0),
        "small": (-0.7, 100, 10.0),
        "small and slower": (-0.7, 100, 11.0),
        "between": (-0.8, 500, 10.0),
        "worse in all": (-0.6, 901, 31.0),
        "fast": (-0.1, 1000, 1.0),
    }
    assert front(figures) == ["best", "small", "between", "fast"]


def test_equals_are_both_on_the_front() -> None:
    assert front({"one": (1.0, 2.0), "twin": (1.0, 2.0), "beaten": (1.0, 3.0)}) == ["one", "twin"]


@pytest.mark.parametrize(("contenders", "keep", "expected"), [(1, 3, 0), (3, 3, 1), (4, 3, 2), (9, 3, 2), (10, 3, 3), (7, 2, 3)])
def test_rungs_are_as_many_as_leave_one(contenders: int, keep: int, expected: int) -> None:
    assert rungs(contenders, keep) == expected
    for _ in range(expected):
        contenders = len(best_of([float(i) for i in range(contenders)], keep))
    assert contenders == 1


def test_each_rung_is_longer_than_the_last_and_none_is_empty() -> None:
    assert [rung_epochs(18, 3, left) for left in (2, 1, 0)] == [2, 6, 18]
    assert rung_epochs(4, 3, 3) == 1


def test_lowest_losses_go_on_in_their_order_and_one_that_diverged_last() -> None:
    assert best_of([0.3, 0.1, inf, 0.2, 0.1], keep=2) == [1, 3, 4]
    assert best_of([0.2, 0.2, 0.2], keep=3) == [0]

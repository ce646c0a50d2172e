"""Which rows train, validate and test."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

TRAIN, VALIDATION, TEST = 0, 1, 2
PARTS = ("train", "validation", "test")  # by their codes
DAY = np.timedelta64(1, "D")


def by_time(times: NDArray[np.datetime64], test_from: np.datetime64, validation_every_days: int) -> NDArray[np.uint8]:
    """The part of each row: whole days validate, so that rows of one morning do not stand on both sides."""
    days = (times - np.datetime64(0, "s")) // DAY
    validates = days % validation_every_days == 0
    return np.where(times >= test_from, TEST, np.where(validates, VALIDATION, TRAIN)).astype(np.uint8)


def last_days(newest: np.datetime64, days: int) -> np.datetime64:
    """Where the last so many days begin, at midnight; the day of the newest row, begun or over, is the last one."""
    return np.datetime64(newest, "D") - (days - 1) * DAY


def by_chance(strata: NDArray[Any], test: float, validation: float, seed: int) -> NDArray[np.uint8]:
    """The part of each row, drawn within each stratum, so that every class is divided alike."""
    random = np.random.default_rng(seed)
    parts = np.zeros(len(strata), np.uint8)
    for stratum in np.unique(strata):
        places = random.permutation(np.flatnonzero(strata == stratum))
        tests, validates = shares(len(places), test, validation)
        parts[places[:tests]] = TEST
        parts[places[tests : tests + validates]] = VALIDATION
    return parts


def shares(rows: int, test: float, validation: float) -> tuple[int, int]:
    """How many of the rows test and validate: the shares, rounded, and one each at least where there are three rows."""
    least = 1 if rows >= 3 else 0
    return max(round(rows * test), least), max(round(rows * validation), least)


def by_group(sizes: Mapping[Any, int], test: float, validation: float, seed: int) -> dict[Any, int]:
    """The part of each group, drawn until the parts have their share of the rows; `sizes` are rows of each group."""
    groups = sorted(sizes, key=str)
    total = sum(sizes.values())
    parts, seen = {}, 0
    for place in np.random.default_rng(seed).permutation(len(groups)):
        group = groups[place]
        parts[group] = TEST if seen < test * total else VALIDATION if seen < (test + validation) * total else TRAIN
        seen += sizes[group]
    return parts

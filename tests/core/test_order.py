"""The order of an epoch: every row once, other rows left over each time, the same from seed and epoch alone."""

import numpy as np
import pytest

from tasks.core.order import BLOCK_BYTES, WINDOW_BYTES, Plan, plan_epochs
from tasks.core.rows import Rows


@pytest.mark.parametrize(
    ("rows", "batch", "window", "block"),
    [
        (1000, 32, 64, 10),
        (1000, 32, 96, 7),
        (100, 32, 3200, 1000),
        (64, 32, 32, 5),
        (95, 32, 64, 1),
        (96, 32, 96, 3),
        (33, 1, 4, 8),
    ],
)
def test_epoch_visits_every_row_once_but_for_a_partial_batch(rows: int, batch: int, window: int, block: int) -> None:
    plan = Plan(rows, batch, window, block)
    windows = list(plan.epoch(seed=1, epoch=2))
    visited = np.concatenate([one.places for one in windows])
    assert len(set(visited.tolist())) == len(visited) == plan.steps * batch
    assert 0 <= visited.min() <= visited.max() < rows
    assert all(sum(stop - start for start, stop in one.stretches) <= plan.capacity for one in windows)
    assert all(len(one.order) % batch == 0 for one in windows)
    again = [one.places for one in plan.epoch(seed=1, epoch=2, first=1)]
    np.testing.assert_array_equal(np.concatenate([windows[0].places, *again]), visited)
    assert (np.concatenate([one.places for one in plan.epoch(seed=1, epoch=3)]) != visited).any()


def test_other_rows_sit_out_in_each_epoch() -> None:
    plan = Plan(rows=95, batch=32, window=3200, block=1000)
    out = [set(range(95)) - set(window.places.tolist()) for epoch in range(3) for window in plan.epoch(0, epoch)]
    assert all(len(one) == 31 for one in out)
    assert out[0] != out[1] != out[2]


def test_a_batch_mixes_rows_from_all_over_a_sorted_set() -> None:
    plan = Plan(rows=100_000, batch=500, window=10_000, block=100)
    first = next(plan.epoch(seed=0, epoch=0)).places[:500]
    assert np.ptp(first) > 90_000
    assert abs(first.mean() - 50_000) < 10_000
    assert len(np.unique(first // 100)) > 80  # of the hundred blocks of a window


def test_windows_follow_the_bytes_of_a_row_and_hold_a_step_at_least() -> None:
    narrow = plan_epochs(Rows({"num": np.zeros((10, 3), np.float32)}, np.zeros(10, np.float32)), batch=4)
    assert (narrow.window, narrow.block) == (WINDOW_BYTES // 16 // 4 * 4, BLOCK_BYTES // 16)
    images = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (2_000_000, 224, 224, 3), (0, 0, 0, 0))
    wide = plan_epochs(Rows({"image": images}, np.zeros(2_000_000, np.float32)), batch=1024)
    assert (wide.window, wide.block) == (1024, 1)

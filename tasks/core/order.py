"""The order in which an epoch visits the rows: every row once, from seed and epoch alone, whatever the memory or the workers.

Rows lie in blocks that are read in one go; an epoch takes the blocks in a random order, cuts them into windows and shuffles each
window whole. A window is all that must be in memory at a time, so a set of any size is shuffled with reads of whole blocks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.core.rows import Rows

# Of the rows' own bytes, never of the machine's memory: the order must be the same everywhere.
WINDOW_BYTES = 64 << 20  # shuffled together
BLOCK_BYTES = 128 << 10  # read in one go: disks and network file systems are slow at reading less


@dataclass(frozen=True)
class Window:
    """Stretches of rows as they lie, [start, stop) each, and the order [row] of their visit, counted from the first's start on."""

    stretches: tuple[tuple[int, int], ...]
    order: NDArray[np.int32]

    @property
    def places(self) -> NDArray[np.int32]:
        """The rows in the order of their visit, by their place in the whole set."""
        lying = np.concatenate([np.arange(start, stop, dtype=np.int32) for start, stop in self.stretches])
        visited: NDArray[np.int32] = lying[self.order]
        return visited


@dataclass(frozen=True)
class Plan:
    """How many rows there are in all, in a step, in a window (whole steps of them) and in a block."""

    rows: int
    batch: int
    window: int
    block: int

    @property
    def steps(self) -> int:
        """Of an epoch; fewer rows than a step has sit out, other ones in each epoch."""
        return self.rows // self.batch

    @property
    def window_steps(self) -> int:
        return self.window // self.batch

    @property
    def capacity(self) -> int:
        """Rows that a window holds at most: the last one holds those that sit out too."""
        return min(self.rows, self.window + self.batch)

    def epoch(self, seed: int, epoch: int, first: int = 0) -> Iterator[Window]:
        """The epoch's windows, from the one with that number on."""
        blocks = np.random.default_rng([seed, epoch]).permutation(-(-self.rows // self.block))
        starts = blocks * self.block
        stops = np.minimum(starts + self.block, self.rows)
        ends = np.cumsum(stops - starts)  # of each block, in the order in which they come
        begins = ends - (stops - starts)
        count = -(-self.steps // self.window_steps)
        for number in range(first, count):
            low, high = number * self.window, self.rows if number == count - 1 else (number + 1) * self.window
            own = slice(np.searchsorted(ends, low, "right"), np.searchsorted(begins, high, "left"))
            cut_starts = starts[own] + np.maximum(low - begins[own], 0)
            cut_stops = stops[own] - np.maximum(ends[own] - high, 0)
            order = np.random.default_rng([seed, epoch, number]).permutation(high - low).astype(np.int32)
            stretches = tuple(zip(cut_starts.tolist(), cut_stops.tolist(), strict=True))
            yield Window(stretches, order[: (high - low) // self.batch * self.batch])


def plan_epochs(rows: Rows, batch: int) -> Plan:
    """The plan for these rows, in steps of so many."""
    each = max(rows.nbytes // max(len(rows), 1), 1)
    window = max(WINDOW_BYTES // each // batch, 1) * batch
    return Plan(len(rows), batch, window, max(BLOCK_BYTES // each, 1))

"""The processes that train one network together: each takes its share of every batch, and all agree on what follows from it."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray


@dataclass(frozen=True)
class Team:
    """How many there are, which one this process is, and how they add tensors up; the first of them is the chief."""

    size: int
    index: int
    strategy: Any  # that adds up; None for a process on its own

    def sum(self, tensors: Sequence[Any]) -> Sequence[Any]:
        """The sums over all processes, the same bits in each of them; inside a tf.function, called in all alike."""
        if self.strategy is None:
            return tensors

        def add(own: Sequence[Any]) -> Any:
            placed = [tf.identity(tensor) for tensor in own]  # on the worker's device: arguments of a function are on none
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, placed)

        summed: Sequence[Any] = self.strategy.run(add, args=(list(tensors),))
        return summed

    def agree(self, values: Sequence[float]) -> list[float]:
        """The sums of plain numbers over all processes."""
        if self.strategy is None:
            return list(values)
        summed: list[float] = self._add(np.asarray(values, np.float64)).tolist()
        return summed

    def of_chief(self, content: bytes) -> bytes:
        """The chief's bytes, in every process."""
        if self.strategy is None:
            return content
        mine = content if self.index == 0 else b""
        length = int(self.agree([len(mine)])[0])
        if not length:
            return b""
        padded = np.frombuffer(mine.ljust(-(-length // 4) * 4, b"\0"), np.int32)  # bytes themselves cannot be added up
        return self._add(padded).tobytes()[:length]

    def _add(self, values: NDArray[Any]) -> NDArray[Any]:
        summed: NDArray[Any] = self._compiled(tf.constant(values)).numpy()
        return summed

    @cached_property
    def _compiled(self) -> Callable[[Any], Any]:
        """Traced once for each shape: a function made anew for each sum would never be freed."""
        add: Callable[[Any], Any] = tf.function(lambda tensor: self.sum([tensor])[0])
        return add


ALONE = Team(1, 0, None)


def join_team() -> Team:
    """The team that TF_CONFIG names, joined; must be called before TensorFlow computes anything in this process."""
    config = json.loads(os.environ["TF_CONFIG"])
    return Team(len(config["cluster"]["worker"]), config["task"]["index"], tf.distribute.MultiWorkerMirroredStrategy())

"""Encoded rows: what preprocess makes and every learner takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rows:
    """What the network takes, by name, and the target [row], a code or a number, or [row, class] of probabilities.

    Inputs always are num [row, width] float32 and cat [row, code] int32, and image0, ... [row, height, width, channel] uint8
    where there are images; their first axis is the row.
    """

    inputs: Mapping[str, NDArray[Any]]
    target: NDArray[Any]

    def __len__(self) -> int:
        return len(self.target)

    @property
    def num(self) -> NDArray[Any]:
        return self.inputs["num"]

    @property
    def cat(self) -> NDArray[Any]:
        return self.inputs["cat"]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in (*self.inputs.values(), self.target))

    def head(self, rows: int) -> "Rows":
        """The first rows; all, when there are fewer."""
        return Rows({name: array[:rows] for name, array in self.inputs.items()}, self.target[:rows])

    def between(self, start: int, stop: int) -> "Rows":
        """The rows from `start` up to `stop`, as they lie."""
        return Rows({name: array[start:stop] for name, array in self.inputs.items()}, self.target[start:stop])

    def take(self, places: NDArray[Any]) -> "Rows":
        """The rows at these places, in this order."""
        return Rows({name: array[places] for name, array in self.inputs.items()}, self.target[places])

    def joined(self, others: "Rows") -> "Rows":
        """These rows and then the others, in memory."""
        both = {name: np.concatenate([array, others.inputs[name]]) for name, array in self.inputs.items()}
        return Rows(both, np.concatenate([self.target, others.target]))

    def taught(self, target: NDArray[Any]) -> "Rows":
        """The same rows with another target."""
        return Rows(self.inputs, target)

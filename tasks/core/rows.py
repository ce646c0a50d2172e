"""Encoded rows: what preprocess makes and every learner takes."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class Rows:
    """num [row, width] float32, cat [row, category] int32, target [row], a code or a number, or [row, class] of probabilities."""

    num: NDArray[Any]
    cat: NDArray[Any]
    target: NDArray[Any]

    def __len__(self) -> int:
        return len(self.target)

    def head(self, rows: int) -> "Rows":
        """The first rows; all, when there are fewer."""
        return Rows(self.num[:rows], self.cat[:rows], self.target[:rows])

    def take(self, places: NDArray[Any]) -> "Rows":
        """The rows at these places, in this order."""
        return Rows(self.num[places], self.cat[places], self.target[places])

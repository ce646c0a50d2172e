"""Successive halving (Karnin et al. 2013; Jamieson and Talwalkar 2016, arXiv 1502.07943): which go on to a longer training."""

import math
from collections.abc import Sequence


def rungs(contenders: int, keep: int) -> int:
    """Trainings that the best contender goes through before it is the only one, when one in `keep` of each goes on."""
    count = 0
    while contenders > 1:
        contenders, count = math.ceil(contenders / keep), count + 1
    return count


def rung_epochs(epochs: int, keep: int, rungs_left: int) -> int:
    """Epochs of a rung: of those of a whole training one in `keep` for each rung that is still to come; one at least."""
    return max(1, round(epochs / math.pow(keep, rungs_left)))


def best_of(losses: Sequence[float], keep: int) -> list[int]:
    """Places of the lowest losses, one in `keep` of them, in the order that they stand in; of equal ones the first."""
    count = math.ceil(len(losses) / keep)
    return sorted(sorted(range(len(losses)), key=lambda place: (losses[place], place))[:count])

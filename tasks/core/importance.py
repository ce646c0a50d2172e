"""What the trials of a search say beyond the best one: which hyperparameters matter, and what more trials would likely bring."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.core.trials import Trial

FEWEST = 4  # trials, below which nothing is said of importance
FOREST = 12  # trials, from which on a forest is fitted; ranks are compared below
SAMPLES = 200  # of the other hyperparameters, over which a marginal is averaged
STEPS = 16  # of a marginal
DOUBLING = 8  # trials, below which nothing is said of what more would bring


@dataclass(frozen=True)
class Importance:
    """How much a family's hyperparameters matter, by name, most first.

    variance: shares of the variance of the loss that each explains by itself, after a random forest; rank: absolute rank
    correlations with the loss. Both from 0 to 1, from so many trials.
    """

    family: str
    method: Literal["variance", "rank"]
    trials: int
    of: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Doubling:
    """What twice the trials would likely lower the best loss by: `likely`, and at most about `most`, the last doubling's gain."""

    trials: int
    likely: float
    most: float


def weigh(trials: Sequence[Trial]) -> list[Importance]:
    """The importance of each family's hyperparameters, of families with enough trials that did not fail."""
    found = []
    for family in dict.fromkeys(trial.configuration.family for trial in trials):
        own = [trial for trial in trials if trial.configuration.family == family and trial.outcome.state != "failed"]
        losses = np.array([trial.outcome.loss for trial in own])
        if len(own) < FEWEST or np.ptp(losses) == 0:
            continue  # so many trials differ in their configurations, and here in what came of them
        names = [name for name in own[0].configuration.values if len({trial.configuration.values[name] for trial in own}) > 1]
        places = np.column_stack([_places([trial.configuration.values[name] for trial in own]) for name in names])
        method: Literal["variance", "rank"] = "variance" if len(own) >= FOREST else "rank"
        shares = _explained(places, losses) if method == "variance" else _correlated(places, losses)
        of = sorted(zip(names, map(float, shares), strict=True), key=lambda pair: -pair[1])
        found.append(Importance(family, method, len(own), tuple(of)))
    return found


def expect(trials: Sequence[Trial]) -> Doubling | None:
    """What doubling would bring, None of too few finished trials.

    As if trials were drawn by chance: the expected best of m of the n losses is known exactly from their order, so is what
    the doublings from n/4 to n/2 and from there to n brought, and gains shrink from one to the next by about their ratio.
    """
    losses = sorted(trial.outcome.loss for trial in trials if trial.outcome.state == "finished")
    count = len(losses)
    if count < DOUBLING:
        return None
    quarter, half, whole = (_expected_best(losses, m) for m in (count // 4, count // 2, count))
    before, last = quarter - half, half - whole
    return Doubling(count, last * min(last / before, 1.0) if before > 0 else 0.0, last)


def _expected_best(losses: Sequence[float], count: int) -> float:
    """The mean, over all choices of so many of the sorted losses, of the lowest one."""
    ways = math.comb(len(losses), count)
    return sum(loss * math.comb(len(losses) - place, count - 1) / ways for place, loss in enumerate(losses, start=1))


def _places(values: Sequence[float | int | str]) -> NDArray[np.float64]:
    """Numbers above zero on a log scale, as they are searched; others by their order."""
    if all(isinstance(value, int | float) and value > 0 for value in values):
        return np.log(np.array(values, np.float64))
    words = sorted(set(values), key=str)
    return np.array([words.index(value) for value in values], np.float64)


def _correlated(places: NDArray[np.float64], losses: NDArray[np.float64]) -> list[float]:
    """Spearman's rank correlation of each column with the losses, without its sign."""
    from scipy.stats import spearmanr  # here, as the forest below: they take a second, in which nothing else would start

    return [abs(float(spearmanr(column, losses).statistic)) for column in places.T]


def _explained(places: NDArray[np.float64], losses: NDArray[np.float64]) -> list[float]:
    """The share of the forest's variance that is that of each column's marginal (functional ANOVA, Hutter et al. 2014)."""
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(200, min_samples_leaf=2, random_state=0).fit(places, losses)
    chance = np.random.default_rng(0)
    low, high = places.min(axis=0), places.max(axis=0)
    others = chance.uniform(low, high, (SAMPLES, places.shape[1]))
    total = float(np.var(forest.predict(others)))
    shares = []
    for column in range(places.shape[1]):
        marginal = []
        for place in np.linspace(low[column], high[column], STEPS):
            at = others.copy()
            at[:, column] = place
            marginal.append(forest.predict(at).mean())
        shares.append(min(float(np.var(marginal)) / total, 1.0) if total > 0 else 0.0)
    return shares

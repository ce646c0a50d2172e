"""What the search says of a trial: what to try, how it ended."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tasks.core.models import Configuration

State = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class Interval:
    """Numbers from low to high, searched on a log scale."""

    low: float
    high: float
    default: float


@dataclass(frozen=True)
class Choices:
    """Values of one type, in their order."""

    values: tuple[int | float | str, ...]
    default: int | float | str


Space = Mapping[str, Interval | Choices]


@dataclass(frozen=True)
class Asked:
    """A trial to run: its place in the search, from 1, and the losses, by epoch, that it is stopped for being worse than."""

    number: int
    configuration: Configuration
    limits: tuple[float, ...] = ()

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Asked":
        return cls(document["number"], Configuration.from_json(document["configuration"]), tuple(document["limits"]))


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: the validation loss after each of its epochs, and the reason where it failed."""

    state: State
    losses: tuple[float, ...] = ()
    reason: str = ""

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Outcome":
        return cls(document["state"], tuple(document["losses"]), document["reason"])

    @property
    def loss(self) -> float:
        """The best validation loss; infinite of a trial that failed."""
        return math.inf if self.state == "failed" else min(self.losses)


@dataclass(frozen=True)
class Trial:
    """A trial with its outcome, the seconds that it took and the seconds into the search at which it ended."""

    number: int
    configuration: Configuration
    outcome: Outcome
    seconds: float
    ended: float

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Trial":
        """The trial that `to_json` described; KeyError or TypeError when the document is none."""
        configuration, outcome = Configuration.from_json(document["configuration"]), Outcome.from_json(document["outcome"])
        return cls(document["number"], configuration, outcome, document["seconds"], document["ended"])


def best_of(trials: Iterable[Trial], count: int) -> list[Trial]:
    """So many finished trials, best first: the best one of each family, as far as they go, then those of the lowest losses.

    What a blend gains is in how its models differ, and families differ more than the configurations of one.
    """
    known = sorted((trial for trial in trials if trial.outcome.state == "finished"), key=lambda trial: trial.outcome.loss)
    first: dict[str, Trial] = {}
    for trial in known:
        first.setdefault(trial.configuration.family, trial)
    heads = [trial.number for trial in first.values()]
    chosen = sorted(known, key=lambda trial: trial.number not in heads)[:count]
    return sorted(chosen, key=lambda trial: trial.outcome.loss)

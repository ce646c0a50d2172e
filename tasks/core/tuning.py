"""The report of a search: one HTML page that opens offline."""

from dataclasses import dataclass
from typing import Literal

from tasks.core.report import ENVIRONMENT
from tasks.core.trials import Trial

End = Literal["trials", "minutes", "money", "space"]
ENDS: dict[End, str] = {
    "trials": "all trials of tune.budget.trials were made",
    "minutes": "tune.budget.minutes are over",
    "money": "tune.budget.money is spent",
    "space": "there is no further configuration to try",
}


@dataclass(frozen=True)
class Tuning:
    """A search that ended; `processes` at once, `rows` of `train_rows` for each trial, `price` of an hour where one is known."""

    trials: tuple[Trial, ...]
    end: End
    processes: int
    rows: int
    train_rows: int
    validation_rows: int
    epochs: int
    price: float | None


def render(tuning: Tuning) -> str:
    """The page as text."""
    return ENVIRONMENT.get_template("tuning.html").render(tuning=tuning, ends=ENDS)

"""The report of a search: one HTML page that opens offline."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from tasks.core.importance import DOUBLING, FEWEST, expect, weigh
from tasks.core.report import ENVIRONMENT
from tasks.core.svg import short
from tasks.core.timeline import nice_ticks
from tasks.core.trials import Trial, best_of

End = Literal["trials", "minutes", "money", "space"]
ENDS: dict[End, str] = {
    "trials": "all trials of the budget were made",
    "minutes": "the minutes of the budget are over",
    "money": "the money of the budget is spent",
    "space": "there is no further configuration to try",
}
EDGE = 0.94  # of the width, behind which a tick has no room for its words
TALL = 240  # of the history, whose width is 1000
COLOURS = 9  # that the page's style has


@dataclass(frozen=True)
class Tuning:
    """A search that ended: `processes` at once, `rows` of `train_rows` for each trial, `price` of an hour where one is known."""

    trials: tuple[Trial, ...]
    end: End
    budget: int
    processes: int
    rows: int
    train_rows: int
    validation_rows: int
    epochs: int
    price: float | None


def render(tuning: Tuning) -> str:
    """The page as text; at least one trial must have finished."""
    best = best_of(tuning.trials, 1)[0]
    families = list(dict.fromkeys(trial.configuration.family for trial in tuning.trials))
    seconds = max(trial.ended for trial in tuning.trials)
    return ENVIRONMENT.get_template("tuning.html").render(
        tuning=tuning,
        best=best,
        seconds=seconds,
        money=None if tuning.price is None else tuning.price * seconds / 3600,
        ended=ENDS[tuning.end],
        states={state: sum(t.outcome.state == state for t in tuning.trials) for state in ("finished", "stopped", "failed")},
        colours={family: place % COLOURS for place, family in enumerate(families)},
        families=[(name, [t for t in tuning.trials if t.configuration.family == name]) for name in families],
        best_of=best_of,
        history=_history(tuning.trials, families),
        importance=weigh(tuning.trials),
        doubling=expect(tuning.trials),
        fewest=(FEWEST, DOUBLING),
        value=_value,
    )


def _value(value: float | int | str) -> str:
    """A hyperparameter's value, to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _history(trials: Sequence[Trial], families: Sequence[str]) -> Markup:
    """The best loss so far as a line over the minutes, and a dot for each trial where it ended, in its family's colour; losses
    far above the others, and trials that failed, stand at the upper edge."""
    timed = sorted(trials, key=lambda trial: trial.ended)
    losses = [trial.outcome.loss for trial in timed if trial.outcome.state != "failed"]
    least, middle = min(losses), statistics.median(losses)
    ticks = nice_ticks(least, min(max(losses), middle + 3 * (middle - least)) if middle > least else max(losses))
    low, high, end = ticks[0], ticks[-1], timed[-1].ended
    minutes = [tick for tick in nice_ticks(0.0, end / 60) if 60 * tick <= EDGE * end]

    def place(trial: Trial, loss: float) -> tuple[float, float]:
        return 1000 * trial.ended / end, TALL * (1 - (min(loss, high) - low) / (high - low))

    best, steps, dots = float("inf"), [], []
    for trial in timed:
        x, y = place(trial, trial.outcome.loss)
        family = families.index(trial.configuration.family) % COLOURS
        said = f"trial {trial.number}, {trial.configuration.family}: " + (
            "failed" if trial.outcome.state == "failed" else f"{trial.outcome.loss:.5f}, {trial.outcome.state}"
        )
        dot = Markup('<path class="dot c{} {}" d="M{:.1f} {:.1f}h.01"><title>{}</title></path>')
        dots.append(dot.format(family, trial.outcome.state, x, y, said))
        if trial.outcome.state != "failed" and trial.outcome.loss < best:
            before = place(trial, best)[1] if best < float("inf") else y
            steps.append(f"{x:.1f},{before:.1f} {x:.1f},{y:.1f}")
            best = trial.outcome.loss
    steps.append(f"1000,{place(timed[-1], best)[1]:.1f}")
    heights = [(tick, 1 - (tick - low) / (high - low)) for tick in ticks]
    grid = [Markup('<path class="grid" d="M0 {:.1f}H1000"/>').format(TALL * height) for _, height in heights]
    down = [Markup('<span style="top:{:.1f}%">{}</span>').format(100 * height, short(tick)) for tick, height in heights]
    along = [Markup('<span style="left:{:.1f}%">{} min</span>').format(6000 * tick / end, short(tick)) for tick in minutes]
    return Markup(
        '<div class="plot history"><div class="y" aria-hidden="true">{}</div><svg viewBox="0 0 1000 {}" preserveAspectRatio="none" '
        'role="img" aria-label="{}">{}<polyline points="{}"/>{}</svg><div class="x" aria-hidden="true">{}</div></div>'
    ).format(
        Markup("").join(down),
        TALL,
        f"best validation loss so far, {losses[0]:.5f} at first, {best:.5f} at the end",
        Markup("").join(grid),
        " ".join(steps),
        Markup("").join(dots),
        Markup("").join(along),
    )

"""How often, and when: what schedules of retraining come to on the flights of 2013, with LightGBM in the place of the pipeline.

`python -m benchmarks.schedules` trains a model at the beginning of every week on what is known then, as `benchmarks.year` would,
and has each answer all weeks that follow. Prints the mean weekly log loss of calendars (a model every so many weeks, begun in each
of the weeks in which that can begin), of the rule of `benchmarks.year`, of the same rule with other pauses, and of the dates that
only hindsight knows.
"""

import argparse
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.quality import ROOT
from benchmarks.year import FIRST, FLIGHTS, PROMOTED, TRIED, WEEK, WEEKS, is_month_over, read_year
from tasks.params import Params

HELD_BACK = timedelta(days=7)  # the test part, as in `benchmarks.year`
RARE = 200  # rows; words with fewer are one
MODEL: dict[str, Any] = {
    "n_estimators": 200,
    "learning_rate": 0.05,
    "min_child_samples": 100,
    "colsample_bytree": 0.5,
    "cat_smooth": 50,
}
WIN = 1.2816  # standard errors by which a challenger is ahead in 90 % of the resamples
CALENDARS = (1, 2, 3, 4, 5, 6, 8, 13)
PAUSES = ((4, 1), (4, 2), (4, 4), (5, 1), (5, 2), (6, 1), (6, 2), (6, 4), (8, 2))  # weeks from a promotion, from a try


class Models:
    """The model of each week beside the rows of each week."""

    def __init__(self, table: pd.DataFrame, params: Params) -> None:
        self.floor = params.monitor.floor.calibration
        self.truth = table["late"].to_numpy(np.float64)
        features = pd.DataFrame({name: table[name].astype(float) for name in params.table.numbers})
        for name in params.table.categories:
            words = table[name].astype(str)
            features[name] = pd.Categorical(words.where(words.map(words.value_counts()) >= RARE, "rare"))
        times = table["time"]
        self.rows = [np.flatnonzero((times >= naive(week)) & (times < naive(week + 1))) for week in range(WEEKS)]
        self.losses: list[NDArray[np.float64]] = []  # of each row, by model
        self.gaps: list[NDArray[np.float64]] = []  # of what came from what was said, by model and week
        self.was: list[float] = []  # that gap in the test part
        for week in track(range(WEEKS), "models", console=Console(stderr=True)):
            known = naive(week) - WEEK
            learned, tested = times < known - HELD_BACK, (times >= known - HELD_BACK) & (times < known)
            model = lightgbm.LGBMClassifier(**MODEL, random_state=FLIGHTS.seeds[0], n_jobs=2, verbose=-1)
            model.fit(features[learned], self.truth[learned])
            said = np.asarray(model.predict_proba(features))[:, 1]
            self.losses.append(-np.log(np.where(self.truth == 1, said, 1 - said)))
            away = self.truth - said
            self.gaps.append(np.array([away[rows].mean() for rows in self.rows]))
            self.was.append(float(away[tested].mean()))
        self.loss = np.array([[losses[rows].mean() for rows in self.rows] for losses in self.losses])  # [model, week]

    def wins(self, challenger: int, champion: int, week: int) -> bool:
        rows = self.rows[week]
        ahead = self.losses[champion][rows] - self.losses[challenger][rows]
        return bool(ahead.mean() > WIN * ahead.std() / len(ahead) ** 0.5)

    def drifted(self, model: int, week: int) -> bool:
        return bool(abs(self.gaps[model][week] - self.was[model]) > self.floor)


def naive(week: int) -> pd.Timestamp:
    return pd.Timestamp(FIRST + week * WEEK).tz_localize(None)


def calendar(models: Models, every: int) -> list[float]:
    """Mean weekly log loss, by the week in which the first new model serves."""
    return [mean_loss(models, list(range(first, WEEKS, every))) for first in range(1, every + 1)]


def rule(models: Models, promoted: int, tried: int) -> tuple[list[int], int]:
    """The weeks in which a new model begins to serve, and how many challengers were dropped."""
    weeks, last_try, dropped = list[int](), -tried, 0
    for week in range(2, WEEKS):
        serves, labelled = weeks[-1] if weeks else 0, week - 2
        if not models.drifted(serves, labelled) or (weeks and week - serves < promoted) or week - last_try < tried:
            continue
        last_try = week
        if models.wins(week, serves, labelled):
            weeks.append(week)
        else:
            dropped += 1
    return weeks, dropped


def hindsight(models: Models, times: int) -> list[int]:
    """The weeks of so many retrainings that come to the least loss, which nobody knew."""
    spans = np.full((WEEKS, WEEKS + 1), np.inf)
    for model in range(WEEKS):
        spans[model, model + 1 :] = np.cumsum(models.loss[model, model:])

    @cache
    def best(model: int, left: int) -> tuple[float, tuple[int, ...]]:
        found = (float(spans[model, WEEKS]), tuple[int, ...]())
        for week in range(model + 1, WEEKS) if left else ():
            rest, weeks = best(week, left - 1)
            found = min(found, (float(spans[model, week]) + rest, (week, *weeks)))
        return found

    return list(best(0, times)[1])


def mean_loss(models: Models, weeks: list[int]) -> float:
    serves = [max([0, *(one for one in weeks if one <= week)]) for week in range(WEEKS)]
    return float(models.loss[serves, range(WEEKS)].mean())


def lines(models: Models) -> Iterator[tuple[str, ...]]:
    yield "never", "0", "", f"{mean_loss(models, []):.4f}", ""
    for every in CALENDARS:
        found = calendar(models, every)
        some = f"{min(found):.4f} to {max(found):.4f}" if every > 1 else ""
        yield f"every {every} weeks" if every > 1 else "every week", str((WEEKS - 1) // every), "", f"{np.mean(found):.4f}", some
    months = [week for week in range(1, WEEKS) if is_month_over(FIRST + week * WEEK)]
    yield "as each month ends", str(len(months)), "", f"{mean_loss(models, months):.4f}", "as in benchmarks.year"
    for pauses in PAUSES:
        weeks, dropped = rule(models, *pauses)
        name = f"the rule, {pauses[0]} weeks after a promotion, {pauses[1]} after a try"
        own = "as in benchmarks.year" if pauses == (PROMOTED // WEEK, TRIED // WEEK) else ""
        yield name, str(len(weeks)), str(dropped), f"{mean_loss(models, weeks):.4f}", own
    for times in (1, 2, 4, 8):
        weeks = hindsight(models, times)
        yield "in hindsight", str(times), "", f"{mean_loss(models, weeks):.4f}", "in weeks " + ", ".join(map(str, weeks))


def main() -> None:
    """Needs what the development environment has, and some ten minutes on two cores."""
    argparse.ArgumentParser(prog="python -m benchmarks.schedules", description=__doc__).parse_args()
    with TemporaryDirectory() as folder:
        models = Models(read_year(Path(folder)), Params.load(ROOT / "params.yaml"))
    shown = Table(box=None, header_style="dim")
    for name in ("retrained", "times", "dropped", "log loss", ""):
        shown.add_column(name, justify="left" if name in ("retrained", "") else "right")
    for line in lines(models):
        shown.add_row(*line)
    Console(width=130).print(shown)


if __name__ == "__main__":
    main()

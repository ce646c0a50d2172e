"""evidently's own report of a window, from samples: the rows of the log or a table beside the test part of the workspace."""

import warnings
from pathlib import Path

import pandas as pd

from tasks.core.errors import DataError
from tasks.core.tally import Kind
from tasks.stage import replacing

SAMPLE = 20_000  # rows on either side: the page holds what it draws


def write_evidently(before: pd.DataFrame, now: pd.DataFrame, kinds: dict[str, Kind], page: Path) -> None:
    """`page` is evidently's HTML, which opens offline; columns without any value, which it refuses, are left out.

    DataError when there is nothing to compare.
    """
    there = [name for name in kinds if name in now and name in before and now[name].notna().any() and before[name].notna().any()]
    if not there or before.empty or now.empty:
        raise DataError("evidently has nothing to compare: no column has values both in the window and in the test part")
    numbers, words = ([name for name in there if kinds[name] == kind] for kind in ("number", "category"))
    with warnings.catch_warnings(), replacing(page) as aside:
        warnings.simplefilter("ignore")  # its libraries' about one another, and SciPy's about empty cells
        from evidently import DataDefinition, Dataset, Report  # six seconds that nobody else needs
        from evidently.presets import DataDriftPreset

        definition = DataDefinition(numerical_columns=numbers, categorical_columns=words)
        sides = [Dataset.from_pandas(_sampled(frame[[*numbers, *words]]), data_definition=definition) for frame in (now, before)]
        Report([DataDriftPreset()]).run(*sides).save_html(str(aside))


def _sampled(frame: pd.DataFrame) -> pd.DataFrame:
    return frame if len(frame) <= SAMPLE else frame.sample(SAMPLE, random_state=0)

"""What live rows are held against: the rows of the test part that a release was measured on, counted in cells."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.encoder import Encoder, Words
from tasks.core.quality import Quality, observe
from tasks.core.tally import RANGE_ROWS, Cells, Kind, Tally, Teller, cells_from_json, cells_to_json, fit_number, fit_words
from tasks.core.target import Target, as_text

FORMAT = 1
Columns = Mapping[str, NDArray[np.float64] | Words]


@dataclass(frozen=True)
class Reference:
    """How columns and scores are counted, how those of the test part were, what came, and the quality of the answers: of all rows
    under "", and of each slice "carrier=AA" that has enough of them. The truth of a regression is counted in cells too."""

    target: Target
    cells: dict[str, Cells]
    score_cells: dict[str, Cells]
    truth_cells: Cells | None
    tally: Tally
    truth: NDArray[np.int64]
    quality: dict[str, Quality]

    @property
    def slices(self) -> dict[str, list[str]]:
        """The values of each column that is sliced by."""
        found: dict[str, list[str]] = {}
        for name in self.quality:
            column, equals, value = name.partition("=")
            if equals:
                found.setdefault(column, []).append(value)
        return found

    def teller(self) -> Teller:
        return Teller(self.cells, self.score_cells)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "target": self.target.to_json(),
            "cells": {name: cells_to_json(one) for name, one in self.cells.items()},
            "score_cells": {name: cells_to_json(one) for name, one in self.score_cells.items()},
            "truth_cells": cells_to_json(self.truth_cells) if self.truth_cells else None,
            "tally": self.tally.to_json(),
            "truth": self.truth.tolist(),
            "quality": {name: one.to_json() for name, one in self.quality.items()},
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Reference":
        """ValueError, TypeError, IndexError or KeyError for what `to_json` did not write."""
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']!r}; expected {FORMAT}")
        target = Target.from_json(document["target"])
        return cls(
            target,
            {name: cells_from_json(one) for name, one in document["cells"].items()},
            {name: cells_from_json(one) for name, one in document["score_cells"].items()},
            cells_from_json(document["truth_cells"]) if document["truth_cells"] else None,
            Tally.from_json(document["tally"]),
            np.array(document["truth"], np.int64),
            {name: Quality.from_json(one, target) for name, one in document["quality"].items()},
        )


def kinds(encoder: Encoder) -> dict[str, Kind]:
    """How each column is counted; images are not, since a log holds their hashes alone."""
    return {
        **{column.name: "number" for column in encoder.numbers},
        **{column.name: "date" for column in encoder.dates},
        **{column.name: "category" for column in encoder.categories},
        **{column.name: "text" for column in encoder.texts},
    }


def told_columns(target: Target, told: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Answers [row] or [row, class] by class, a single one without a name."""
    if target.task != "multiclass":
        return {"": np.asarray(told, np.float64)}
    return {as_text(label): np.ascontiguousarray(column) for label, column in zip(target.classes, told.T, strict=True)}


def truth_cells_of(target: Target, truth: NDArray[Any]) -> Cells | None:
    """The cells that a number which came is counted in; None of classes, which are counted each."""
    return fit_number(np.asarray(truth, np.float64)) if target.task == "regression" else None


def fit_reference(
    target: Target,
    kinds: Mapping[str, Kind],
    columns: Columns,
    truth: NDArray[Any],
    told: NDArray[np.float64],
    slices: Mapping[str, NDArray[np.bool_]],
) -> Reference:
    """The reference of these rows: raw columns (of a date only NaN or not counts, of a text its characters), class codes or
    numbers that came, the answers to them, and which rows each slice has."""
    cells: dict[str, Cells] = {}
    strange: dict[str, int] = {}
    for name, kind in kinds.items():
        values = columns[name]
        if isinstance(values, Words):
            cells[name], strange[name] = fit_words(values)
        else:
            cells[name] = Cells(kind) if kind == "date" else fit_number(values, kind)
            strange[name] = 0 if kind == "date" else RANGE_ROWS
    scores = told_columns(target, told)
    score_cells = {label: fit_number(values) for label, values in scores.items()}
    tally = Teller(cells, score_cells).count(len(truth), {name: columns[name] for name in kinds}, scores)
    for name, count in tally.columns.items():
        count.strange = strange[name]
        count.new.clear()
    truth_cells = truth_cells_of(target, truth)
    quality = {"": observe(target, truth, told)}
    quality |= {name: observe(target, truth[own], told[own]) for name, own in slices.items()}
    return Reference(target, cells, score_cells, truth_cells, tally, count_truth(target, truth_cells, truth), quality)


def count_truth(target: Target, cells: Cells | None, truth: NDArray[Any]) -> NDArray[np.int64]:
    """Rows by class, or by cell of a number."""
    if cells is None:
        return np.bincount(np.asarray(truth, np.int64), minlength=len(target.classes)).astype(np.int64)
    places = np.searchsorted(np.asarray(cells.edges), np.asarray(truth, np.float64), side="left")
    return np.bincount(places, minlength=len(cells.edges) + 1).astype(np.int64)

"""Rows counted in cells: what a release remembers of the rows it was tested on, and what a window of live rows is counted by."""

import math
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.core.encoder import Words
from tasks.core.target import as_tuples

Kind = Literal["number", "category", "text", "date"]

CELLS = 20  # of a number: as many rows of the reference in each as ties allow
WHOLE = 40  # distinct values up to which each has a cell of its own
NAMED = 30  # words that have one, the most frequent; the others share BUCKETS by their hash
BUCKETS = 8
LEAST_ROWS = 5  # of a word that is remembered: a bundle travels further than the data may
MOST_WORDS = 20_000  # of a column
MOST_NEW = 5_000  # words never seen before that are counted at a time
RANGE_ROWS = 2  # rows in m + 1 that lie beyond the ends of m others, drawn alike


@dataclass(frozen=True)
class Cells:
    """How a column's values are counted.

    Of a number (the characters of a text, a score) cell i holds values above edge i - 1 and up to edge i, the last all above the
    last edge; `low` and `high` are its ends. Of a category each of `words` has a cell, then come the buckets of `others`. A date
    moves on with time: only whether it is there is counted.
    """

    kind: Kind
    edges: tuple[float, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    words: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        if self.kind == "category":
            return len(self.words) + (BUCKETS if self.others else 0)
        return len(self.edges) + 1

    def rows(self, count: "Count") -> int:
        """The rows that were counted; of a category those with a new word stand in no cell."""
        return count.present + count.missing + (count.strange if self.kind == "category" else 0)

    @property
    def names(self) -> list[str]:
        """A name for each cell, for people."""
        if self.kind == "category":
            return [*self.words, *([f"others {i + 1}" for i in range(BUCKETS)] if self.others else [])]
        ends = [f"{edge:.4g}" for edge in self.edges]
        if not ends:
            return ["any"]
        return [f"up to {ends[0]}", *(f"{a} to {b}" for a, b in pairwise(ends)), f"above {ends[-1]}"]


@dataclass
class Count:
    """What was counted of a column: rows without a value, rows with one that the reference does not know (a new word, a number
    beyond its ends), rows by cell, the moments of a number, and the new words."""

    cells: NDArray[np.int64]
    missing: int = 0
    strange: int = 0
    total: float = 0.0
    squares: float = 0.0
    new: Counter[str] = field(default_factory=Counter)

    @property
    def present(self) -> int:
        """Rows in a cell: all with a value, but for those with a new word."""
        return int(self.cells.sum())

    def mean(self) -> float:
        return self.total / max(self.present, 1)

    def spread(self) -> float:
        """The standard deviation."""
        rows = max(self.present, 1)
        return math.sqrt(max(self.squares / rows - (self.total / rows) ** 2, 0.0))

    def add(self, other: "Count") -> None:
        self.cells = self.cells + other.cells
        self.missing += other.missing
        self.strange += other.strange
        self.total += other.total
        self.squares += other.squares
        self.new.update(other.new)
        _forget_rare(self.new)

    def to_json(self) -> dict[str, Any]:
        document = {key: getattr(self, key) for key in ("missing", "strange", "total", "squares")}
        return {**document, "cells": self.cells.tolist(), "new": dict(self.new.most_common(5))}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Count":
        """TypeError, ValueError or KeyError for what `to_json` did not write."""
        plain = {key: document[key] for key in ("missing", "strange", "total", "squares")}
        return cls(np.array(document["cells"], np.int64), **plain, new=Counter(document["new"]))


class ColumnCounter:
    """Counts a column's values by its cells; made once for many batches."""

    def __init__(self, cells: Cells) -> None:
        self.cells = cells
        self.edges = np.asarray(cells.edges, np.float64)
        self.places = {word: i for i, word in enumerate(cells.words)}
        self.places |= {word: len(cells.words) + zlib.crc32(word.encode()) % BUCKETS for word in cells.others}

    def __call__(self, values: NDArray[np.float64] | Words) -> Count:
        if isinstance(values, Words):
            return self._words(values)
        missing = np.isnan(values)
        gaps = int(missing.sum())
        there = values[~missing] if gaps else values
        if self.cells.kind == "date":
            return Count(np.array([len(there)], np.int64), gaps)
        if not len(self.edges):
            found = np.array([len(there)], np.int64)
        else:
            found = np.bincount(np.searchsorted(self.edges, there, side="left"), minlength=len(self.edges) + 1).astype(np.int64)
        beyond = int((there < self.cells.low).sum() + (there > self.cells.high).sum())
        finite = there[np.isfinite(there)] if not np.isfinite(there).all() else there
        return Count(found, gaps, beyond, float(finite.sum()), float(finite @ finite))

    def _words(self, values: Words) -> Count:
        rows = np.bincount(values.places, minlength=len(values.distinct))
        found, missing, new = np.zeros(self.cells.count, np.int64), 0, Counter[str]()
        for word, count in zip(values.distinct, rows.tolist(), strict=True):
            if not word:
                missing += count
            elif (place := self.places.get(word)) is not None:
                found[place] += count
            elif count:
                new[word] += count
        strange = sum(new.values())
        _forget_rare(new)
        return Count(found, missing, strange, new=new)


def _forget_rare(counts: Counter[str]) -> None:
    """Counting stays bounded: the rarest are forgotten when there are too many (Manku and Motwani 2002, lossy counting)."""
    least = 0
    while len(counts) > MOST_NEW:
        least += 1
        for word in [word for word, count in counts.items() if count <= least]:
            del counts[word]


def fit_number(values: NDArray[np.float64], kind: Kind = "number") -> Cells:
    """Cells of as many rows each as ties allow, or one for each of a few distinct values; NaN is no value."""
    there = values[np.isfinite(values)]
    if not len(there):
        return Cells(kind)
    distinct = np.unique(there)
    if len(distinct) > WHOLE:
        distinct = np.unique(np.quantile(there, np.linspace(0, 1, CELLS + 1)[1:], method="inverted_cdf"))
    return Cells(kind, tuple(map(float, distinct[:-1])), float(there.min()), float(there.max()))


def fit_words(values: Words) -> tuple[Cells, int]:
    """Cells of the words that stand in enough rows, and the rows that another sample as large would have of words beside these.

    That is the rows of all words that stand in at most as many rows as the rarest that is remembered (Good 1953, Biometrika 40:
    what was seen r times stands for what will be seen with the odds of r + 1).
    """
    rows = np.bincount(values.places, minlength=len(values.distinct)).tolist()
    counts = {word: count for word, count in zip(values.distinct, rows, strict=True) if word and count}
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    least = LEAST_ROWS
    if len(ordered) > MOST_WORDS:
        least = max(least, counts[ordered[MOST_WORDS]] + 1)
    known = [word for word in ordered if counts[word] >= least]
    strange = sum(count for count in counts.values() if count <= least)
    return Cells("category", words=tuple(known[:NAMED]), others=tuple(known[NAMED:])), strange


@dataclass
class Tally:
    """Rows counted by column, and their scores by class (a single one has no name)."""

    rows: int
    columns: dict[str, Count]
    scores: dict[str, Count]

    def add(self, other: "Tally") -> None:
        """What was counted of other rows counts here too."""
        self.rows += other.rows
        for mine, theirs in ((self.columns, other.columns), (self.scores, other.scores)):
            for name, count in theirs.items():
                if name in mine:
                    mine[name].add(count)
                else:  # files may differ in their columns
                    mine[name] = count

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "columns": {name: count.to_json() for name, count in self.columns.items()},
            "scores": {name: count.to_json() for name, count in self.scores.items()},
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Tally":
        """TypeError, ValueError or KeyError for what `to_json` did not write."""
        parts = {key: {name: Count.from_json(one) for name, one in document[key].items()} for key in ("columns", "scores")}
        return cls(document["rows"], **parts)


class Teller:
    """Counts batches of rows by the same cells, column by column; columns that a batch lacks are left out of its tally."""

    def __init__(self, columns: Mapping[str, Cells], scores: Mapping[str, Cells]) -> None:
        self.columns = {name: ColumnCounter(cells) for name, cells in columns.items()}
        self.scores = {name: ColumnCounter(cells) for name, cells in scores.items()}

    def count(
        self, rows: int, columns: Mapping[str, NDArray[np.float64] | Words], scores: Mapping[str, NDArray[np.float64]]
    ) -> Tally:
        return Tally(
            rows,
            {name: self.columns[name](values) for name, values in columns.items()},
            {name: self.scores[name](values) for name, values in scores.items()},
        )


def cells_to_json(cells: Cells) -> dict[str, Any]:
    """The cells, without the ends of what has none."""
    return {
        key: value for key, value in asdict(cells).items() if not (isinstance(value, float) and math.isinf(value)) and value != ()
    }


def cells_from_json(document: Mapping[str, Any]) -> Cells:
    """TypeError for what `cells_to_json` did not write."""
    return Cells(**as_tuples(document))


def shares(counts: Sequence[int] | NDArray[np.int64]) -> list[float]:
    """Each count's share of all, zeros of nothing."""
    total = max(int(sum(counts)), 1)
    return [int(count) / total for count in counts]

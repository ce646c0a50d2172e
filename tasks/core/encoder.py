"""The encoder: raw columns in, the network's two input arrays out; NumPy only, so that serving needs nothing else."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNKNOWN = 0  # the code of a category that is missing, rare or never seen in training


@dataclass(frozen=True)
class NumberColumn:
    """A number: `edges` are its distinct training quantiles, `flagged` says whether a missing value has its own input."""

    name: str
    required: bool
    flagged: bool
    edges: tuple[float, ...]


@dataclass(frozen=True)
class CategoryColumn:
    """A category: code 0 is unknown, code i + 1 is `vocabulary[i]`."""

    name: str
    required: bool
    vocabulary: tuple[str, ...]


@dataclass(frozen=True)
class Encoder:
    """What training fitted and serving repeats: one JSON document, executed here and in `encoder_graph`."""

    numbers: tuple[NumberColumn, ...]
    categories: tuple[CategoryColumn, ...]

    @property
    def names(self) -> list[str]:
        """Every raw column, in the order in which it is encoded."""
        return [*(column.name for column in self.numbers), *(column.name for column in self.categories)]

    @property
    def width(self) -> int:
        """Columns of the `num` array: a position for each number, then a flag for each flagged one."""
        return len(self.numbers) + sum(column.flagged for column in self.numbers)

    @property
    def sizes(self) -> tuple[int, int, tuple[int, ...]]:
        """Numbers, flags, and the codes of each category, unknown included."""
        numbers = len(self.numbers)
        return numbers, self.width - numbers, tuple(len(column.vocabulary) + 1 for column in self.categories)

    def encode(self, columns: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """`num`: float32 [row, width] in [-1, 1]; `cat`: int32 [row, category]. A missing value is NaN or None."""
        rows = len(next(iter(columns.values())))
        num = np.zeros((rows, self.width), np.float32)
        flag = len(self.numbers)
        for i, number in enumerate(self.numbers):
            value = np.asarray(columns[number.name], np.float64)
            missing = np.isnan(value)
            num[:, i] = np.where(missing, 0.0, position(value, self._edges[i]))
            if number.flagged:
                num[:, flag] = missing
                flag += 1
        cat = np.zeros((rows, len(self.categories)), np.int32)
        for j, category in enumerate(self.categories):
            codes = self._codes[j]
            cat[:, j] = [codes.get(word, UNKNOWN) for word in columns[category.name]]
        return {"num": num, "cat": cat}

    @cached_property
    def _edges(self) -> list[NDArray[np.float64]]:
        return [np.asarray(column.edges) for column in self.numbers]

    @cached_property
    def _codes(self) -> list[dict[str, int]]:
        return [{word: code for code, word in enumerate(column.vocabulary, start=1)} for column in self.categories]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Encoder":
        """The encoder that `to_json` described; TypeError or KeyError when the document is not one."""
        return cls(
            tuple(NumberColumn(**{**column, "edges": tuple(column["edges"])}) for column in document["numbers"]),
            tuple(CategoryColumn(**{**column, "vocabulary": tuple(column["vocabulary"])}) for column in document["categories"]),
        )


def position(value: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where each value stands among the training quantiles, in [-1, 1]; a column of one single value gives 0.

    Quantiles make the input uniform, so outliers do not matter and int8 keeps as much of it as 256 levels can.
    """
    if len(edges) < 2:
        return np.zeros(len(value))
    low = np.clip(np.searchsorted(edges, value, side="right") - 1, 0, len(edges) - 2)
    share = np.clip((value - edges[low]) / (edges[low + 1] - edges[low]), 0.0, 1.0)
    placed: NDArray[np.float64] = (low + share) / (len(edges) - 1) * 2.0 - 1.0
    return placed


def fit_encoder(
    columns: Mapping[str, NDArray[Any]],
    *,
    numbers: Sequence[str],
    categories: Sequence[str],
    required: frozenset[str],
    bins: int,
    min_count: int,
) -> Encoder:
    """Fit on training rows alone: quantiles of each number, words of each category that stand in `min_count` rows or more."""
    return Encoder(
        tuple(_fit_number(name, np.asarray(columns[name], np.float64), name in required, bins) for name in numbers),
        tuple(_fit_category(name, columns[name], name in required, min_count) for name in categories),
    )


def _fit_number(name: str, value: NDArray[np.float64], required: bool, bins: int) -> NumberColumn:
    known = value[np.isfinite(value)]
    edges = np.unique(np.quantile(known, np.linspace(0.0, 1.0, bins + 1))) if len(known) else np.zeros(1)
    return NumberColumn(name, required, bool(np.isnan(value).any()), tuple(edges.tolist()))


def _fit_category(name: str, words: NDArray[Any], required: bool, min_count: int) -> CategoryColumn:
    # "" is how a graph of strings says missing: it has no code of its own, in either executor.
    counts = Counter(word for word in words if word)
    return CategoryColumn(name, required, tuple(sorted(word for word, count in counts.items() if count >= min_count)))

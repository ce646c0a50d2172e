"""Columns that tell too much: alone they predict the target almost without error, or they repeat another column."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.core.target import Task

BOUNDS: Mapping[Task, float] = {"binary": 0.98, "multiclass": 0.95, "regression": 0.98}
MEASURES: Mapping[Task, str] = {"binary": "AUC", "multiclass": "share of the avoidable errors avoided", "regression": "R2"}
LEAST_ROWS = 100  # with fewer a column is that good by chance
BINS = 64
PRIOR = 2.0  # rows that each value is thought to have at the average


def find_leaks(sample: pd.DataFrame, target: str, task: Task) -> dict[str, float]:
    """Columns whose power alone reaches the task's bound, with it: measured on rows that it was not learned from."""
    known = sample[sample[target].notna()].reset_index(drop=True)
    if len(known) < LEAST_ROWS:
        return {}
    wanted = known[target].to_numpy(np.float64) if task == "regression" else pd.factorize(known[target].astype(str))[0]
    powers = {str(name): power(known[name], wanted, task) for name in known if name != target}
    return {name: value for name, value in powers.items() if value >= BOUNDS[task]}


def power(feature: pd.Series, wanted: NDArray[Any], task: Task) -> float:
    """How well the feature's value alone predicts, on every second row: AUC, share of errors avoided, or R2."""
    codes = _codes(feature)
    learn = np.arange(len(codes)) % 2 == 0
    match task:
        case "binary":
            return _auc(_means(codes, wanted.astype(float), learn), wanted[~learn])
        case "multiclass":
            votes = np.stack([_means(codes, (wanted == label).astype(float), learn) for label in np.unique(wanted)])
            wrong, lazy = np.mean(votes.argmax(axis=0) != wanted[~learn]), 1 - np.bincount(wanted[~learn]).max() / (~learn).sum()
            return float(1 - wrong / lazy) if lazy else 0.0
        case "regression":
            binned = _explained(_means(codes, wanted, learn), wanted[~learn])
            return max(binned, _straight(feature, wanted))


def find_copies(sample: pd.DataFrame) -> dict[str, str]:
    """Columns that equal an earlier one in every row of the sample, with that one's name."""
    seen: dict[int, list[str]] = {}
    copies = {}
    for name in map(str, sample):
        values = sample[name]
        key = hash(tuple(pd.util.hash_pandas_object(values, index=False)))
        if first := next((other for other in seen.get(key, []) if sample[other].equals(values)), None):
            copies[name] = first
        else:
            seen.setdefault(key, []).append(name)
    return copies


def _codes(feature: pd.Series) -> NDArray[np.int64]:
    """A small whole number for each value, or for each of a number's quantiles; missing is a value too."""
    if pd.api.types.is_datetime64_any_dtype(feature):
        feature = feature.astype("int64")
    if pd.api.types.is_numeric_dtype(feature) and not pd.api.types.is_bool_dtype(feature) and feature.nunique() > BINS:
        values = feature.to_numpy(np.float64)
        known = values[np.isfinite(values)]
        edges = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)))
        binned: NDArray[np.int64] = np.where(np.isfinite(values), np.searchsorted(edges, values), len(edges) + 1)
        return binned
    codes: NDArray[np.int64] = pd.factorize(feature)[0] + 1
    return codes


def _means(codes: NDArray[np.int64], wanted: NDArray[np.float64], learn: NDArray[np.bool_]) -> NDArray[np.float64]:
    """For each row that does not learn, the mean of what is wanted where the learning rows have its value."""
    size = int(codes.max()) + 1
    rows = np.bincount(codes[learn], minlength=size)
    sums = np.bincount(codes[learn], weights=wanted[learn], minlength=size)
    means: NDArray[np.float64] = ((sums + PRIOR * wanted[learn].mean()) / (rows + PRIOR))[codes[~learn]]
    return means


def _auc(score: NDArray[np.float64], positive: NDArray[Any]) -> float:
    ones = int(positive.sum())
    if not 0 < ones < len(positive):
        return 0.0
    ranks = pd.Series(score).rank().to_numpy()
    value = (ranks[positive == 1].sum() - ones * (ones + 1) / 2) / (ones * (len(positive) - ones))
    return float(max(value, 1 - value))


def _explained(predicted: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    spread = float(((wanted - wanted.mean()) ** 2).sum())
    return 1 - float(((wanted - predicted) ** 2).sum()) / spread if spread else 0.0


def _straight(feature: pd.Series, wanted: NDArray[np.float64]) -> float:
    """R2 of a straight line, which bins are too coarse to see."""
    if not pd.api.types.is_numeric_dtype(feature) or pd.api.types.is_bool_dtype(feature):
        return 0.0
    values = feature.to_numpy(np.float64)
    known = np.isfinite(values) & np.isfinite(wanted)
    if known.sum() < LEAST_ROWS or not values[known].std() or not wanted[known].std():
        return 0.0
    return float(np.corrcoef(values[known], wanted[known])[0, 1] ** 2)

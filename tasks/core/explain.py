"""Explanations: what each column adds to the answer to one row, against rows that stand for all; NumPy only, as in serving."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.encoder import RESERVED, Encoder

Places = Mapping[str, Mapping[str, list[int]]]  # of each raw column, by array


@dataclass(frozen=True)
class Explanation:
    """`base` is the mean answer to the background; with all contributions it makes exactly the `answer`."""

    base: float
    answer: float
    contributions: dict[str, float]


def explain(
    answer: Callable[[Mapping[str, NDArray[Any]]], NDArray[np.float64]],
    row: Mapping[str, NDArray[Any]],
    background: Mapping[str, NDArray[Any]],
    places: Places,
    seed: int,
) -> Explanation:
    """Shapley values of the columns of one encoded row, by sampling.

    For each row of the background the columns are replaced one by one in a random order, and in that order backwards, by those
    of `row`; a column's value is the mean change of the answer (Strumbelj and Kononenko 2014; Lundberg and Lee 2017, arXiv
    1705.07874; both directions: Mitchell et al. 2022, arXiv 2104.12199). Each order starts at the background's row and ends at
    the row, so the sum is exact however few orders there are.
    """
    names = list(places)
    width, rows = len(names), len(next(iter(background.values())))
    half = np.random.default_rng(seed).permuted(np.tile(np.arange(width), (rows, 1)), axis=1)
    orders = np.stack([half, half[:, ::-1]], axis=1)  # [background, direction, step]
    turn = np.argsort(orders, axis=2)  # when each column is replaced
    # One row for each background row, direction and number of columns replaced so far, none to all of them.
    replaced = turn[:, :, None, :] < np.arange(width + 1)[None, None, :, None]
    taken = replaced.reshape(-1, width)
    inputs = {name: np.repeat(array, 2 * (width + 1), axis=0) for name, array in background.items()}
    for column, name in enumerate(names):
        for array, own in places[name].items():
            chosen = np.ix_(np.flatnonzero(taken[:, column]), np.asarray(own))
            inputs[array][chosen] = np.broadcast_to(row[array][0, own], inputs[array][chosen].shape)
    answers = np.asarray(answer(inputs), np.float64).reshape(rows, 2, width + 1)
    steps = np.diff(answers, axis=2)
    added = np.zeros(width)
    np.add.at(added, orders.ravel(), steps.ravel())
    base, told = float(answers[:, :, 0].mean()), float(answers[0, 0, -1])
    return Explanation(base, told, dict(zip(names, (added / (2 * rows)).tolist(), strict=True)))


def make_background(encoder: Encoder, inputs: Mapping[str, NDArray[Any]], rows: int, seed: int) -> dict[str, NDArray[Any]]:
    """So many made-up rows that together have each column's distribution over the encoded rows, and none of its ties to others.

    No value of a person is in them: a number or date is one of the encoder's quantiles, a category a word of the encoder's
    vocabulary in its frequency, and a text is absent.
    """
    random = np.random.default_rng(seed)
    shares = (np.arange(rows) + 0.5) / rows
    columns = encoder.columns([{}] * rows)
    flag = len(encoder.scaled)
    for i, column in enumerate(encoder.scaled):
        positions = np.asarray(inputs["num"][:, i], np.float64)
        missing = np.zeros(len(positions), bool)
        if column.flagged:
            missing = np.asarray(inputs["num"][:, flag]) > 0
            flag += 1
        edges = np.asarray(column.edges)
        known = positions[~missing]
        picked = np.full(rows, np.nan)
        present = round(rows * (1 - float(missing.mean())))
        if present and len(known):
            places = (np.quantile(known, (np.arange(present) + 0.5) / present) + 1) / 2 * (len(edges) - 1)
            picked[:present] = edges[np.clip(np.rint(places).astype(int), 0, len(edges) - 1)]
        columns[column.name] = random.permutation(picked)
    made = encoder.encode(columns)
    for j, category in enumerate(encoder.categories):
        counts = np.bincount(np.asarray(inputs["cat"][:, j], np.int64), minlength=len(category.vocabulary) + RESERVED)
        codes = np.searchsorted(np.cumsum(counts) / counts.sum(), shares, side="right")
        made["cat"][:, j] = random.permutation(np.minimum(codes, len(counts) - 1))
    return made

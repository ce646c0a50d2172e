"""Explanations: what each column adds to the answer to one row, against rows that stand for all; NumPy only, as in serving."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.encoder import RESERVED, Encoder, Places, Words

MOST_BYTES = 32_000_000  # of rows in memory at once


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
    width, rows = len(places), len(next(iter(background.values())))
    half = np.random.default_rng(seed).permuted(np.tile(np.arange(width), (rows, 1)), axis=1)
    orders = np.stack([half, half[:, ::-1]], axis=1)  # [background, direction, step]
    turn = np.argsort(orders, axis=2)  # when each column is replaced
    # Which columns are replaced [background, direction, number of them so far, column].
    replaced = turn[:, :, None, :] < np.arange(width + 1)[None, None, :, None]
    size = sum(array[0].nbytes for array in background.values()) * 2 * (width + 1)
    some = max(1, MOST_BYTES // size)  # rows of the background at once
    answers = np.concatenate(
        [answer(mix(row, background, slice(i, i + some), replaced[i : i + some], places)) for i in range(0, rows, some)]
    ).reshape(rows, 2, width + 1)
    added = np.zeros(width)
    np.add.at(added, orders.ravel(), np.diff(answers, axis=2).ravel())
    base, told = float(answers[:, :, 0].mean()), float(answers[0, 0, -1])
    return Explanation(base, told, dict(zip(places, (added / (2 * rows)).tolist(), strict=True)))


def mix(
    row: Mapping[str, NDArray[Any]],
    background: Mapping[str, NDArray[Any]],
    some: slice,
    replaced: NDArray[np.bool_],
    places: Places,
) -> dict[str, NDArray[Any]]:
    """Some rows of the background, each so often as `replaced` has lines for it, with those columns as `row` has them."""
    taken = replaced.reshape(-1, len(places))
    times = replaced.shape[1] * replaced.shape[2]
    inputs = {name: np.repeat(array[some], times, axis=0) for name, array in background.items()}
    for column, own in enumerate(places.values()):
        for array, columns in own.items():
            inputs[array][np.ix_(np.flatnonzero(taken[:, column]), np.asarray(columns))] = row[array][0, columns]
    return inputs


def make_background(encoder: Encoder, inputs: Mapping[str, NDArray[Any]], rows: int, seed: int) -> dict[str, NDArray[Any]]:
    """So many made-up rows that together have each column's distribution over the encoded rows, and none of its ties to others.

    No value of a person is in them: a number or date is one of the encoder's quantiles, a category a word of the encoder's
    vocabulary in its frequency, a text is absent and an image black.
    """
    random = np.random.default_rng(seed)
    shares = (np.arange(rows) + 0.5) / rows
    columns: dict[str, NDArray[Any] | Words] = {c.name: Words([None], np.zeros(rows, np.int64)) for c in encoder.worded}
    columns |= {c.name: np.zeros((rows, c.height, c.width, c.channels), np.uint8) for c in encoder.images}
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

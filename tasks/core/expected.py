"""What a service can expect of its rows and answers: how answers lay on the test part, and what rows of training lacked."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.encoder import MISSING, OTHER, Encoder
from tasks.core.target import Target, as_text, as_tuples

SHARES = tuple(i / 10 for i in range(1, 10))
SPREADS = (-3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0)  # of a regression's answers, around its training mean
RARE = 0.01


@dataclass(frozen=True)
class Expected:
    """By column the share of `trained` rows without a value, or with a word that is not known, and of each class (a single one has
    no name) the share of `tested` rows whose answer lies in each bucket: up to each of `edges`, and beyond the last."""

    edges: tuple[float, ...]
    tested: int
    scores: Mapping[str, tuple[float, ...]]
    trained: int
    missing: Mapping[str, float]
    unknown: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any], encoder: Encoder) -> "Expected":
        """ValueError, TypeError or KeyError for what is none of this encoder's."""
        found = cls(**as_tuples(document))
        flagged, words = counted_columns(encoder)
        buckets = len(edges_of(encoder.target)) + 1
        if found.edges != edges_of(encoder.target) or set(found.scores) != set(labels_of(encoder.target)):
            raise ValueError("its scores are counted in other buckets or classes")
        if set(found.missing) != {*flagged, *words} or set(found.unknown) != set(words):
            raise ValueError("its columns are not those of the encoder")
        shares = [*found.missing.values(), *found.unknown.values(), *(one for some in found.scores.values() for one in some)]
        if any(len(some) != buckets for some in found.scores.values()) or not all(0 <= one <= 1 for one in shares):
            raise ValueError("its shares are none")
        if found.tested < 1 or found.trained < 1:
            raise ValueError("it was made of no rows")
        return found


def expect(encoder: Encoder, scores: NDArray[Any], training: Iterable[Mapping[str, NDArray[Any]]]) -> Expected:
    """Of the network's scores of the test part, and of the training part's `num` and `cat`, block by block."""
    flagged, words = counted_columns(encoder)
    trained, empty, no_word, strange = 0, *(np.zeros(len(names), np.int64) for names in (flagged, words, words))
    for block in training:
        trained += len(block["num"])
        lacking = count_lacking(encoder, block["num"], block["cat"])
        empty, no_word, strange = empty + lacking[0], no_word + lacking[1], strange + lacking[2]
    edges, labels = edges_of(encoder.target), labels_of(encoder.target)
    places = np.searchsorted(edges, measure(encoder.target, scores), side="left")  # as Prometheus counts: up to and with the edge
    lie = {
        label: tuple((np.bincount(line, minlength=len(edges) + 1) / len(scores)).tolist())
        for label, line in zip(labels, places, strict=True)
    }
    missing = dict(zip((*flagged, *words), (np.concatenate((empty, no_word)) / trained).tolist(), strict=True))
    return Expected(edges, len(scores), lie, trained, missing, dict(zip(words, (strange / trained).tolist(), strict=True)))


def counted_columns(encoder: Encoder) -> tuple[list[str], list[str]]:
    """The numbers and dates that may be missing, and the categories, which may be unknown besides."""
    return [column.name for column in encoder.scaled if column.flagged], [column.name for column in encoder.categories]


def count_lacking(encoder: Encoder, num: NDArray[Any], cat: NDArray[Any]) -> tuple[NDArray[np.int64], ...]:
    """Of encoded rows how many lack each of the flagged columns, lack each category, and have a word that it does not know."""
    flagged, words = counted_columns(encoder)
    start = len(encoder.scaled)
    codes = cat[:, : len(words)]
    empty: NDArray[np.int64] = num[:, start : start + len(flagged)].sum(axis=0, dtype=np.int64)
    return empty, (codes == MISSING).sum(axis=0), (codes == OTHER).sum(axis=0)


def edges_of(target: Target) -> tuple[float, ...]:
    """The upper bounds of the buckets that answers are counted in, less the last, which has none."""
    return SPREADS if target.task == "regression" else SHARES


def labels_of(target: Target) -> list[str]:
    """The classes whose answers are counted each for itself; a single answer has no name."""
    return [as_text(label) for label in target.classes] if target.task == "multiclass" else [""]


def measure(target: Target, scores: NDArray[Any]) -> NDArray[np.float64]:
    """What is counted of scores [class, row]: probabilities, or numbers in standard deviations around the mean of training."""
    told = target.decode(scores)
    if target.task == "regression":
        told = (told - target.center) / target.scale
    return np.atleast_2d(told.T)


def distance(these: Sequence[float], those: Sequence[float]) -> float:
    """The largest gap between two cumulative distributions over the same buckets, 0 to 1.

    Kolmogorov and Smirnov's statistic of what was counted, at most that of the answers themselves.
    """
    return max(abs(one - other) for one, other in zip(_cumulated(these), _cumulated(those), strict=True))


def by_chance(rows: int, others: int, classes: int = 1) -> float:
    """What the largest distance of so many classes exceeds once in a hundred times, when nothing but chance is between the samples.

    That of the two-sample test for many rows (Smirnov 1948, Ann. Math. Statist. 19, 279-281); buckets only bring distances down.
    """
    return math.sqrt(-math.log(RARE / classes / 2) / 2) * math.sqrt(1 / rows + 1 / others)


def _cumulated(counts: Sequence[float]) -> Iterator[float]:
    total, so_far = sum(counts), 0.0
    for count in counts:
        so_far += count
        yield so_far / total

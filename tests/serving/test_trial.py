"""The rule of a canary: what it promotes, what it ends, and what it waits for."""

from typing import Any

import numpy as np
import pytest

from serving.trial import FEWEST, Comparison, Rule

RULE = Rule(requests=100, minutes=0, errors=0.02, latency=1.5, shift=0.1)


def compared(rule: Rule = RULE, *, rows: int = 200, moved: float = 0.0, slower: float = 1.0, failed: int = 0) -> Comparison:
    """A trial whose answers and times differ so from production's."""
    told, draw = Comparison(rule), np.random.default_rng(0)
    for score in draw.random((rows, 1)):
        told.answered(np.clip(score + moved, 0, 1), score, (2e-5 * slower, 2e-5))
    for _ in range(failed):
        told.failed()
    return told


@pytest.mark.parametrize(
    ("facts", "fate", "words"),
    [
        ({}, "promote", "200 requests in 0.0 minutes: 0 errors, p95 1.00 times production's, answers 0.000 apart"),
        ({"failed": 4}, "promote", "4 errors"),
        ({"failed": 5}, "end", "it could not answer 5 of 205 requests; at most 2.0% may fail"),
        ({"rows": 0, "failed": 3}, "end", "it could not answer 3 of 3 requests"),
        ({"slower": 1.6}, "end", "its p95 is 1.60 times that of production; at most 1.5"),
        ({"moved": 0.3}, "end", "its answers are 0.3"),
    ],
)
def test_verdict(facts: dict[str, Any], fate: str, words: str) -> None:
    found = compared(**facts).verdict()
    assert found is not None
    assert found[0] == fate
    assert words in found[1]


@pytest.mark.parametrize(
    "facts",
    [
        {"rows": 99},
        {"rows": FEWEST - 1, "moved": 0.5, "slower": 9.0},
        {"rows": 0, "failed": 2},
        {"rule": Rule(requests=100, minutes=1, errors=0.02, latency=1.5, shift=0.1)},
    ],
)
def test_no_verdict_yet(facts: dict[str, Any]) -> None:
    assert compared(**facts).verdict() is None

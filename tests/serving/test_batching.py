"""Requests that are scored together: each gets its own answer, and one that has none takes none from the others."""

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from serving.batching import Batcher, Scored
from serving.bundle import load_bundle
from serving.metrics import Metrics
from serving.models import Served
from serving.request import RequestError
from tests.conftest import apart
from tests.serving.stores import make_bundle, network, seal


@pytest.fixture(scope="module")
def brittle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that answers the square root of half a position, which of long distances is no number."""
    home = tmp_path_factory.mktemp("brittle")
    make_bundle(home / "bundle", network(home / "saved", brittle=True), lambda row: 0.5)
    golden = {"instances": [{"distance": 0.0}], "predictions": [1.5**0.5]}
    (home / "bundle/golden.json").write_text(json.dumps(golden))
    seal(home / "bundle")
    return home / "bundle"


def served(folder: Path) -> tuple[Served, Metrics]:
    metrics = Metrics()
    return Served(load_bundle(folder), metrics), metrics


def together(release: Served, requests: list[list[dict[str, Any]]]) -> list[Scored | Exception]:
    """What each of the requests, which come in one turn of the event loop, is told."""
    told: dict[int, Scored | Exception] = {}

    async def turn() -> None:
        batcher = Batcher()
        for i, rows in enumerate(requests):
            batcher.add(release, rows, partial(told.__setitem__, i))
        assert not told  # the turn is not over
        await asyncio.sleep(0)

    apart(turn())
    return [told[i] for i in range(len(requests))]


def test_each_request_gets_its_own_rows_answered(brittle: Path) -> None:
    release, metrics = served(brittle)
    requests = [[{"distance": 0.1 * i + 0.01 * j} for j in range(i % 3 + 1)] for i in range(40)]
    for rows, outcome in zip(requests, together(release, requests), strict=True):
        assert not isinstance(outcome, Exception)
        scores, answer = outcome
        assert scores.tolist() == release.bundle.network(release.bundle.encode(rows)).tolist()
        assert answer == release.bundle.respond(scores)
    text = metrics.text().decode()
    labels = f'model="flights",version="{release.version}"'
    assert f"tidemill_request_rows_count{{{labels}}} 40.0" in text
    assert f"tidemill_request_rows_sum{{{labels}}} {float(sum(map(len, requests)))}" in text


def test_request_without_an_answer_takes_none_from_the_others(brittle: Path) -> None:
    release, _ = served(brittle)
    first, second, third = together(release, [[{"distance": 1.0}], [{"distance": 9.0}], [{"distance": 2.0}]])
    assert not isinstance(first, Exception)
    assert not isinstance(third, Exception)
    assert first[1]["predictions"] == release.bundle.predict([{"distance": 1.0}])
    assert third[1]["predictions"] == release.bundle.predict([{"distance": 2.0}])
    assert isinstance(second, RequestError)
    assert (second.status, "answers what is no number" in second.detail) == (500, True)

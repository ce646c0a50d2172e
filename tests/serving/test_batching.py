"""Requests that are scored together: each gets its own answer, and one that has none takes none from the others."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from serving.batching import CROWD, MOST_ROWS, Batcher, is_crowded
from serving.bundle import load_bundle
from serving.metrics import Metrics
from serving.models import Model, Served
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


def served(folder: Path) -> tuple[Model, Served, Metrics]:
    metrics = Metrics()
    model = Model("flights", metrics)
    model.production = Served(load_bundle(folder), metrics)
    return model, model.production, metrics


def test_each_request_gets_its_own_rows_answered(brittle: Path) -> None:
    model, release, metrics = served(brittle)
    requests = [[{"distance": 0.1 * i + 0.01 * j} for j in range(i % 3 + 1)] for i in range(40)]

    async def together() -> list[Any]:
        batcher = Batcher(model)
        return await asyncio.gather(*(batcher.score(release, rows) for rows in requests))

    for rows, (scores, answer) in zip(requests, apart(together()), strict=True):
        assert scores.tolist() == release.bundle.network(release.bundle.encode(rows)).tolist()
        assert answer == release.bundle.respond(scores)
    text = metrics.text().decode()
    labels = f'model="flights",version="{release.version}"'
    assert f"tidemill_request_rows_count{{{labels}}} 40.0" in text
    assert f"tidemill_request_rows_sum{{{labels}}} {float(sum(map(len, requests)))}" in text


def test_request_without_an_answer_takes_none_from_the_others(brittle: Path) -> None:
    model, release, _ = served(brittle)

    async def together() -> list[Any]:
        batcher = Batcher(model)
        rows = ([{"distance": 1.0}], [{"distance": 9.0}], [{"distance": 2.0}])
        return await asyncio.gather(*(batcher.score(release, some) for some in rows), return_exceptions=True)

    first, second, third = apart(together())
    assert first[1]["predictions"] == release.bundle.predict([{"distance": 1.0}])
    assert third[1]["predictions"] == release.bundle.predict([{"distance": 2.0}])
    assert isinstance(second, RequestError)
    assert (second.status, "answers what is no number" in second.detail) == (500, True)


def test_who_joins_others(brittle: Path) -> None:
    model, _, _ = served(brittle)
    assert Batcher(model).takes([{}] * MOST_ROWS)
    assert not Batcher(model).takes([{}] * (MOST_ROWS + 1))
    assert is_crowded({"extensions": {CROWD: {1, 2}}})
    assert not is_crowded({"extensions": {CROWD: {1}}})
    assert not is_crowded({})

"""What the tests of APIs share: a local server, and waits that nobody waits for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.sources import paging, request
from tests.sources.api_server import Api, serving


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(request, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(paging, "REPEAT_PAUSES", (0.0, 0.01, 0.02))
    monkeypatch.setattr(paging, "DOUBT_SECONDS", 0.01)


@pytest.fixture
def server() -> Iterator[Api]:
    with serving() as api_:
        yield api_

"""Requests that come at once are scored in one call: of one row the network's call costs several times what the row itself does.

Nobody waits for others to come. What the event loop has read in one of its turns is parsed request by request, and scored together
at its end; a request that is alone is scored at once.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.types import Scope

from serving.models import BROKEN, Model, Served
from serving.request import RequestError

CROWD = "tidemill.crowd"  # the extension of an ASGI scope that holds the requests under way in this process
MOST_ROWS = 16  # of a request that joins others: more are worth a call of their own

Scored = tuple[NDArray[np.float32], dict[str, list[Any]]]  # scores and answers of a request's rows


def is_crowded(scope: Scope) -> bool:
    """Whether other requests are under way beside this one."""
    return len(scope.get("extensions", {}).get(CROWD, ())) > 1


class Batcher:
    """Scores together what came in the same turn of the event loop."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.waiting: dict[Served, list[tuple[list[dict[str, Any]], asyncio.Future[Scored]]]] = {}

    def takes(self, rows: list[dict[str, Any]]) -> bool:
        """Whether the rows may be scored with others': few of them, and no trial that is to see each request by itself."""
        return len(rows) <= MOST_ROWS and self.model.canary is None and self.model.shadow is None

    def score(self, served: Served, rows: list[dict[str, Any]]) -> asyncio.Future[Scored]:
        """What the release says of the rows; RequestError 500 when that is no number."""
        loop = asyncio.get_running_loop()
        if not self.waiting:
            loop.call_soon(self._flush)
        future: asyncio.Future[Scored] = loop.create_future()
        self.waiting.setdefault(served, []).append((rows, future))
        return future

    def _flush(self) -> None:
        """Whoever waits is answered."""
        groups, self.waiting = self.waiting, {}
        for served, group in groups.items():
            try:
                self._answer(served, group)
            except BROKEN:  # of one request, which is told so; the others are not to blame
                for one in group:
                    self._answer_alone(served, one)

    def _answer(self, served: Served, group: list[tuple[list[dict[str, Any]], asyncio.Future[Scored]]]) -> None:
        sizes = [len(rows) for rows, _ in group]
        scores = served.score([row for rows, _ in group for row in rows], sizes)
        answer, start = served.bundle.respond(scores), 0
        for size, (_, future) in zip(sizes, group, strict=True):
            stop = start + size
            if not future.done():  # whose client went away
                future.set_result((scores[start:stop], _between(answer, start, stop)))
            start = stop

    def _answer_alone(self, served: Served, one: tuple[list[dict[str, Any]], asyncio.Future[Scored]]) -> None:
        try:
            self._answer(served, [one])
        except BROKEN as error:
            if not one[1].done():
                one[1].set_exception(RequestError(500, f"{error}; nothing was answered"))


def _between(answer: Mapping[str, list[Any]], start: int, stop: int) -> dict[str, list[Any]]:
    return {name: values[start:stop] for name, values in answer.items()}

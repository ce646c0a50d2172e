"""Requests that come at once are scored in one call: of one row the network's call costs several times what the row itself does.

Nobody waits for others to come. What the event loop has read in one of its turns is parsed request by request, and scored together
at its end.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.models import BROKEN, Served
from serving.request import RequestError

Rows = list[dict[str, Any]]
Scored = tuple[NDArray[np.float32], dict[str, list[Any]]]  # scores and answers of a request's rows
Told = Callable[[Scored | Exception], None]  # what is done with them, which raises nothing

MOST_ROWS = 16  # of a request that joins others: more are worth a call of their own

log = logging.getLogger("serving")


class Batcher:
    """Scores together what came in the same turn of the event loop."""

    def __init__(self) -> None:
        self.waiting: dict[Served, list[tuple[Rows, Told]]] = {}

    def add(self, served: Served, rows: Rows, tell: Told) -> None:
        """`tell` will be called with what the release says of the rows, or why it says nothing."""
        if not self.waiting:
            asyncio.get_running_loop().call_soon(self.flush)
        self.waiting.setdefault(served, []).append((rows, tell))

    def flush(self) -> None:
        """Whoever waits is answered."""
        groups, self.waiting = self.waiting, {}
        for served, group in groups.items():
            try:
                outcomes: list[Scored | Exception] = [*_score(served, [rows for rows, _ in group])]
            except Exception:  # noqa: BLE001  of one request, which is told so; the others are not to blame
                outcomes = [_score_alone(served, rows) for rows, _ in group]
            for (_, tell), outcome in zip(group, outcomes, strict=True):
                tell(outcome)


def _score(served: Served, requests: list[Rows]) -> list[Scored]:
    sizes = [len(rows) for rows in requests]
    scores = served.score([row for rows in requests for row in rows], sizes)
    answer = served.bundle.respond(scores)
    if len(sizes) == 1:
        return [(scores, answer)]
    found, start = [], 0
    for size in sizes:
        stop = start + size
        found.append((scores[start:stop], {name: values[start:stop] for name, values in answer.items()}))
        start = stop
    return found


def _score_alone(served: Served, rows: Rows) -> Scored | Exception:
    try:
        return _score(served, [rows])[0]
    except BROKEN as error:
        return RequestError(500, f"{error}; nothing was answered")
    except Exception as error:
        log.exception("release %s failed to answer", served.version)
        return error

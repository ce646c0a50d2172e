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
from serving.replies import CRASH
from serving.request import RequestError

Rows = list[dict[str, Any]]
Scored = tuple[NDArray[np.float32], dict[str, list[Any]]]  # scores and answers of a request's rows
Told = Callable[[Scored | RequestError], None]  # what is done with them, which raises nothing

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
            for (_, tell), outcome in zip(group, _outcomes(served, [rows for rows, _ in group]), strict=True):
                tell(outcome)


def _outcomes(served: Served, requests: list[Rows]) -> list[Scored | RequestError]:
    """What each is told. Where scoring them together fails one is to blame, and the others are answered."""
    try:
        return [*_score(served, requests)]
    except BROKEN as error:
        failed = RequestError(500, f"{error}; nothing was answered")
    except Exception:
        log.exception("release %s failed to answer", served.version)
        failed = CRASH
    return [failed] if len(requests) == 1 else [_outcomes(served, [rows])[0] for rows in requests]


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

"""Work on the shards of a table by a few processes, with the results in the shards' order."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from tasks.core.errors import TidemillError
from tasks.progress import Meter
from tasks.shards import count_rows, shard_paths
from tasks.stage import die_with

T = TypeVar("T")

PROCESSES = min(os.cpu_count() or 1, 4)  # each holds a shard or two
_look: Callable[[Path, int], Any] | None = None  # what the forked processes find here: a closure cannot be sent to them


def each_shard(folder: Path, look: Callable[[Path, int], T], what: str) -> Iterator[T]:
    """What `look(path, number of its first row)` says of each shard, in the order of the shards, with progress."""
    paths = shard_paths(folder)
    rows = [count_rows(path) for path in paths]
    starts = [sum(rows[:i]) for i in range(len(rows))]
    with Meter(what) as meter:
        results = map(look, paths, starts) if len(paths) == 1 else _in_processes(look, paths, starts)
        for start, count, result in zip(starts, rows, results, strict=True):
            yield result
            meter.at(start + count, sum(rows))


def _in_processes(look: Callable[[Path, int], T], paths: list[Path], starts: list[int]) -> Iterator[T]:
    global _look
    _look = look
    waiting: deque[Future[T]] = deque()
    try:
        with ProcessPoolExecutor(PROCESSES, get_context("fork"), _begin, (os.getpid(),)) as pool:
            for path, start in zip(paths, starts, strict=True):
                waiting.append(pool.submit(_run, path, start))
                if len(waiting) > PROCESSES:  # no more results in memory than there are processes, and one
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise TidemillError(
            "a process that worked on the table was killed; if it was for its memory, use a larger machine"
        ) from error
    finally:
        for future in waiting:
            future.cancel()
        _look = None


def _begin(parent: int) -> None:
    threading.Thread(target=die_with, args=(parent,), daemon=True).start()


def _run(path: Path, start: int) -> Any:
    assert _look is not None
    return _look(path, start)

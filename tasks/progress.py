"""Progress of long work: a bar on a terminal, plain lines elsewhere, not more often than every few seconds."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 3.0


class Meter:
    """Counts rows done of rows to do: with the block entered, `at(done, total)` shows share, rate and time left, and with no total
    what is known: rows and rate."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.started = self.shown = time.monotonic()
        self.bar = _bar() if sys.stdout.isatty() else None
        self.task = self.bar.add_task(what, total=1, rate="") if self.bar else None

    def __enter__(self) -> Self:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()

    def restart(self, what: str) -> None:
        """Count from zero again, under another name."""
        self.what, self.started = what, time.monotonic()
        if self.bar and self.task is not None:
            self.bar.reset(self.task, description=what)

    def at(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        rate = done / max(now - self.started, 1e-9)
        if self.bar and self.task is not None:
            self.bar.update(self.task, completed=done, total=total, rate=f"{rate:,.0f} rows/s")
        elif now - self.shown >= SECONDS_BETWEEN_LINES and total is None:
            self.shown = now
            print(f"{self.what}: {done:,} rows, {rate:,.0f} rows/s", flush=True)
        elif now - self.shown >= SECONDS_BETWEEN_LINES and total is not None and done < total:
            self.shown = now
            left = (total - done) / max(rate, 1e-9)
            print(f"{self.what}: {100 * done // total}%, {rate:,.0f} rows/s, {left:,.0f} s left", flush=True)


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f}%"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )

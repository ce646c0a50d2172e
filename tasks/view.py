"""What is seen of a run: a live table on a terminal, one plain line for each event elsewhere, or one line of JSON for machines."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, Protocol, TextIO

from prefect.runtime import flow_run
from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

PERCENT = re.compile(r"\b(\d{1,3})%")
COLOURS = {"Completed": "green", "Cached": "cyan", "Restored": "cyan", "Failed": "bold red", "running": "yellow", "": "dim"}


class View(Protocol):
    """Told of a run's stages as they go."""

    def begin(self, stage: str, why: str) -> None: ...
    def line(self, stage: str, text: str) -> None: ...
    def end(self, stage: str, outcome: str, note: str) -> None: ...
    def released(self, name: str, version: str) -> None: ...


class QuietView:
    """Shows nothing: where a worker runs the flow, Prefect's log tells all, and the worker may be gone before the run is."""

    def begin(self, stage: str, why: str) -> None: ...
    def line(self, stage: str, text: str) -> None: ...
    def end(self, stage: str, outcome: str, note: str) -> None: ...
    def released(self, name: str, version: str) -> None: ...


@dataclass
class Line:
    """One stage in the table."""

    outcome: str = ""
    note: str = ""
    started: float = 0.0
    seconds: float | None = None
    last: str = ""


class PlainView:
    """Lines for a log: what begins and why, what it says, how it ended and after how long."""

    def __init__(self, to: TextIO) -> None:
        self.to = to
        self.started: dict[str, float] = {}

    def begin(self, stage: str, why: str) -> None:
        self.started[stage] = time.monotonic()
        print(f"{stage}: runs ({why})", file=self.to, flush=True)

    def line(self, stage: str, text: str) -> None:
        print(f"{stage} | {text}", file=self.to, flush=True)

    def end(self, stage: str, outcome: str, note: str) -> None:
        started = self.started.pop(stage, None)
        took = f" in {time.monotonic() - started:.1f} s" if started else ""
        print(f"{stage}: {outcome}{took}", file=self.to, flush=True)

    def released(self, name: str, version: str) -> None: ...


class JsonView:
    """A JSON object on a line for each event: time, level, message, and the ids of run, stage and release, as far as known."""

    def __init__(self, to: TextIO) -> None:
        self.to = to
        self.release = ""

    def begin(self, stage: str, why: str) -> None:
        self.tell("info", stage, "begins", f"runs because: {why}")

    def line(self, stage: str, text: str) -> None:
        self.tell("info", stage, "says", text)

    def end(self, stage: str, outcome: str, note: str) -> None:
        self.tell("error" if outcome == "Failed" else "info", stage, outcome.lower(), note)

    def released(self, name: str, version: str) -> None:
        self.release = version

    def tell(self, level: Literal["info", "error"], stage: str, event: str, message: str, run: str | None = None) -> None:
        """Write one line; of a run that is over its id must be given."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        ids = {"run": run or flow_run.id, "stage": stage or None, "release": self.release or None}
        print(
            json.dumps({"time": now, "level": level, "event": event, **ids, "message": message}, ensure_ascii=False),
            file=self.to,
            flush=True,
        )


@dataclass
class Record:
    """A view that passes on to another what it is told, and keeps how each stage ended, and after how many seconds."""

    view: View
    ended: dict[str, tuple[str, float]] = field(default_factory=dict)
    started: dict[str, float] = field(default_factory=dict)

    def begin(self, stage: str, why: str) -> None:
        self.started[stage] = time.monotonic()
        self.view.begin(stage, why)

    def line(self, stage: str, text: str) -> None:
        self.view.line(stage, text)

    def end(self, stage: str, outcome: str, note: str) -> None:
        began = self.started.get(stage)
        self.ended[stage] = (outcome, round(time.monotonic() - began, 2) if began else 0.0)
        self.view.end(stage, outcome, note)

    def released(self, name: str, version: str) -> None:
        self.view.released(name, version)


class LiveView:
    """A table of the stages, redrawn in place: state, seconds, and why it runs or what it last said."""

    def __init__(self, stages: list[str], console: Console) -> None:
        self.lines = {stage: Line() for stage in stages}
        self.live = Live(get_renderable=self.render, console=console, refresh_per_second=8)
        self.spinner = Spinner("dots", style="yellow")

    def begin(self, stage: str, why: str) -> None:
        self.lines[stage] = Line("running", why, time.monotonic())

    def line(self, stage: str, text: str) -> None:
        self.lines[stage].last = text

    def end(self, stage: str, outcome: str, note: str) -> None:
        line = self.lines[stage]
        line.seconds = time.monotonic() - line.started if line.started else 0.0
        line.outcome, line.note, line.last = outcome, note, ""

    def released(self, name: str, version: str) -> None: ...

    def render(self) -> RenderableType:
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(width=1)
        table.add_column(no_wrap=True, width=max(map(len, self.lines)))
        table.add_column(no_wrap=True, width=9)
        table.add_column(justify="right", no_wrap=True, width=8)
        table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
        for stage, line in self.lines.items():
            running = line.outcome == "running"
            mark: RenderableType = (
                self.spinner if running else Text({"": " ", "Failed": "x"}.get(line.outcome, "+"), COLOURS[line.outcome])
            )
            seconds = time.monotonic() - line.started if running else line.seconds
            name = Text(stage, "bold" if running else "" if line.outcome else "dim")
            shown = f"{seconds:.1f} s" if seconds is not None else ""
            table.add_row(mark, name, Text(line.outcome, COLOURS[line.outcome]), shown, Text(line.note, "dim"))
            if running and line.last:
                table.add_row("", "", "", "", _progress(line.last))
        return table


def _progress(text: str) -> RenderableType:
    """The line, behind a bar where it holds a percentage."""
    found = PERCENT.search(text)
    if not found:
        return Text(text, "dim")
    row = Table.grid(padding=(0, 1))
    row.add_row(ProgressBar(total=100, completed=min(int(found[1]), 100), width=24), Text(text, "dim"))
    return row


_current: ContextVar[View | None] = ContextVar("view", default=None)


def current() -> View:
    """The view of this run."""
    return _current.get() or QuietView()


@contextmanager
def showing(stages: list[str], to: TextIO, lines: bool = False) -> Iterator[Record]:
    """Within the block the run is shown: live on a terminal, else plainly or, with `lines`, as JSON; gives how stages end."""
    console = Console(file=to)
    live = not lines and console.is_terminal and to.isatty()
    view: View = LiveView(stages, console) if live else JsonView(to) if lines else PlainView(to)
    record = Record(view)
    token = _current.set(record)
    try:
        with view.live if isinstance(view, LiveView) else nullcontext():
            yield record
    finally:
        _current.reset(token)

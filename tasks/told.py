"""What a run by hand tells of its course and its end: words for people, an object or lines of JSON for machines."""

import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from json import dumps
from pathlib import Path
from typing import TextIO

import httpx

from tasks import claim, server, trouble, view
from tasks.core.errors import TidemillError


class Lasting(io.TextIOWrapper):
    """Output that outlives its reader: of one that went away, as `head` does, the rest is lost, and the run goes on."""

    def write(self, text: str) -> int:
        with self._outlived():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._outlived():
            super().flush()

    @contextmanager
    def _outlived(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # what is still held goes there too
            os.close(nowhere)


@dataclass
class Told:
    """What a run by hand tells of its end: words for people, or with `json` one object on stdout, with `lines` JSON lines."""

    flow: str
    workspace: Path
    to: TextIO
    json: bool
    lines: bool
    url: str = ""  # of the server, once the run may be on it
    record: view.Record | None = None
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, flow: str, workspace: Path, json: bool = False) -> "Told":
        """As the environment says: with TIDEMILL_LOG=json by JSON lines. Output outlives its readers from now on."""
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
                stream.flush()
                like = Lasting(
                    stream.buffer,
                    stream.encoding,
                    stream.errors,
                    line_buffering=stream.line_buffering,
                    write_through=stream.write_through,
                )
                setattr(sys, name, like)
        lines = os.environ.get(server.LOG) == "json"
        return cls(flow, workspace, sys.stderr if json or lines else sys.stdout, json, lines)

    def say(self, words: str) -> None:
        if self.lines:
            view.JsonView(self.to).tell("info", "", "says", words)
        else:
            print(words, file=self.to, flush=True)

    def failed(self, error: TidemillError, look: bool = True) -> int:
        """The error; of a run that began also where, since when, and what to do, unless the server that knows is not to be asked.

        Returns its exit code.
        """
        found = self.find() if look else None
        if self.lines:
            view.JsonView(self.to).tell("error", found.stage if found else "", "failed", str(error), found.run if found else None)
        else:
            print(f"error: {error}", *(found.lines() if found else ()), sep="\n", file=sys.stderr, flush=True)
        if self.json:
            more = {"where": found.where, "since": found.since, "todo": found.todo} if found else {}
            self.outcome("Failed", error.exit_code, found.run if found else None, error={"message": str(error), **more})
        return error.exit_code

    def stopped(self, words: str, code: int) -> int:
        if self.lines:
            view.JsonView(self.to).tell("error", "", "cancelled", words)
        else:
            print(words, file=sys.stderr)
        if self.json:
            self.outcome("Cancelled", code)
        return code

    def find(self) -> trouble.Trouble | None:
        """What the server knows of the run that failed, if there is one."""
        if not self.record:
            return None
        try:
            return trouble.find_failure(self.flow, self.workspace)
        except httpx.HTTPError:
            return None

    def outcome(self, state: str, code: int, run: str | None = None, **more: object) -> None:
        """One JSON object on stdout."""
        ended = self.record.ended if self.record else {}
        stages = {stage: {"outcome": how, "seconds": took} for stage, (how, took) in ended.items()}
        known = run or (claim.read_holder(self.workspace).get("run") if self.record else None)
        seconds = round(time.monotonic() - self.started, 2)
        page = self.url.removesuffix("/api") or None
        said = {"flow": self.flow, "workspace": str(self.workspace), "run": known, "state": state, "exit": code, "stages": stages}
        print(dumps({**said, "seconds": seconds, "history": page, **more}, ensure_ascii=False), flush=True)

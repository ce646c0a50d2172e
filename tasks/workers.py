"""The processes that run trials for stage tune: started, spoken to in lines of JSON, replaced when one is killed."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from tasks.core.trials import Asked, Outcome
from tasks.stage import RUN_PID

ANSWER = "\x1e"  # begins a line that is an answer, as in RFC 7464: any other line is progress
TRIES = 2  # of a trial whose process is killed
RENEWED = 20  # trials after which a process is replaced: TensorFlow keeps some 35 MB of what it compiled for each


@dataclass(frozen=True)
class Work:
    """What all trials of a search have in common; `network` and `tune` are their sections of params.yaml as JSON."""

    seed: int
    network: str
    tune: str
    features: str
    threads: int
    workspace: str  # where paths in params.yaml start
    weights: tuple[float, ...]  # of each class in the loss

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Work":
        return cls(**{**document, "weights": tuple(document["weights"])})


class Places(Protocol):
    """Where trials run, so many at once."""

    count: int
    work: Work

    def submit(self, asked: Asked) -> "Future[tuple[Outcome, float]]":
        """The outcome and the seconds that it took, as soon as there is room for it and it has ended."""
        ...


class Workers:
    """So many processes, each with its share of the cores. They start at once, and import TensorFlow while the stage goes on."""

    def __init__(self, count: int, work: Work, renewed: int = RENEWED) -> None:
        self.count, self.work = count, work
        self.pool = ThreadPoolExecutor(count)
        self.idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self.all = [_Worker(work, renewed) for _ in range(count)]
        for worker in self.all:
            self.idle.put(worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for worker in self.all:
            worker.close()
        self.pool.shutdown(cancel_futures=True)
        for worker in self.all:
            worker.release()

    def submit(self, asked: Asked) -> "Future[tuple[Outcome, float]]":
        return self.pool.submit(self._run, asked)

    def _run(self, asked: Asked) -> tuple[Outcome, float]:
        worker = self.idle.get()
        started = time.monotonic()
        try:
            return worker.run(asked), time.monotonic() - started
        finally:
            self.idle.put(worker)


class _Worker:
    """One process at a time; its standard error is kept for its last words."""

    def __init__(self, work: Work, renewed: int) -> None:
        self.work, self.renewed, self.closed = work, renewed, False
        self.lock = threading.Lock()  # a process is not started once the worker is closed
        self._start()

    def run(self, asked: Asked) -> Outcome:
        """What the process answers. A process that was killed is replaced and the trial tried again; one that ended by itself
        failed at the trial, and would again."""
        if self.answers >= self.renewed:
            self._replace()
        for _ in range(TRIES):
            outcome = self._ask(asked)
            if outcome is not None or self.closed:
                return outcome or Outcome("failed", reason="the search was ended")
            code = self.process.wait()
            words = self._last_words()
            self._replace()
            if code >= 0:
                return Outcome("failed", reason=f"its process ended with code {code}: {words}")
        memory = "; if the system did so for its memory, lower tune.batch, tune.rows or tune.parallel" if code == -9 else ""
        return Outcome("failed", reason=f"its process was killed {TRIES} times by {signal.Signals(-code).name}{memory}")

    def close(self) -> None:
        """The process is gone."""
        with self.lock:
            self.closed = True
            self.process.kill()
            self.process.wait()

    def release(self) -> None:
        """The pipes and the last words of a process that is gone are too."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.words.close()

    def _replace(self) -> None:
        """Another process stands in the place of this one, which is gone."""
        self.process.kill()
        self.process.wait()
        self.release()
        self._start()

    def _start(self) -> None:
        with self.lock:
            if self.closed:
                return
            self.words = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
            self.answers = 0
            threads = str(self.work.threads)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tasks.trial"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.words,
                text=True,
                errors="replace",
                cwd=self.work.workspace,
                env={**os.environ, RUN_PID: str(os.getpid()), "OMP_NUM_THREADS": threads, "TF_CPP_MIN_LOG_LEVEL": "3"},
            )
            self._say(asdict(self.work))

    def _say(self, document: dict[str, object]) -> None:
        """The process is told, unless it is gone: reading from it tells so too."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(document) + "\n")
            self.process.stdin.flush()

    def _ask(self, asked: Asked) -> Outcome | None:
        """The process' answer, its progress shown; None when it is gone."""
        self._say(asdict(asked))
        assert self.process.stdout is not None
        for line in self.process.stdout:
            before, mark, answer = line.rstrip("\n").partition(ANSWER)
            if before:
                print(before, flush=True)
            if mark:
                self.answers += 1
                return Outcome.from_json(json.loads(answer))
        return None

    def _last_words(self) -> str:
        self.words.seek(0)
        lines = [line.strip() for line in self.words if line.strip()]
        return lines[-1] if lines else "it said nothing"

"""Runs the workers that train a network together on this machine, and starts all of them again when one dies or hangs.

A worker whose peer is gone may wait for it for minutes, deaf to SIGTERM: so none is left to notice by itself.
"""

import contextlib
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorflow as tf

from tasks import stage
from tasks import worker as program
from tasks.cluster import TF_CONFIG, Cluster
from tasks.core import errors
from tasks.core.errors import TidemillError
from tasks.fit import Fitted, Job, fit_job, load_finished

log = logging.getLogger("tasks.supervise")

SILENT_SECONDS = 30.0  # a worker says every second that it lives, from a thread that long compilations leave alone
LOADING_SECONDS = 300.0  # but while TensorFlow is loaded, which no thread gets through
STALLED_SECONDS = 300.0  # steps take about a second; the first one waits for its compilation and has no limit
LAST_WORDS = 600  # bytes of a worker's log that an error shows


@dataclass
class Worker:
    """A process, what it said last, and when."""

    number: int
    process: subprocess.Popen[bytes]
    pipe: int
    output: Path
    heard: float
    moved: float
    moves: int = 0
    loaded: bool = False
    done: bool = False
    rest: bytes = b""
    error: TidemillError | None = field(default=None)

    def hear(self, content: bytes) -> None:
        """Take in what came through the pipe."""
        self.heard = time.monotonic()
        *lines, self.rest = (self.rest + content).split(b"\n")
        for line in lines:
            said: dict[str, Any] = json.loads(line)
            self.loaded, self.done = self.loaded or "loaded" in said, self.done or "done" in said
            if "error" in said:
                self.error = getattr(errors, said["kind"])(said["error"])
            if said.get("moves", self.moves) != self.moves:
                self.moves, self.moved = said["moves"], time.monotonic()

    def trouble(self) -> str:
        """What is wrong with it, in words; nothing when it goes on or is through."""
        code, now = self.process.poll(), time.monotonic()
        if self.done:
            return ""
        if code is not None:
            return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        silent, stalled = now - self.heard, now - self.moved
        if silent > (SILENT_SECONDS if self.loaded else LOADING_SECONDS):
            return f"has said nothing for {silent:.0f} s"
        return f"has made no step for {stalled:.0f} s" if self.moves and stalled > STALLED_SECONDS else ""


def fit_together(job: Job, folder: Path, cluster: Cluster, restarts: int) -> Fitted:
    """What the cluster's workers came to; those of this machine were started, and all again at most `restarts` times.

    The error that a worker ended with, or TidemillError when they failed too often.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with stage.replacing(folder / "job.json") as aside:
        aside.write_text(json.dumps(job.to_json()))
    for restart in range(restarts + 1):
        if fitted := load_finished(folder):
            return fitted
        with _started(cluster, folder) as workers:
            trouble = _watch(workers)
            words = trouble and _last_words(workers)
        if trouble and restart < restarts:
            log.warning("%s; all go on from the last checkpoint, restart %s of %s", trouble, restart + 1, restarts)
    if fitted := load_finished(folder):
        return fitted
    raise TidemillError(
        f"{job.name}: {trouble}, after {restarts} restarts (compute.restarts); a next run goes on from the last checkpoint. "
        f"Its last lines:\n{words}"
    )


def _watch(workers: list[Worker]) -> str:
    """Wait until all are through, or say which one is in trouble; the error that one of them tells is raised."""
    with selectors.DefaultSelector() as pipes:
        for worker in workers:
            pipes.register(worker.pipe, selectors.EVENT_READ, worker)
        while not all(worker.done for worker in workers):
            for key, _ in pipes.select(timeout=0.5):
                if content := os.read(key.fd, 65_536):
                    key.data.hear(content)
                else:
                    pipes.unregister(key.fd)  # it has ended
            if told := [worker.error for worker in workers if worker.error]:
                raise told[0]
            for worker in workers:
                if trouble := worker.trouble():
                    return f"worker {worker.number} {trouble}"
    for worker in workers:  # each lingers for a moment, for workers on other machines
        worker.process.wait()
    return ""


@contextlib.contextmanager
def _started(cluster: Cluster, folder: Path) -> Iterator[list[Worker]]:
    """This machine's workers, running; at the end none of them is."""
    addresses = cluster.now()
    workers: list[Worker] = []
    try:
        for place, number in enumerate(cluster.local):
            workers.append(_start(folder, number, place, len(cluster.local), cluster.config(addresses, number)))
        yield workers
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.wait()
            os.close(worker.pipe)


def _start(folder: Path, number: int, place: int, count: int, config: str) -> Worker:
    """One worker with its share of this machine; the first one speaks for all and writes the checkpoints."""
    output = folder / f"worker_{number}.log"
    reading, writing = os.pipe()
    gpus = len(tf.config.list_physical_devices("GPU"))
    environment = {
        **os.environ,
        TF_CONFIG: config,
        stage.RUN_PID: str(os.getpid()),
        "TF_NUM_INTRAOP_THREADS": str(max(1, (os.cpu_count() or 1) // count)),
        **({"CUDA_VISIBLE_DEVICES": str(place % gpus)} if gpus > 1 and count > 1 else {}),
    }
    try:
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", program.__name__, str(folder), str(writing), *(["--keep"] if not place else [])],
                env=environment,
                pass_fds=[writing],
                stdin=subprocess.DEVNULL,
                stdout=file if place else None,
                stderr=file,
            )
    finally:
        os.close(writing)
    now = time.monotonic()
    return Worker(number, process, reading, output, now, now)


def _last_words(workers: list[Worker]) -> str:
    """The end of the logs, that of the worker in trouble first."""
    ordered = sorted(workers, key=lambda worker: not worker.trouble())
    texts = [worker.output.read_bytes()[-LAST_WORDS:].decode(errors="replace").strip() for worker in ordered]
    return "\n".join(f"worker {worker.number}: {text}" for worker, text in zip(ordered, texts, strict=True) if text)


def fit_network(job: Job, folder: Path, cluster: Cluster | None, restarts: int) -> Fitted:
    """The fitted network, by this process on its own or by a cluster; either goes on from the checkpoint in `folder`."""
    return fit_together(job, folder, cluster, restarts) if cluster else fit_job(job, folder)

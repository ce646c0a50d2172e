"""Several worker processes behind one listening socket: each that dies is started again, and all of them end as one."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from types import FrameType

from prometheus_client.multiprocess import mark_process_dead

from serving.metrics import FOLDER

QUICK_SECONDS = 5.0  # a worker that lived no longer did not start
MOST_QUICK = 3  # of these in a row, and the service ends
END_SECONDS = 40.0  # that workers have to answer what they were asked


def supervise(count: int, listener: socket.socket, arguments: Sequence[str]) -> int:
    """Runs `count` workers with these arguments of `python -m serving` until SIGTERM or SIGINT; returns the exit code."""
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        for worker, _ in workers.values():
            worker.terminate()

    workers: dict[int, tuple[subprocess.Popen[bytes], float]] = {}
    with tempfile.TemporaryDirectory(prefix="tidemill-metrics-") as folder:
        environment = {**os.environ, FOLDER: folder}
        command = [sys.executable, "-m", "serving", *arguments, "--listener", str(listener.fileno())]

        def start() -> None:
            worker = subprocess.Popen(command, env=environment, pass_fds=[listener.fileno()])
            workers[worker.pid] = (worker, time.monotonic())

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        for _ in range(count):
            start()
        quick = 0
        while workers and not stopping:
            time.sleep(0.05)
            for pid, (worker, since) in list(workers.items()):
                if worker.poll() is None or stopping:
                    continue
                del workers[pid]
                mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]
                lived = time.monotonic() - since
                quick = quick + 1 if lived < QUICK_SECONDS else 0
                if quick >= MOST_QUICK or (worker.returncode == 1 and lived < QUICK_SECONDS):  # which has said why
                    stop(signal.SIGTERM, None)
                    _wait(workers)
                    print(f"error: a worker ended with {worker.returncode} as soon as it was started", file=sys.stderr)
                    return 1
                print(f"a worker ended with {worker.returncode} after {lived:,.0f} s; another takes its place", file=sys.stderr)
                start()
        return _wait(workers)


def _wait(workers: dict[int, tuple[subprocess.Popen[bytes], float]]) -> int:
    """The workers have ended, by force if they take too long; returns 1 if one had to be."""
    deadline, forced = time.monotonic() + END_SECONDS, 0
    for worker, _ in workers.values():
        try:
            worker.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
            forced = 1
    return forced

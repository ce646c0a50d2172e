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

NOT_STARTED = 3  # a worker's exit code when it cannot start, and has said why; uvicorn's too
QUICK_SECONDS = 5.0  # a worker that lived no longer did not start
MOST_QUICK = 3  # of these in a row, and the service ends, unless others were there before and answer
AGAIN_SECONDS = 5.0  # until then the next try to replace one, beside such others: a store may not answer, a disk be full
END_SECONDS = 40.0  # that workers have to answer what they were asked


def supervise(count: int, listener: socket.socket, arguments: Sequence[str]) -> int:
    """Runs `count` workers with these arguments of `python -m serving` until SIGTERM or SIGINT; returns the exit code."""
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:  # and no more: a worker may be about to start
        nonlocal stopping
        stopping = True

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
            if not stopping:
                start()
        quick = 0
        due: list[float] = []  # when one is started in the place of one that could not
        while (workers or due) and not stopping:
            time.sleep(0.05)
            if due and due[0] <= time.monotonic():
                del due[0]
                start()
            for pid, (worker, since) in list(workers.items()):
                if worker.poll() is None or stopping:
                    continue
                del workers[pid]
                mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]
                lived = time.monotonic() - since
                quick = quick + 1 if lived < QUICK_SECONDS else 0
                if quick >= MOST_QUICK or worker.returncode == NOT_STARTED:
                    if any(other < since - 1 for _, other in workers.values()):
                        print(f"a worker could not start; the next try is in {AGAIN_SECONDS:g} s", file=sys.stderr)
                        due.append(time.monotonic() + AGAIN_SECONDS)
                        continue
                    _end(workers)
                    print(f"error: a worker ended with {worker.returncode} as soon as it was started", file=sys.stderr)
                    return 1
                print(f"a worker ended with {worker.returncode} after {lived:,.0f} s; another takes its place", file=sys.stderr)
                start()
        return _end(workers)


def _end(workers: dict[int, tuple[subprocess.Popen[bytes], float]]) -> int:
    """The workers were told to end and have, by force if they take too long; returns 1 if one had to be."""
    deadline, forced = time.monotonic() + END_SECONDS, 0
    for worker, _ in workers.values():
        worker.terminate()
    for worker, _ in workers.values():
        try:
            worker.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
            forced = 1
    return forced

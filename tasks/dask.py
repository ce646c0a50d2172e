"""Trials of stage tune on a Dask cluster; its machines have this code, and the workspace under the same path."""

import atexit
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from tasks.core.errors import TidemillError
from tasks.core.trials import Asked, Outcome
from tasks.workers import Work, Workers

SECONDS = 10  # to reach the scheduler
DIED = "its machine left the cluster"

_here: dict[Work, Workers] = {}
_lock = threading.Lock()


class DaskWorkers:
    """Each trial is a task of the cluster, of which each machine keeps a process of its own for trials; gone with the block.

    A trial whose machine is gone runs again on another one. The search is the same as on one machine, wherever its trials run.
    """

    def __init__(self, address: str, work: Work, most: int) -> None:
        """TidemillError when there is no cluster at the address; `most`: trials that are asked for at once."""
        try:
            import distributed
        except ImportError as error:
            raise TidemillError(f"tune.dask {address} needs the package distributed: pip install 'tidemill[dask]'") from error
        try:
            client: Any = distributed.Client(address, timeout=SECONDS)  # type: ignore[no-untyped-call]
        except (OSError, ValueError, TimeoutError) as error:
            raise TidemillError(
                f"tune.dask: no scheduler answers at {address} ({type(error).__name__}); start it, or set null"
            ) from error
        known = client.scheduler_info(n_workers=-1)["workers"]
        if not known:
            client.close()
            raise TidemillError(f"tune.dask: the cluster at {address} has no worker; start one: dask worker {address}")
        self.client = client
        self.count = min(most, sum(worker["nthreads"] for worker in known.values()))
        self.work = replace(work, threads=1)
        self.pool = ThreadPoolExecutor(self.count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.client.run(forget, self.work, on_error="ignore")
        self.client.close()
        self.pool.shutdown(cancel_futures=True)

    def submit(self, asked: Asked) -> "Future[tuple[Outcome, float]]":
        return self.pool.submit(self._run, asked)

    def _run(self, asked: Asked) -> tuple[Outcome, float]:
        from distributed import KilledWorker

        started = time.monotonic()
        try:
            return self.client.submit(run_here, self.work, asked, pure=False).result(), time.monotonic() - started
        except KilledWorker:
            return Outcome("failed", reason=DIED), time.monotonic() - started


def run_here(work: Work, asked: Asked) -> Outcome:
    """On a machine of the cluster: the outcome, from a process that is kept for the next trial."""
    from distributed import get_worker

    with _lock:
        if work not in _here:
            _here[work] = Workers(get_worker().state.nthreads, work)
            atexit.register(forget, work)
    return _here[work].submit(asked).result()[0]


def forget(work: Work) -> None:
    """No process of this search is left here."""
    with _lock:
        workers = _here.pop(work, None)
    if workers:
        workers.__exit__(None, None, None)

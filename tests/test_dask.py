"""Trials of stage tune on a Dask cluster of two workers on this machine."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import running
from tests.test_tune import Place, features, searched  # noqa: F401  the fixtures

pytestmark = pytest.mark.slow


class Cluster:
    def __init__(self, folder: Path, workers: int) -> None:
        self.folder = folder
        self.scheduler = self.start("scheduler", "--host", "127.0.0.1", "--port", "0")
        self.address = self.find(r"Scheduler at: +(tcp://\S+)")
        self.workers = [
            self.start("worker", self.address, "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny") for _ in range(workers)
        ]
        for number in range(workers):
            self.find(r"(Registered to)", f"worker{number + 1}")

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        name = "scheduler" if command[0] == "scheduler" else f"worker{len(list(self.folder.glob('worker*.log'))) + 1}"
        with (self.folder / f"{name}.log").open("wb") as log:
            run = [sys.executable, "-m", "dask", *command, "--no-dashboard"]
            return subprocess.Popen(run, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT)

    def find(self, pattern: str, name: str = "scheduler") -> str:
        """What a process says of itself, once it has started."""
        for _ in range(300):
            if found := re.search(pattern, (self.folder / f"{name}.log").read_text()):
                return found[1]
            time.sleep(0.1)
        raise AssertionError((self.folder / f"{name}.log").read_text())

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.send_signal(signal.SIGTERM)
        for process in (*self.workers, self.scheduler):
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:  # a worker whose scheduler was quicker may wait for it
                process.kill()
                process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    (tmp_path / "cluster").mkdir()
    cluster = Cluster(tmp_path / "cluster", 2)
    yield cluster
    cluster.close()


def trials_under(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes of trials that a worker has started."""
    return running("tasks.trial", process.pid)


def test_search_on_a_cluster_is_the_one_on_this_machine_though_a_worker_is_killed(
    cluster: Cluster,
    tmp_path: Path,
    features: Path,  # noqa: F811
    searched: tuple[Place, str],  # noqa: F811
) -> None:
    place = Place(tmp_path / "place", features, f'tune.dask="{cluster.address}"')
    with place.start() as run:
        while not all(map(trials_under, cluster.workers)) and run.poll() is None:
            time.sleep(0.05)
        orphans = trials_under(cluster.workers[0])
        cluster.workers[0].kill()
        said = run.communicate(timeout=300)[0]
    assert run.returncode == 0, said
    assert (place.path / "trials.csv").read_bytes() == (searched[0].path / "trials.csv").read_bytes()
    assert "trial 4 of 4" in said
    psutil.wait_procs(orphans, timeout=20)
    assert not [one for one in orphans if one.is_running()]
    assert not trials_under(cluster.workers[1])  # the search is over, and has left nothing


def test_cluster_that_is_not_there_is_said_in_one_line(tmp_path: Path, features: Path) -> None:  # noqa: F811
    place = Place(tmp_path / "place", features, 'tune.dask="tcp://127.0.0.1:9"')
    code, said = place.tune()
    assert code == 1
    assert "tune.dask: no scheduler answers at tcp://127.0.0.1:9" in said
    assert "Traceback" not in said
    assert not (place.path / "hparams.json").exists()

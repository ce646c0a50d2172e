"""The service beside a route that does nothing and beside peers, by wrk in one run; its time in process, memory and cold start.

`python -m benchmarks.serving` asks for one golden row at a time, as raw JSON, on 1, 16 and 256 connections. Each service has as
many worker processes as there are cores and is checked against the golden answers first; all run, one at a time is asked.
LitServe and BentoML run in an environment of their own, .cache/serving-peers, made from serving-requirements.lock.
"""

import argparse
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from serving.bundle import Bundle, load_bundle

ROOT = Path(__file__).parent.parent
LOCK = Path(__file__).parent / "serving-requirements.lock"
PEERS = ROOT / ".cache" / "serving-peers"
CONNECTIONS = (1, 16, 256)
WARM_SECONDS = 2
START_SECONDS = 90.0  # TensorFlow, twice, on two cores
STARTS = 5  # of the service, cold
NEAR = 0.03  # the SavedModel answers by floats, the .tflite by 8-bit weights
OURS, NOTHING, SAVEDMODEL, LITSERVE, BENTOML = "tidemill", "nothing", "FastAPI", "LitServe", "BentoML"


@dataclass(frozen=True)
class Service:
    """How a service is started, where it is asked, and what it does for an answer; `answers` unless it says nothing."""

    name: str
    does: str
    command: Callable[[int], list[str]]  # of the port
    path: str = "/predict"
    answers: bool = True


@dataclass(frozen=True)
class Load:
    """What wrk saw: requests a second, milliseconds, and requests that failed: a status above 399, a broken socket, a time-out.

    `cpu` are the microseconds of processor that the service took for a request, which other work on the machine changes least.
    """

    rate: float
    p50: float
    p99: float
    failed: int
    cpu: float


@dataclass
class Running:
    """A started service; `group` holds all of its processes."""

    service: Service
    port: int
    process: subprocess.Popen[bytes]

    @property
    def processes(self) -> list[psutil.Process]:
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    @property
    def together(self) -> float:
        """Megabytes of all its processes, shared pages counted once (PSS)."""
        return sum(process.memory_full_info().pss for process in self.processes) / 1e6

    @property
    def cpu(self) -> float:
        """Seconds of processor that all its processes took so far."""
        times = [process.cpu_times() for process in self.processes]
        return sum(own.user + own.system for own in times)

    @property
    def largest(self) -> float:
        """Resident megabytes of its largest process."""
        return max(process.memory_info().rss for process in self.processes) / 1e6


def services(bundle: Bundle, folder: Path, workers: int, python: Path) -> list[Service]:
    """Ours, the floor and the peers, each as its own documentation says to serve fast; `python` is that of the peers."""
    uvicorn = ["-m", "uvicorn", "--host", "127.0.0.1", "--workers", str(workers), "--log-level", "warning", "--no-access-log"]
    return [
        Service(
            OURS,
            "checks each field, encodes, LiteRT, metrics",
            lambda port: [sys.executable, "-m", "serving", "--bundle", str(folder), "--port", str(port), "--workers", str(workers)],
            f"/v1/models/{bundle.name}:predict",
        ),
        Service(
            NOTHING,
            "a Starlette route that returns {}",
            lambda port: [sys.executable, *uvicorn, "--port", str(port), "benchmarks.peers.nothing:app"],
            answers=False,
        ),
        Service(
            SAVEDMODEL,
            "pydantic, TensorFlow, the bundle's SavedModel",
            lambda port: [sys.executable, *uvicorn, "--port", str(port), "benchmarks.peers.fastapi_savedmodel:app"],
        ),
        Service(
            LITSERVE,
            "the bundle's encoder and .tflite, no checks",
            lambda port: [str(python), "-m", "benchmarks.peers.lit", "--port", str(port), "--workers", str(workers)],
        ),
        Service(
            BENTOML,
            "pydantic, the bundle's encoder and .tflite",
            lambda port: [
                *(str(python), "-m", "bentoml", "serve", "benchmarks.peers.bento:Predictor"),
                *("--host", "127.0.0.1", "--port", str(port)),
            ],
        ),
    ]


def make_peers() -> Path:
    """The Python of the peers' environment, which is made anew when its lock has changed."""
    python, mark = PEERS / "bin" / "python", PEERS / "lock.sha256"
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if not mark.is_file() or mark.read_text() != digest:
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
        if uv is None:
            sys.exit("error: uv is missing; `make setup` installs it beside this Python")
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, PEERS], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", LOCK], check=True)
        mark.write_text(digest)
    return python


@contextmanager
def running(service: Service, folder: Path, workers: int, logs: Path) -> Iterator[Running]:
    """The service answers; afterwards its processes have ended."""
    port = free_port()
    environment = {
        **os.environ,
        "BUNDLE": str(folder),
        "WORKERS": str(workers),
        "PYTHONPATH": str(ROOT),
        "BENTOML_HOME": str(ROOT / ".cache" / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    with (logs / f"{service.name}.log").open("wb") as log:
        process = subprocess.Popen(
            service.command(port), cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield Running(service, port, process)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def ask(port: int, path: str, body: bytes) -> tuple[int, Any]:
    """Status and document of one answer; OSError while nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def wait_until_it_answers(one: Running, body: bytes, pause: float, logs: Path) -> None:
    """It answered with 200, or the benchmark ends and says what it wrote."""
    deadline, said = time.monotonic() + START_SECONDS, "nothing"
    while time.monotonic() < deadline and one.process.poll() is None:
        with suppress(OSError, http.client.HTTPException):
            status, document = ask(one.port, one.service.path, body)
            if status == 200:
                return
            said = f"{status} {document}"
        time.sleep(pause)
    tail = (logs / f"{one.service.name}.log").read_text(errors="replace")[-2000:]
    sys.exit(f"error: {one.service.name} did not answer within {START_SECONDS:g} s, it said {said}:\n{tail}")


def check_answers(one: Running, bodies: list[bytes], wanted: list[Any]) -> None:
    """Each golden row got its golden answer, or the benchmark ends: who answers wrongly is no peer."""
    for body, right in zip(bodies, wanted, strict=True):
        status, document = ask(one.port, one.service.path, body)
        if status != 200 or abs(document["predictions"][0] - right) > NEAR:
            sys.exit(f"error: {one.service.name} answered {status} {document}; the golden answer is {right}")


def write_script(path: Path, target: str, bodies: list[bytes]) -> None:
    """A script for wrk that sends the bodies in turn, and prints what it saw as JSON."""
    made = ",\n".join(f"  {json.dumps(body.decode())}" for body in bodies)
    path.write_text(
        f"local bodies = {{\n{made}\n}}\n"
        "local requests, at = {}, 0\n"
        "function init(args)\n"
        "  for i, body in ipairs(bodies) do\n"
        f'    requests[i] = wrk.format("POST", "{target}", {{["Content-Type"] = "application/json"}}, body)\n'
        "  end\n"
        "end\n"
        "function request()\n"
        "  at = at % #requests + 1\n"
        "  return requests[at]\n"
        "end\n"
        "function done(summary, latency, threads)\n"
        "  local e = summary.errors\n"
        """  io.write(string.format('\\n{"requests": %d, "us": %d, "p50": %f, "p99": %f, "failed": %d}\\n', summary.requests, """
        "summary.duration, latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.timeout + e.status))\n"
        "end\n"
    )


def load(one: Running, script: Path, connections: int, seconds: int) -> Load:
    """What wrk saw in so many seconds, on one thread of its own."""
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "--timeout",
        "10s",
        "-s",
        str(script),
        f"http://127.0.0.1:{one.port}",
    ]
    before = one.cpu
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60).stdout
    found = json.loads(said.strip().splitlines()[-1])
    cpu = (one.cpu - before) / max(1, found["requests"]) * 1e6
    return Load(found["requests"] / found["us"] * 1e6, found["p50"] / 1e3, found["p99"] / 1e3, found["failed"], cpu)


def measure_in_process(bundle: Bundle) -> Table:
    """Microseconds of a call, the median of each of several rounds, and of these the median."""
    rows = bundle.golden
    many = [rows[i % len(rows)] for i in range(256)]
    encoded, encoded_many = [bundle.encode([row]) for row in rows], bundle.encode(many)
    ways: dict[str, tuple[Callable[[int], Any], int, float | None]] = {
        "1 row, from a dict of raw values to the answer": (lambda i: bundle.predict([rows[i % len(rows)]]), 5000, 25),
        "1 row, the network alone": (lambda i: bundle.network(encoded[i % len(rows)]), 5000, 12),
        "256 rows, the network alone": (lambda i: bundle.network(encoded_many), 500, 300),
        "256 rows, from dicts of raw values to answers": (lambda i: bundle.predict(many), 100, None),
    }
    table = Table("in process", "us, median", "lowest round", "wanted", title="One interpreter on one thread")
    for name, (call, calls, wanted) in ways.items():
        rounds = []
        for _ in range(7):
            times = []
            for i in range(calls):
                started = time.perf_counter()
                call(i)
                times.append(time.perf_counter() - started)
            rounds.append(float(np.median(times)) * 1e6)
        table.add_row(name, f"{median(rounds):.1f}", f"{min(rounds):.1f}", "" if wanted is None else f"<= {wanted:g}")
    return table


def measure_start(ours: Service, folder: Path, body: bytes, logs: Path) -> list[float]:
    """Seconds from the start of a process to its first answer, for each start."""
    found = []
    for _ in range(STARTS):
        started = time.perf_counter()
        with running(ours, folder, 1, logs) as one:
            wait_until_it_answers(one, body, 0.002, logs)
            found.append(time.perf_counter() - started)
    return found


def measure_loads(every: list[Service], folder: Path, bundle: Bundle, bodies: list[bytes], asked: Any, logs: Path) -> list[Table]:
    """Requests a second, latencies and failures; then the memory of each service after all that."""
    rounds: dict[tuple[str, int], list[Load]] = {(service.name, count): [] for service in every for count in CONNECTIONS}
    memory = Table("service", "what it does", "largest process, MB", "together, MB", title="Memory after the load")
    with ExitStack() as stack:
        started = [stack.enter_context(running(service, folder, asked.workers, logs)) for service in every]
        scripts = {service.path: logs / f"{place}.lua" for place, service in enumerate(every)}
        for one in started:
            wait_until_it_answers(one, bodies[0], 0.1, logs)
            if one.service.answers:
                check_answers(one, bodies, bundle.predictions)
            write_script(scripts[one.service.path], one.service.path, bodies)
            load(one, scripts[one.service.path], max(CONNECTIONS), WARM_SECONDS)
        for count in [count for _ in range(asked.rounds) for count in CONNECTIONS]:
            for one in started:
                rounds[one.service.name, count].append(load(one, scripts[one.service.path], count, asked.seconds))
        for one in started:
            memory.add_row(one.service.name, one.service.does, f"{one.largest:.0f}", f"{one.together:.0f}")
    return [tell(every, rounds), memory]


def tell(every: list[Service], rounds: dict[tuple[str, int], list[Load]]) -> Table:
    """Medians of the rounds; ratios are those of services that had their turn in the same round."""
    title = f"One row of raw JSON, {os.cpu_count()} cores, {len(rounds[OURS, 1])} rounds"
    columns = ("connections", "service", "requests/s", "to nothing", "ours to it", "p50, ms", "p99, ms", "CPU, us", "failed")
    table = Table(*columns, title=title)
    for count in CONNECTIONS:
        for service in every:
            own, ours, floor = rounds[service.name, count], rounds[OURS, count], rounds[NOTHING, count]
            to_floor = median(mine.rate / best.rate for mine, best in zip(own, floor, strict=True))
            to_it = median(best.rate / mine.rate for mine, best in zip(own, ours, strict=True))
            table.add_row(
                str(count),
                service.name,
                f"{median(one.rate for one in own):,.0f}",
                f"{to_floor:.2f}",
                f"{to_it:.1f}",
                f"{median(one.p50 for one in own):.2f}",
                f"{median(one.p99 for one in own):.2f}",
                f"{median(one.cpu for one in own):,.0f}",
                str(sum(one.failed for one in own)),
            )
        table.add_section()
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("models/release"), help="a bundle's folder (models/release)")
    parser.add_argument("--rounds", type=int, default=5, help="in each every service has its turns (5)")
    parser.add_argument("--seconds", type=int, default=5, help="of each turn (5)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes of each service (one for each core)")
    asked = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("error: wrk is missing; `apt-get install wrk` brings it")
    folder = asked.bundle.resolve()
    bundle = load_bundle(folder)
    bodies = [json.dumps({"instances": [row]}).encode() for row in bundle.golden]
    every, alone = (services(bundle, folder, workers, make_peers()) for workers in (asked.workers, 1))

    console = Console(width=132)
    console.print(measure_in_process(bundle))
    with tempfile.TemporaryDirectory() as name:
        logs = Path(name)
        starts = measure_start(alone[0], folder, bodies[0], logs)
        span = f"{min(starts):.2f} to {max(starts):.2f} s in {STARTS}"
        console.print(f"from the start of a process to its first answer: {median(starts):.2f} s, {span} (wanted <= 1.0)")
        for table in measure_loads(every, folder, bundle, bodies, asked, logs):
            console.print(table)


if __name__ == "__main__":
    main()

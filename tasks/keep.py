"""Keeps Prefect's server, a worker and the reports' pages of one machine up: `python -m tasks.keep`, started by flows.up.

Reads plan.json of its folder; writes state.json, by which flows.down and the next flows.up find what runs, and a log of each.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from prefect.states import Cancelled

from tasks import automations, deployed, server
from tasks.artifacts import REPORTS_URL
from tasks.core.errors import TidemillError
from tasks.stage import replacing

PLAN, STATE = "plan.json", "state.json"
LOOK_SECONDS, ANSWER_SECONDS = 1.0, 5.0  # between looks at the processes, and at what the server answers
SILENT_SECONDS = 60.0  # after which a server that runs and does not answer is started again
FIRST_PAUSE, LONGEST_PAUSE, CALM_SECONDS = 1.0, 60.0, 120.0  # before a restart; one that ran so long starts from the first pause
RUN_SECONDS, STOP_SECONDS = 20.0, 15.0  # that runs under way, and each process, have to end
CANCEL_SECONDS = 20.0  # that the server has to take their state
RUN_ID = "PREFECT__FLOW_RUN_ID"  # in the environment of a process that a worker starts for a run


@dataclass(frozen=True)
class Plan:
    """What is to be up."""

    workspace: str
    url: str  # of the API
    pool: str
    serves: bool  # the server too, not the worker alone
    database: str | None = None  # URL without the password; None: Prefect's own SQLite
    reports: int | None = None  # port of the reports' pages


@dataclass(frozen=True)
class Mark:
    """A process, told from a later one of the same number by when it started."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> "Mark":
        return cls(pid, psutil.Process(pid).create_time())

    def process(self) -> psutil.Process | None:
        """It, if it still runs."""
        with suppress(psutil.Error):
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.started) < 1 and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None


@dataclass
class State:
    """What is up."""

    keeper: Mark
    plan: Plan
    ready: bool = False
    error: str = ""
    processes: dict[str, Mark] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "State | None":
        """What the folder tells; None where nothing was up yet."""
        try:
            said = json.loads((folder / STATE).read_text())
            marks = {name: Mark(**mark) for name, mark in said["processes"].items()}
            return cls(**{**said, "keeper": Mark(**said["keeper"]), "plan": Plan(**said["plan"]), "processes": marks})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, folder: Path) -> None:
        with replacing(folder / STATE) as aside:
            aside.write_text(json.dumps(asdict(self), indent=1))


@dataclass
class Service:
    """A process that is started again when it ends."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    began: float = 0.0
    pause: float = FIRST_PAUSE

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.began = time.monotonic()

    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def may_start(self) -> bool:
        """Whether it is time to start it again; one that ends again and again waits for longer each time."""
        ran = time.monotonic() - self.began
        if self.process is None:
            return True
        if ran < self.pause:
            return False
        self.pause = FIRST_PAUSE if ran > CALM_SECONDS else min(2 * self.pause, LONGEST_PAUSE)
        return True

    def stop(self, number: int = signal.SIGTERM) -> None:
        """It has ended, by the signal or, if it takes too long, at once."""
        if self.process is None or not self.runs():
            return
        self.process.send_signal(number)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Keeper:
    """The services of a plan, kept up until it is told to stop."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self.state = State(Mark.of(os.getpid()), plan)
        self.stopping = threading.Event()
        python = [sys.executable, "-m"]
        pages = {REPORTS_URL: f"http://127.0.0.1:{plan.reports}"} if plan.reports else {}
        own = {
            name: value for name, value in os.environ.items() if not name.startswith("PREFECT_SERVER_")
        }  # less the server's secrets
        environment = {**own, **server.environment(plan.url), **pages}
        self.worker = self._service("worker", [*python, "prefect", "worker", "start", "--pool", plan.pool], environment)
        self.services = [self.worker]
        self.server: Service | None = None
        if plan.serves:
            self.server = self._service("server", server.command(plan.url), server.server_environment(plan.url))
            self.services.insert(0, self.server)
        if plan.reports:
            reports = ["--bind", "127.0.0.1", "--directory", str(Path(plan.workspace) / "reports"), str(plan.reports)]
            self.services.append(self._service("reports", [*python, "http.server", *reports], own))

    def _service(self, name: str, command: list[str], environment: dict[str, str]) -> Service:
        return Service(name, command, environment, self.folder / f"{name}.log")

    def keep(self) -> None:
        """Start all, say that it is ready, and start again what ends, until the process is told to stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stopping.set())
        try:
            self._begin()
            self._watch()
        except TidemillError as error:
            self.state.error = str(error)
            print(f"error: {error}", file=sys.stderr, flush=True)
        finally:
            self._end()

    def _begin(self) -> None:
        if self.server:
            self._start(self.server)
            self._wait_for_server(self.server)
        server.configure(self.plan.url)
        deployed.make_pool(self.plan.pool)
        deployed.deploy(Path(self.plan.workspace), self.folder)
        automations.declare_all(self.plan.pool)
        deployed.drop_missed(self.plan.pool)
        for service in self.services[1 if self.server else 0 :]:
            self._start(service)
        deadline = time.monotonic() + server.SECONDS_TO_START
        while not deployed.is_online(self.plan.pool):
            if not self.worker.runs() or time.monotonic() > deadline:
                raise TidemillError(f"the worker did not start: {_last_words(self.worker.log)}")
            if self.stopping.wait(0.5):
                return
        self.state.ready = True
        self.state.write(self.folder)

    def _wait_for_server(self, service: Service) -> None:
        deadline = time.monotonic() + server.SECONDS_TO_START
        while not server.answers(self.plan.url) and not self.stopping.is_set():
            if not service.runs() or time.monotonic() > deadline:
                raise TidemillError(f"no Prefect server could be started at {self.plan.url}: {_last_words(service.log)}")
            time.sleep(0.2)

    def _watch(self) -> None:
        answered, looked, answers = time.monotonic(), 0.0, True
        while not self.stopping.wait(LOOK_SECONDS):
            now = time.monotonic()
            if now - looked > ANSWER_SECONDS or not answers:
                looked, before, answers = now, answers, server.answers(self.plan.url)
                if answers and not before:
                    self._say("the server answers again")
                    self._catch_up()
            answered = now if answers else answered
            for service in self.services:
                if not service.runs() and self._is_due(service, answers) and service.may_start():
                    code = service.process.returncode if service.process else None
                    self._say(f"{service.name} ended ({code}); starting it again")
                    if service is self.worker:
                        self._catch_up()
                    answered = now if service is self.server else answered
                    self.state.restarts[service.name] = self.state.restarts.get(service.name, 0) + 1
                    self._start(service)
            if self.server and self.server.runs() and now - answered > max(SILENT_SECONDS, server.SECONDS_TO_START):
                self._say("the server does not answer; it is ended")
                self.server.stop(signal.SIGKILL)

    def _is_due(self, service: Service, answers: bool) -> bool:
        """Whether a service that ended can start: a worker where the server answered, a server unless a run by hand was quicker."""
        if service is self.server:
            return not server.answers(self.plan.url)
        return service is not self.worker or answers

    def _catch_up(self) -> None:
        """Of the runs that were missed, each deployment's last one runs. A server that is gone again will be asked later."""
        try:
            if dropped := deployed.drop_missed(self.plan.pool):
                self._say(f"{dropped} runs were missed and dropped")
        except Exception as error:  # noqa: BLE001  whatever a server on its way up or down answers: what keeps it up goes on
            self._say(f"could not look for missed runs: {error}")

    def _start(self, service: Service) -> None:
        service.start()
        assert service.process is not None
        self.state.processes[service.name] = Mark.of(service.process.pid)
        self.state.write(self.folder)

    def _end(self) -> None:
        """Nothing of it runs any more; runs under way are Cancelled, and say why."""
        runs: list[str] = []
        if self.worker.process and self.worker.runs():
            under_way = psutil.Process(self.worker.process.pid).children()
            self.worker.process.terminate()  # it takes no more runs, and waits for those under way
            runs = end_processes(under_way)
            self.worker.stop(signal.SIGKILL)
        if runs:
            self._cancel(runs)
        for service in reversed(self.services):
            service.stop()
        self.state.ready, self.state.processes = False, {}
        self.state.write(self.folder)

    def _cancel(self, runs: list[str]) -> None:
        """The runs are Cancelled. A busy server is asked again for a while; one that is gone finds them without heartbeat later."""
        deadline, said = time.monotonic() + CANCEL_SECONDS, "it does not answer"
        while time.monotonic() < deadline and (self.server is None or self.server.runs()):
            try:
                if server.answers(self.plan.url):
                    server.end_runs(runs, Cancelled(message="stopped by `python -m flows.down`; the next run goes on from here"))
                    return
            except httpx.HTTPError as error:  # refusals too, which are HTTPStatusErrors
                said = str(error)
            time.sleep(0.5)
        self._say(f"the server was not told that these runs ended: {', '.join(runs)} ({said})")

    def _say(self, words: str) -> None:
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {words}", flush=True)


def end_processes(processes: list[psutil.Process]) -> list[str]:
    """They have ended, asked first and their own children with them; returns the ids of the flow runs that they were."""
    runs, all_of_them = [], []
    for process in processes:
        with suppress(psutil.Error):
            if run := process.environ().get(RUN_ID):
                runs.append(run)
            all_of_them += [process, *process.children(recursive=True)]
            process.terminate()
    psutil.wait_procs(processes, RUN_SECONDS)
    for process in all_of_them:
        with suppress(psutil.Error):
            process.kill()
    return runs


def end_left(folder: Path) -> None:
    """Nothing runs of what a keeper that died left behind."""
    state = State.read(folder)
    left = [process for mark in (state.processes.values() if state else ()) if (process := mark.process())]
    end_processes([child for process in left for child in process.children() if _is_run(child)])
    end_processes(left)


def _is_run(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return RUN_ID in process.environ()
    return False


def _last_words(log: Path) -> str:
    words = log.read_text(errors="replace").split()[-60:] if log.exists() else []
    return f"{' '.join(words) or 'it says nothing'} ({log})"


def main(folder: Path) -> None:
    plan: dict[str, Any] = json.loads((folder / PLAN).read_text())
    Keeper(folder, Plan(**plan)).keep()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

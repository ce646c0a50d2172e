"""Server, worker and schedules of one machine, as people hold them: started, used from the page, killed, and ended."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest
from playwright.sync_api import Browser

from tasks.params import with_values
from tests.conftest import ROOT, environment_of, free_port, processes_of
from tests.light import BAD, make_light, production
from tests.sinks import webhook
from tests.sources.postgres import PASSWORD, running_postgres

pytestmark = pytest.mark.slow
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
LOGIN = "ann:Tide-mill+2013"


@dataclass(frozen=True)
class Up:
    """A workspace and what is up for it."""

    path: Path
    environment: dict[str, str]
    port: int
    login: tuple[str, str] | None = None

    def command(self, *words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *words], cwd=self.path, env=self.environment, capture_output=True, text=True, timeout=timeout
        )

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """What the API answers; a server on its way up is asked again."""
        for _ in range(60):
            with suppress(httpx.TransportError):
                url = f"http://127.0.0.1:{self.port}/api/{path}"
                answer = httpx.request(method, url, json=body, auth=self.login, timeout=30)
                assert answer.status_code < 300 or answer.status_code == 503, answer.text  # 503: SQLite is locked
                if answer.status_code < 300:
                    return answer.json() if answer.content else None
            time.sleep(0.5)
        raise AssertionError(f"no answer to {path}")

    def answers(self) -> bool:
        """Whether the server is healthy."""
        with suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self.port}/api/health", timeout=3).status_code == 200
        return False

    def deployment(self, name: str) -> dict[str, Any]:
        return dict(self.ask("GET", f"deployments/name/{name}"))

    def start(self, name: str, **parameters: Any) -> str:
        """The id of a new run of the deployment."""
        path = f"deployments/{self.deployment(name)['id']}/create_flow_run"
        return str(self.ask("POST", path, {"parameters": parameters, "state": {"type": "SCHEDULED"}})["id"])

    def read(self, run: str) -> dict[str, Any]:
        return dict(self.ask("GET", f"flow_runs/{run}"))

    def wait(self, run: str, *types: str, seconds: float = 120) -> dict[str, Any]:
        """The run, once it is in one of the states, by default at its end."""
        deadline = time.monotonic() + seconds
        while (found := self.read(run))["state"]["type"] not in (types or ENDED):
            assert time.monotonic() < deadline, f"{found['name']} is {found['state']} after {seconds} s\n{self.log('worker')}"
            time.sleep(0.3)
        return found

    def tasks(self, run: str) -> dict[str, str]:
        """The state of each task of the run by the task's name."""
        found = self.ask("POST", "task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return {task["name"]: task["state"]["name"] for task in found}

    def artifacts(self, run: str) -> dict[str, Any]:
        found = self.ask("POST", "artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
        return {one["key"]: one for one in found}

    def artifact(self, run: str, key: str, seconds: float = 30) -> dict[str, Any]:
        """What the run's hook leaves, which runs once its state is known."""
        deadline = time.monotonic() + seconds
        while key not in (found := self.artifacts(run)):
            assert time.monotonic() < deadline, sorted(found)
            time.sleep(0.2)
        return dict(found[key])

    def state(self) -> dict[str, Any]:
        return dict(json.loads((self.path / ".cache/up/state.json").read_text()))

    def process(self, name: str) -> psutil.Process:
        """The server, or the worker, that is up now."""
        return psutil.Process(self.state()["processes"][name]["pid"])

    def flow_process(self, run: str) -> psutil.Process | None:
        """The process that runs the flow, wherever it hangs."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("PREFECT__FLOW_RUN_ID") == run and "prefect" in " ".join(process.cmdline()):
                    return process
        return None

    def log(self, name: str) -> str:
        return (self.path / f".cache/up/{name}.log").read_text(errors="replace")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """All of it up, in a workspace where every stage ran once."""
    home = tmp_path_factory.mktemp("up")
    port = free_port()
    environment = {**environment_of(home / "prefect"), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    up = Up(home / "light", environment, port)
    make_light(up.path)
    repro = subprocess.Popen([sys.executable, "-m", "dvc", "repro", "-q"], cwd=up.path, env=environment)
    done = up.command("flows.up", "--port", str(port))
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        (up.path / "said").write_text(done.stdout)
        assert repro.wait(120) == 0
        yield up
    finally:
        repro.kill()
        down = up.command("flows.down")
    assert down.returncode == 0, down.stdout + down.stderr
    assert not left(up)


def left(up: Up) -> list[str]:
    """Processes that still run for the workspace."""
    found = []
    for process in processes_of(Path(up.environment["PREFECT_HOME"])):
        with suppress(psutil.Error):  # it may end meanwhile
            found.append(" ".join(process.cmdline()))
    return found


def test_all_is_up_on_loopback_alone_and_a_second_up_says_so(up: Up) -> None:
    assert f"http://127.0.0.1:{up.port}" in (up.path / "said").read_text()
    again = up.command("flows.up", "--port", str(up.port))
    assert again.returncode == 0
    assert again.stdout.startswith("up already")
    state = up.state()
    listening = [
        connection.laddr
        for mark in state["processes"].values()
        for connection in psutil.Process(mark["pid"]).net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {place.ip for place in listening} == {"127.0.0.1"}
    assert {up.port, up.port + 1} <= {place.port for place in listening}
    assert state["restarts"] == {}
    names = {one["name"] for one in up.ask("POST", "deployments/filter", {})}
    assert names == {"train", "monitor", "retrain", "publish", "rollout", "tell"}
    limited = {one["name"] for one in up.ask("POST", "deployments/filter", {}) if one["global_concurrency_limit"]}
    assert limited == names - {"tell"}
    plans = [plan for one in up.ask("POST", "deployments/filter", {}) for plan in one["schedules"]]
    assert {plan["slug"]: plan["active"] for plan in plans} == {"weekly": False, "hourly": False}


def test_schedule_of_every_minute_is_taken(up: Up) -> None:
    schedule = {"schedule": {"cron": "* * * * *"}, "active": True}
    up.ask("POST", f"deployments/{up.deployment('publish/publish')['id']}/schedules", [schedule])  # it fires beside what follows


def test_form_in_the_browser_starts_a_run_to_its_end_with_artifacts(up: Up, browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 1600})
    pictures = Path(os.environ.get("SCREENSHOTS", up.path))
    address = f"http://127.0.0.1:{up.port}"
    page.goto(f"{address}/deployments/deployment/{up.deployment('train/train')['id']}/run")
    page.get_by_text("How often each network sees the training data").wait_for()
    epochs = page.locator("div.schema-form-property").filter(has_text="train.epochs").last
    epochs.locator("input").fill("10001")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("10001 is greater than the maximum of 10000").first.wait_for()
    epochs.locator("input").fill("3")
    page.screenshot(path=pictures / "form.png")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**tab=Runs**")
    mine = {"deployments": {"name": {"any_": ["train"]}}}
    [run] = [found["id"] for found in up.ask("POST", "flow_runs/filter", mine)]
    found = up.wait(run)
    assert found["state"]["name"] == "Completed", up.log("worker")
    assert found["name"].startswith("train flights, data ")
    assert ", code " in found["name"]
    states = up.tasks(run)
    assert {stage: states[stage] for stage in ("ingest", "tune", "train", "export")} == {
        "ingest": "Cached", "tune": "Cached", "train": "Completed", "export": "Completed",
    }  # fmt: skip
    page.goto(f"{address}/runs/flow-run/{run}")
    page.get_by_text("Cached").first.wait_for()
    page.get_by_text("Completed").first.wait_for()
    page.screenshot(path=pictures / "run.png")
    page.get_by_text("Artifacts", exact=True).click()
    for words in ("candidates", "quality", "summary"):
        page.get_by_text(words, exact=True).first.wait_for()
    page.screenshot(path=pictures / "artifacts.png")
    kept = up.artifacts(run)
    assert {"summary", "candidates", "quality", "model-card", "data-html", "progress-train"} <= set(kept)
    assert production(up.path) in kept["summary"]["data"]
    link = f"http://127.0.0.1:{up.port + 1}/data.html"
    assert link in kept["data-html"]["data"]
    assert httpx.get(link).text == (up.path / "reports/data.html").read_text()
    page.goto(f"{address}/artifacts/artifact/{kept['quality']['id']}")
    picture = page.locator("img[src^='data:image/png']").first
    picture.wait_for()
    assert picture.evaluate("one => one.naturalWidth") == 64
    page.close()
    assert {
        event["event"] for event in up.ask("POST", "events/filter", {"filter": {"event": {"prefix": ["tidemill."]}}})["events"]
    } == {"tidemill.released"}
    for record in (Path(up.environment["PREFECT_HOME"]) / "storage").iterdir():
        json.loads(record.read_text())  # no pickles


def test_schedule_of_every_minute_fires(up: Up) -> None:
    publish = up.deployment("publish/publish")
    mine = {"deployments": {"id": {"any_": [publish["id"]]}}, "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    deadline = time.monotonic() + 150
    while not (fired := up.ask("POST", "flow_runs/filter", mine)):
        assert time.monotonic() < deadline
        time.sleep(1)
    assert all(run["auto_scheduled"] for run in fired)
    for schedule in publish["schedules"]:
        up.ask("DELETE", f"deployments/{publish['id']}/schedules/{schedule['id']}")


def test_failed_run_tells_first_what_where_since_when_and_what_to_do(up: Up) -> None:
    run = up.start("train/train", epochs=BAD)
    found = up.wait(run)
    assert found["state"]["type"] == "FAILED"
    assert "column 'late' holds 'x' in 3 rows; expected 0 or 1" in found["state"]["message"]
    told = up.artifact(run, "failure")["data"]
    for words in (
        "column 'late' holds 'x'",
        "**where**: stage train",
        "**since**: the last run that went well ended",
        "**to do**: ",
    ):
        assert words in told
    logs = up.ask("POST", "logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}})
    assert any("column 'late' holds 'x'" in line["message"] for line in logs)
    assert not any("Traceback" in line["message"] for line in logs)


def test_run_by_hand_tells_its_outcome_as_json_and_its_failure_in_words(up: Up) -> None:
    failed = up.command("flows.train", "--offline", "--set", f"train.epochs={BAD}", "--json")
    assert failed.returncode == 3
    outcome = json.loads(failed.stdout)
    assert (outcome["state"], outcome["exit"]) == ("Failed", 3)
    assert outcome["stages"]["train"]["outcome"] == "Failed"
    assert up.read(outcome["run"])["state"]["type"] == "FAILED"
    assert "column 'late'" in outcome["error"]["message"]
    lines = failed.stderr.splitlines()
    begun = next(number for number, line in enumerate(lines) if line.startswith("error: train: column 'late'"))
    assert [line.partition(":")[0] for line in lines[begun:]] == ["error", "where", "since", "to do", "run"]
    assert "Traceback" not in failed.stderr

    environment = {**up.environment, "TIDEMILL_LOG": "json"}
    done = Up(up.path, environment, up.port).command("flows.train", "--offline", "--set", "train.epochs=3", "--json")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["release"]["version"] == outcome["release"]["served"] == production(up.path)
    said = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["run"] for line in said if line["stage"]} == {outcome["run"]}
    ended = [line["stage"] for line in said if line["event"] in ("cached", "restored", "completed") and line["stage"]]
    assert ended == ["ingest", "validate", "preprocess", "tune", "train", *ended[5:-1], "publish"]
    assert next(line for line in said if line["stage"] == "publish" and line["event"] != "begins")["release"] == production(up.path)


def test_of_missed_runs_the_last_one_alone_is_made_up_for(up: Up) -> None:
    publish = up.deployment("publish/publish")
    queue = f"work_pools/tidemill/queues/{publish['work_queue_name']}"
    up.ask("PATCH", queue, {"is_paused": True})
    schedule = {"schedule": {"interval": 1, "anchor_date": "2026-01-01T00:00:00Z"}, "active": True}
    made = up.ask("POST", f"deployments/{publish['id']}/schedules", [schedule])
    mine = {"deployments": {"id": {"any_": [publish["id"]]}}, "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}

    def due() -> list[dict[str, Any]]:
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        return [run for run in up.ask("POST", "flow_runs/filter", mine) if run["expected_start_time"] < now]

    try:
        deadline = time.monotonic() + 180  # what the server's quick look misses waits for the one of each minute
        while len(due()) < 5:
            assert time.monotonic() < deadline, due()
            time.sleep(0.5)
        up.ask("PATCH", f"deployments/{publish['id']}/schedules/{made[0]['id']}", {"active": False})
        code = "from datetime import timedelta; from tasks import deployed; print(deployed.drop_missed('tidemill', timedelta(0)))"
        dropped = subprocess.run([sys.executable, "-c", code], env=up.environment, capture_output=True, text=True, timeout=180)
    finally:
        up.ask("DELETE", f"deployments/{publish['id']}/schedules/{made[0]['id']}")
        up.ask("PATCH", queue, {"is_paused": False})
    assert int(dropped.stdout) >= 4, dropped.stderr


@pytest.mark.parametrize(("victim", "least"), [("flow", 14), ("worker", 20), ("server", 26)])
def test_kill_of_flow_worker_or_server_leaves_no_run_without_an_end_and_loses_nothing(up: Up, victim: str, least: int) -> None:
    chance = random.Random(victim)
    for number in range(int(os.environ.get("KILLS", "1"))):
        first = up.start("train/train", epochs=least + number)  # 7 s and more
        after = up.start("train/train", epochs=4 + number)  # waits: one run has the workspace at a time
        up.wait(first, "PENDING", "RUNNING")
        time.sleep(chance.uniform(0, 8))
        began = up.read(first)["state"]["type"] == "RUNNING"
        if victim == "flow":
            while not (process := up.flow_process(first)):
                time.sleep(0.1)
            process.kill()
        else:
            up.process(victim).kill()
        killed = time.monotonic()
        if victim == "server":
            while not up.answers():
                time.sleep(0.2)
        back = time.monotonic()
        ended = up.wait(first, seconds=120 if began else 300)  # one that had not begun is put back into the queue
        took = time.monotonic() - back
        # What only began while its worker or server died may have crashed; what was under way went on.
        may = {"flow": {"CRASHED"}, "worker": {"COMPLETED", "CRASHED"}, "server": {"COMPLETED", "CRASHED"}}
        assert ended["state"]["type"] in may[victim], ended["state"]
        went_on = up.wait(after, seconds=300)
        assert went_on["state"]["type"] == "COMPLETED", went_on["state"]
        told = f"{ended['state']['name']} {took:.1f} s after the server was up, which was {back - killed:.1f} s after the kill"
        print(f"\n{victim} {number}: {told}; {ended['state']['message'] or ''}")
        earlier, later = sorted([ended, went_on], key=lambda run: str(run["end_time"]))
        assert earlier["end_time"] <= later["start_time"] or not later["start_time"]  # one at a time
        last = max((run for run in (ended, went_on) if run["state"]["type"] == "COMPLETED"), key=lambda run: str(run["end_time"]))
        epochs = last["parameters"]["epochs"]
        assert (up.path / "made/train").read_text() == f"train of {epochs} epochs"
        assert (up.path / "releases" / production(up.path) / "model.tflite").read_bytes() == str(epochs).encode()
    if victim != "flow":
        assert up.state()["restarts"][victim] >= 1
    unfinished = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}}
    deadline = time.monotonic() + 120  # those that tell of a crash may just have begun
    while left_over := up.ask("POST", "flow_runs/filter", unfinished):
        assert time.monotonic() < deadline, left_over
        time.sleep(0.5)


def test_failed_run_is_told_to_people_and_that_it_is_over(up: Up) -> None:
    params = up.path / "params.yaml"
    before = params.read_text()
    with webhook() as sink:
        channels = f"alert.channels={{hook: {{kind: webhook, url: '{sink.url}', token: null, least: warning}}}}"
        params.write_text(with_values(before, [channels]))
        run = up.wait(up.start("train/train", epochs=BAD))
        assert run["state"]["type"] == "FAILED"
        told = sink.wait(lambda body: body["status"] == "firing", 120)
        assert "failed in train" in told["title"]
        for words in ("column 'late' holds 'x'", "where: stage train", "since: ", "to do: ", run["id"]):
            assert words in told["text"]
        assert up.wait(up.start("train/train", epochs=3))["state"]["type"] == "COMPLETED"
        sink.wait(lambda body: body["status"] == "resolved")
        assert [body["status"] for body in sink.bodies] == ["firing", "resolved"]
    params.write_text(before)


def test_drift_starts_a_retraining_that_knows_why(up: Up) -> None:
    event = {
        "occurred": datetime.now(UTC).isoformat(),
        "event": "tidemill.drift",
        "resource": {"prefect.resource.id": "tidemill.model.flights"},
        "payload": {"workspace": str(up.path), "why": 'distance: mean 0.31 sd "higher" {{ 1 }}'},
        "id": str(uuid4()),
    }
    up.ask("POST", "events", [event])
    mine = {"deployments": {"name": {"any_": ["retrain"]}}}
    deadline = time.monotonic() + 60
    while not (found := up.ask("POST", "flow_runs/filter", mine)):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert [run["parameters"] for run in found] == [{"workspace": str(up.path), "why": event["payload"]["why"]}]
    up.wait(found[0]["id"])


def test_server_that_a_run_by_hand_started_meanwhile_is_left_to_serve(up: Up) -> None:
    keeper = psutil.Process(up.state()["keeper"]["pid"])
    before = up.state()["restarts"].get("server", 0)
    keeper.suspend()
    try:
        up.process("server").kill()
        done = up.command("flows.train", "--set", "train.epochs=3")
    finally:
        keeper.resume()
    own = psutil.Process(int((Path(up.environment["PREFECT_HOME"]) / "server.pid").read_text()))
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        assert "started a Prefect server" in done.stdout
        time.sleep(10)  # ten looks of the keeper
        assert (own.is_running(), up.answers(), up.state()["restarts"].get("server", 0)) == (True, True, before)
    finally:
        own.kill()
    deadline = time.monotonic() + 90
    while up.state()["restarts"].get("server", 0) == before or not up.answers():
        assert time.monotonic() < deadline, up.log("keeper")
        time.sleep(0.5)


def test_fresh_clone_deploys_all(up: Up, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    here = Up(clone, {**up.environment, "PYTHONPATH": str(clone)}, up.port)
    done = here.command("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    train = up.deployment("train/train")
    assert train["pull_steps"] == [{"prefect.deployments.steps.set_working_directory": {"directory": str(clone)}}]
    form = train["parameter_openapi_schema"]["properties"]
    assert form["epochs"]["description"] == "How often each network sees the training data (train.epochs); 0: as params.yaml says."
    assert {"minimum": 0, "maximum": 10_000, "type": "integer", "default": 0}.items() <= form["epochs"].items()
    action = up.deployment("rollout/rollout")["parameter_openapi_schema"]["properties"]["action"]
    assert action["enum"] == ["promote", "canary", "shadow", "close canary", "close shadow", "rollback"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--port", "0"], "--port: found 0"),
        (["--database", "mysql://ann@127.0.0.1/x"], "expected postgresql+asyncpg://USER@HOST:PORT/NAME"),
        (["--database", "postgresql+asyncpg://ann:hunter2@127.0.0.1/x"], "holds a password"),
        (["--workspace", "nowhere"], "params.yaml"),
    ],
)
def test_bad_flag_starts_nothing(tmp_path: Path, flags: list[str], words: str) -> None:
    make_light(tmp_path / "light")
    up = Up(tmp_path / "light", environment_of(tmp_path / "home"), 0)
    port = [] if "--port" in flags else ["--port", str(free_port())]
    done = up.command("flows.up", *port, *flags)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "hunter2" not in done.stderr
    assert not left(up)


def test_of_two_at_once_one_starts_it_and_the_other_finds_it_up(tmp_path: Path) -> None:
    make_light(tmp_path / "light")
    port = free_port()
    both = Up(tmp_path / "light", environment_of(tmp_path / "home"), port)
    try:
        with ThreadPoolExecutor(2) as pool:
            done = list(pool.map(lambda _: both.command("flows.up", "--port", str(port)), range(2)))
        assert [one.returncode for one in done] == [0, 0], [one.stderr for one in done]
        assert sorted("up already" in one.stdout for one in done) == [False, True]
    finally:
        assert both.command("flows.down").returncode == 0
    assert not left(both)


def test_server_on_postgresql_behind_a_login_and_a_down_that_cancels_what_runs(tmp_path: Path) -> None:
    with running_postgres() as make:
        base = make("prefect")
        port = free_port()
        environment = {
            **environment_of(tmp_path / "prefect"),
            "PREFECT_SERVER_API_AUTH_STRING": LOGIN,
            "PREFECT_SERVER_DATABASE_PASSWORD": PASSWORD,
        }
        user, _, word = LOGIN.partition(":")
        mine = Up(tmp_path / "light", environment, port, (user, word))
        make_light(mine.path)
        assert mine.command("dvc", "repro", "-q").returncode == 0
        done = mine.command(
            "flows.up", "--port", str(port), "--database", f"postgresql+asyncpg://tide@127.0.0.1:{base.port}/prefect"
        )
        try:
            assert done.returncode == 0, done.stdout + done.stderr
            assert httpx.get(f"http://127.0.0.1:{port}/api/version").status_code == 401
            assert mine.wait(mine.start("publish/publish"))["state"]["type"] == "COMPLETED", mine.log("worker")
            stranger = Up(mine.path, environment_of(tmp_path / "other") | {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}, port)
            refused = stranger.command("flows.train")
            assert refused.returncode == 1
            assert "asks for a login" in refused.stderr
            run = mine.start("train/train", epochs=200)
            while not (mine.path / ".cache/child.json").exists():
                time.sleep(0.1)
        finally:
            down = mine.command("flows.down")
        assert down.returncode == 0, down.stderr
        assert not left(mine)
        told = base.run("SELECT id::text, state_name FROM flow_run")
        assert dict(told)[run] == "Cancelled"
        for path in (mine.path / ".cache/up").iterdir():
            assert PASSWORD not in path.read_text()
            assert word not in path.read_text()

"""The closed loop for real, on this machine: `python -m benchmarks.loop`; prints the time line, and needs nobody's hand.

Prefect's server and a worker, the service with its prediction log, an S3 endpoint for releases and log, a webhook, a mail server.
Traffic shifts; the monitor, on its cron, finds drift; the alert arrives; the event runs `retrain`; the challenger is tried by the
service as a canary and promoted. Then a challenger that learned wrong labels is dropped, and a feed that drifts again and again
causes no more retrainings than the ceiling.
"""

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from benchmarks.world import ROOT, Client, World, append, make_workspace
from tasks import server
from tests.conftest import free_port
from tests.s3 import S3
from tests.s3 import serving as s3_serving
from tests.sinks import Mailbox, Webhook, mailbox, webhook

EVERY_SECONDS = 0.25  # between two requests, of ROWS each
ROWS = 4
PATIENCE = 1800.0  # seconds for each thing that is waited for
CEILING = 3
BUSY = 5  # the exit code of a command that finds the workspace in use
HOURS = 0.025  # of a window: 90 seconds
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Line:
    """Prints what happened and when, once each."""

    started: float = field(default_factory=time.monotonic)
    seen: set[str] = field(default_factory=set)

    def tell(self, what: str) -> None:
        if what not in self.seen:
            self.seen.add(what)
            print(f"{time.monotonic() - self.started:7.1f} s  {what}", flush=True)


@dataclass
class Traffic(threading.Thread):
    """Clients that ask, and tell what became true a moment later, until `over` is set."""

    client: Client
    world: World
    over: threading.Event = field(default_factory=threading.Event)
    asked: int = 0

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def run(self) -> None:
        while not self.over.wait(EVERY_SECONDS):
            rows = [self.world.row() for _ in range(ROWS)]
            name = f"order-{os.getpid()}-{self.asked}"
            self.client.predict(rows, name)
            self.client.tell(rows, name)
            self.asked += 1

    __hash__ = threading.Thread.__hash__


@contextmanager
def running(words: list[str], log: Path, environment: dict[str, str], cwd: Path = ROOT) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as said, subprocess.Popen(words, cwd=cwd, env=environment, stdout=said, stderr=said) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def wait(fits: Callable[[], bool], what: str, log: Path | None = None) -> None:
    deadline = time.monotonic() + PATIENCE
    while not fits():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not within {PATIENCE:.0f} s" + (f"\n{log.read_text()[-3000:]}" if log else ""))
        time.sleep(0.5)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def post(url: str, document: Any) -> Any:
    asked = urllib.request.Request(url, json.dumps(document).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        return json.load(answer)


def write_deployments(folder: Path, workspace: Path) -> Path:
    """What the schedule and the automation of the loop are, for `prefect deploy`."""
    pull = [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}]
    pool = {"name": "loop"}
    drift = {
        "enabled": True,
        "match": {"prefect.resource.id": "tidemill.model.mill"},
        "expect": ["tidemill.drift"],
        "parameters": {"workspace": str(workspace), "why": "drift: {{ event.payload.why }}"},
    }
    monitor = {"name": "monitor", "entrypoint": "flows.monitor.monitor", "parameters": {"workspace": str(workspace)}}
    retrain = {"name": "retrain", "entrypoint": "flows.retrain.retrain", "parameters": {"workspace": str(workspace)}}
    deployments = [
        {**monitor, "work_pool": pool, "schedules": [{"cron": "* * * * *"}], "concurrency_limit": 1},
        {**retrain, "work_pool": pool, "triggers": [drift], "concurrency_limit": 1},
    ]
    path = folder / "prefect.yaml"  # of which JSON is a part
    path.write_text(json.dumps({"name": "loop", "pull": pull, "deployments": deployments}))
    return path


def channel(s3: S3, name: str) -> dict[str, Any]:
    """What the channel of the store serves now."""
    from botocore.exceptions import ClientError

    client = s3.client()
    try:
        found: dict[str, Any] = json.load(client.get_object(Bucket="mill", Key=f"releases/channels/{name}.json")["Body"])
    except ClientError:
        return {"version": None, "why": ""}
    finally:
        client.close()
    return found


def attempts(s3: S3) -> list[dict[str, Any]]:
    """The retrainings that the store remembers."""
    from botocore.exceptions import ClientError

    client = s3.client()
    try:
        key = "releases/monitor/mill/retrainings.json"
        found: list[dict[str, Any]] = json.load(client.get_object(Bucket="mill", Key=key)["Body"])["retrainings"]
    except ClientError:
        return []
    finally:
        client.close()
    return found


def look(line: Line, api: str, s3: S3, hook: Webhook, box: Mailbox) -> None:
    """Everything that is new by now is on the time line."""
    for body in list(hook.bodies):
        line.tell(f"webhook   {body['severity']}, {body['status']}: {body['title']}")
    for mail in list(box.mails):
        line.tell(f"mail      {mail['Subject']}")
    flows = {flow["id"]: flow["name"] for flow in post(f"{api}/flows/filter", {})}
    for run in post(f"{api}/flow_runs/filter", {"sort": "EXPECTED_START_TIME_ASC", "limit": 200}):
        name, state = flows[run["flow_id"]], run["state"]["name"] if run["state"] else ""
        if name == "retrain" or state in ("Failed", "Crashed"):
            line.tell(f"run       {name} {run['id'][:8]} {state}")
    for events in (post(f"{api}/events/filter", {"limit": 50, "filter": {"event": {"prefix": ["tidemill."]}}})["events"],):
        for event in reversed(events):
            payload = event["payload"]
            told = f"{payload['outcome']}: {payload['reason']}" if "outcome" in payload else payload.get("why", "")
            line.tell(f"event     {event['event']} {event['id'][:8]}: {told[:140]}")
    for name in ("production", "canary"):
        found = channel(s3, name)
        line.tell(f"channel   {name}: {found['version'] or 'closed'} {str(found.get('why'))[:110]}")


def loop(folder: Path) -> None:
    line, world = Line(), World(random.Random(2013))
    workspace = folder / "mill"
    with ExitStack() as stack:
        s3, hook, box = (stack.enter_context(one()) for one in (s3_serving, webhook, mailbox))
        client = s3.client()
        client.create_bucket(Bucket="mill")
        client.close()
        api = f"http://127.0.0.1:{free_port()}/api"
        environment = {
            **os.environ, **s3.environment, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(folder / "prefect"),
            **server.environment(api),  # without the heartbeats that it asks for, the server takes runs of the worker for dead
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }  # fmt: skip
        ways = {
            "ops": {"kind": "webhook", "url": hook.url, "least": "info"},
            "ann": {"kind": "email", "host": "127.0.0.1", "port": box.port, "security": "none", "sender": "mill@example.com",
                    "to": ["ann@example.com"], "least": "warning"},
        }  # fmt: skip
        places = {"release": {"store": "s3://mill/releases"}, "monitor": {"log": "s3://mill/log", "hours": HOURS}}
        make_workspace(workspace, world, **places, alert={"channels": ways}, retrain={"most_a_day": CEILING})

        def python(*words: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", *words]
            return subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True)

        stack.callback(python, "prefect", "server", "stop")
        done = python("flows.train")
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        line.tell("trained   the first release")
        python("prefect", "work-pool", "create", "loop", "--type", "process")
        stack.enter_context(
            running([sys.executable, "-m", "prefect", "worker", "start", "--pool", "loop"], folder / "worker.log", environment)
        )
        port = free_port()
        flags = ["--store", "s3://mill/releases", "--log", "s3://mill/log", "--log-flush", "1", "--poll", "1", "--port", str(port)]
        stack.enter_context(running([sys.executable, "-m", "serving", *flags], folder / "service.log", environment))
        wait(lambda: answers(f"http://127.0.0.1:{port}/readyz"), "the service", folder / "service.log")
        line.tell("up        S3 endpoint, Prefect server, worker, service with its log, webhook, mail server")
        traffic = Traffic(Client(port), world)
        traffic.start()
        stack.callback(traffic.over.set)
        line.tell("traffic   as it was learned from")
        # Windows follow one another from the first on record: the one that traffic fills first, not the hour that its log is of.
        wide = timedelta(hours=HOURS)
        start = EPOCH + wide * math.ceil((datetime.now(UTC) - EPOCH) / wide)
        time.sleep((start + wide - datetime.now(UTC)).total_seconds() + 10)
        judged = python("flows.monitor", "--start", start.isoformat(), "--end", (start + wide).isoformat(), "--json")
        if judged.returncode:
            raise SystemExit(judged.stdout + judged.stderr)
        line.tell(f"monitor   by hand, the first window: {json.loads(judged.stdout)['reports'][0]['verdict']}")
        deployed = python("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(write_deployments(folder, workspace)))
        if deployed.returncode:
            raise SystemExit(deployed.stdout + deployed.stderr)

        def until(fits: Callable[[], bool], what: str) -> None:
            def seen() -> bool:
                with suppress(OSError):  # a server with much to do; the next look sees it
                    look(line, api, s3, hook, box)
                    return fits()
                return False

            wait(seen, what, folder / "worker.log")

        until(lambda: sum("tidemill.watched" in one for one in line.seen) >= 2, "a window without drift, by the cron")
        first = channel(s3, "production")["version"]
        world.shift()
        now = datetime.now(UTC)
        append(workspace, world.history(now - timedelta(days=6), now, 3000))
        line.tell("traffic   shifts; the source has 3,000 rows of the new kind")
        until(lambda: channel(s3, "production")["version"] != first, "a promoted challenger")
        second = channel(s3, "production")["version"]
        until(lambda: any(one["outcome"] == "promoted" for one in attempts(s3)), "the end of the retraining")
        look(line, api, s3, hook, box)

        line.tell("source    now holds rows with wrong labels")
        wrong = World(random.Random(7), world.mean, -world.pull)
        append(workspace, wrong.history(now - timedelta(days=5), datetime.now(UTC) - timedelta(days=2), 8000))
        flags = ["--why", "the wrong labels came", "--force", "--json"]
        while (dropped := python("flows.retrain", *flags)).returncode == BUSY:  # an event was first
            look(line, api, s3, hook, box)
            time.sleep(5)
        said = json.loads(dropped.stdout)["retraining"]
        line.tell(f"retrain   by hand: exit code {dropped.returncode}, {said['outcome']}: {said['reason']}")
        look(line, api, s3, hook, box)

        line.tell("feed      drifts five times more")
        started = count_retrainings(api) + 5
        for i in range(5):
            resource = {"prefect.resource.id": "tidemill.model.mill"}
            event = {"event": "tidemill.drift", "resource": resource, "payload": {"why": f"again, {i}"}, "related": []}
            post_event(api, event)
        until(lambda: idle(api, started), "the runs of the oscillating feed")
        began = [one for one in attempts(s3) if one["outcome"] != "unchanged"]
        line.tell(f"ceiling   {len(began)} retrainings began, forced ones included; retrain.most_a_day is {CEILING}")
        assert channel(s3, "production")["version"] == second
        line.tell(f"served    {traffic.asked * ROWS:,} rows, none refused; production serves {second}, before it {first}")


def count_retrainings(api: str, *states: str) -> int:
    """Runs of retrain that the server knows, or those that are in one of these types of states."""
    asked: dict[str, Any] = {"flows": {"name": {"any_": ["retrain"]}}}
    if states:
        asked["flow_runs"] = {"state": {"type": {"any_": list(states)}}}
    return int(post(f"{api}/flow_runs/count", asked))


def idle(api: str, runs: int) -> bool:
    """Whether so many retrainings were asked for, and none is under way or waits."""
    return count_retrainings(api) >= runs and not count_retrainings(api, "SCHEDULED", "PENDING", "RUNNING")


def post_event(api: str, event: dict[str, Any]) -> None:
    """The event is on the server's stream."""
    document = {**event, "id": str(uuid4()), "occurred": datetime.now(UTC).isoformat()}
    asked = urllib.request.Request(f"{api}/events", json.dumps([document]).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        answer.read()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loop", description=__doc__)
    parser.add_argument("--folder", type=Path, help="for workspace and logs, new (a temporary one)")
    args = parser.parse_args()
    if args.folder:
        args.folder.mkdir(parents=True)
        loop(args.folder.resolve())
    else:
        with tempfile.TemporaryDirectory() as made:
            loop(Path(made))

"""Prefect's own server for runs by hand: found, or started on loopback; and no dead run stays Running there."""

import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import httpx
from prefect import get_client
from prefect.automations import Automation
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import State, StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_API_URL, PREFECT_HOME
from prefect.states import Crashed

from tasks.core.errors import TidemillError

LOCAL = "http://127.0.0.1:4200/api"
SECONDS_TO_START = 90
HEARTBEAT_SECONDS = 30
ZOMBIES = "tidemill: a run without heartbeat is Crashed"


def find_server() -> tuple[str, str]:
    """The URL of a server that answers, and what to say of it: an own one is started on loopback when none does.

    TidemillError when the URL that is set is none, or belongs to another machine, which does not answer.
    """
    url = address()
    try:
        parts = urlsplit(url)
        local = parts.hostname in ("127.0.0.1", "localhost", "::1") and (parts.port or 80) > 0
    except ValueError as error:
        raise TidemillError(f"PREFECT_API_URL={url}: {error}; expected for example {LOCAL}") from error
    if local and parts.path != "/api":
        raise TidemillError(f"PREFECT_API_URL={url}: expected it to end in /api, as in {LOCAL}")
    if answers(url):
        return url, ""
    if not local:
        raise TidemillError(f"the Prefect server at {url} does not answer; start it, or unset PREFECT_API_URL to use a local one")
    start(url)
    page = url.removesuffix("/api")
    return url, f"started a Prefect server at {page}; it stays up for the next runs; stop it with `prefect server stop`"


def address() -> str:
    """The URL of the API that runs talk to: the one that is set, or the local one."""
    return (PREFECT_API_URL.value() or LOCAL).rstrip("/")


def answers(url: str) -> bool:
    """Whether a Prefect API is healthy at the URL; one behind a login counts too."""
    headers = {}
    if key := PREFECT_API_KEY.value():
        headers["Authorization"] = f"Bearer {key.get_secret_value()}"
    auth = PREFECT_API_AUTH_STRING.value()
    pair = tuple(auth.get_secret_value().split(":", 1)) if auth else None
    try:
        answer = httpx.get(f"{url}/health", timeout=3, headers=headers, auth=pair)
    except httpx.HTTPError:
        return False
    return answer.status_code == 200 and answer.json() is True


def start(url: str) -> None:
    """A server answers at the loopback URL, in the background, its words in PREFECT_HOME/server.log."""
    port = urlsplit(url).port or 80
    home = PREFECT_HOME.value()
    home.mkdir(parents=True, exist_ok=True)
    # On another port than its own the page looks for the API in the wrong place, unless told.
    environment = {**os.environ, "PREFECT_SERVER_UI_API_URL": url, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    # Not --background: that leaves the server writing into a closed pipe, and its first line of log ends it.
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    deadline = time.monotonic() + SECONDS_TO_START
    while not answers(url):
        if server.poll() is not None or time.monotonic() > deadline:
            said = " ".join((home / "server.log").read_text(errors="replace").split()[-30:])
            raise TidemillError(
                f"no Prefect server could be started at {url}: {said or 'no answer'}. "
                "Or use another port: PREFECT_API_URL=http://127.0.0.1:4300/api"
            )
        time.sleep(0.2)
    (home / "server.pid").write_text(str(server.pid))  # where `prefect server stop` looks


def bury(dead: list[str], workspace: Path) -> None:
    """Runs that died with their process are Crashed on the server: the dead ones, and any of the workspace that never began."""
    end_runs([*dead, *find_pending(workspace)], Crashed(message="its process was killed"))


def find_pending(workspace: Path) -> list[str]:
    """Ids of the runs by hand in the workspace that the server heard of and that did not begin."""
    pending = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PENDING])))
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=pending)
    return [str(run.id) for run in runs if run.deployment_id is None and run.parameters.get("workspace") == str(workspace)]


def end_runs(runs: list[str], state: State[None]) -> None:
    """Each of the runs is in this state, unless it had ended, or the server does not know it."""
    with get_client(sync_client=True) as client:
        for run in runs:
            try:
                now = client.read_flow_run(UUID(run)).state
            except ObjectNotFound:
                continue
            # The engine marks an interrupted run Crashed; that it was asked to stop is the better word.
            if now is None or not now.is_final() or (now.is_crashed() and state.is_cancelled()):
                client.set_flow_run_state(UUID(run), state, force=True)


def watch_heartbeats() -> None:
    """The server itself marks a run Crashed whose heartbeat stops, so that nobody has to come and look."""
    with get_client(sync_client=True) as client:
        if client.read_automations_by_name(ZOMBIES):
            return
    ends = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    Automation(
        name=ZOMBIES,
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *ends},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=3 * HEARTBEAT_SECONDS,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="no heartbeat for 90 seconds: its process is gone")],
    ).create()

"""Prefect's own server: found, or started on loopback; how runs talk to it, and that no dead run stays Running there."""

import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import httpx
from filelock import FileLock
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import State, StateType
from prefect.context import refresh_global_settings_context
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, get_current_settings
from prefect.states import Crashed

from tasks.core.errors import TidemillError

LOCAL = "http://127.0.0.1:4200/api"
SECONDS_TO_START = 90
CONNECT_SECONDS = 3  # to find out that nothing listens
BUSY_SECONDS = 60  # that a server which listens has to answer who depends on it: with much to do at once it takes its time
HEARTBEAT_SECONDS = 30
LOG = "TIDEMILL_LOG"  # json: lines for machines


def find_server() -> tuple[str, str]:
    """The URL of a server that answers, if after a while, and what to say of it: an own one is started on loopback when none does.

    TidemillError when the URL that is set is none, belongs to another machine, which does not answer, or asks for a login.
    """
    url = address()
    local = is_local(url)
    if not answers(url, BUSY_SECONDS):
        if not local:
            raise TidemillError(f"the Prefect server at {url} does not answer; start it, or unset PREFECT_API_URL to use one here")
        home = PREFECT_HOME.value()
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / "server.lock"):  # two new servers would make the tables of one database at the same time
            if not answers(url, BUSY_SECONDS):
                start(url, home)
                page = url.removesuffix("/api")
                return url, f"started a Prefect server at {page}; it stays up for the next runs; stop it with `prefect server stop`"
    refuse_login(url)
    return url, ""


def address() -> str:
    """The URL of the API that runs talk to: the one that is set, or the local one."""
    return (PREFECT_API_URL.value() or LOCAL).rstrip("/")


def is_local(url: str) -> bool:
    """Whether the URL is of this machine; TidemillError when it is none of an API."""
    try:
        parts = urlsplit(url)
        local = parts.hostname in ("127.0.0.1", "localhost", "::1") and (parts.port or 80) > 0
    except ValueError as error:
        raise TidemillError(f"PREFECT_API_URL={url}: {error}; expected for example {LOCAL}") from error
    if local and parts.path != "/api":
        raise TidemillError(f"PREFECT_API_URL={url}: expected it to end in /api, as in {LOCAL}")
    return local


def answers(url: str, seconds: float = CONNECT_SECONDS) -> bool:
    """Whether a Prefect API says within these seconds that it is healthy; one behind a login counts too."""
    answer = ask(f"{url}/health", seconds)
    return answer is not None and answer.status_code == 200 and answer.text.strip() == "true"  # other programs answer pages


def refuse_login(url: str) -> None:
    """TidemillError when the server at the URL asks for a login, and does not take ours."""
    answer = ask(f"{url}/version", BUSY_SECONDS)  # its health it tells everybody
    if answer is not None and answer.status_code == 401:
        raise TidemillError(f"the Prefect server at {url} asks for a login: set PREFECT_API_AUTH_STRING to its USER:PASSWORD")


def ask(url: str, seconds: float) -> httpx.Response | None:
    """What the API answers, within these seconds, to who has our login; None, and sooner, when nothing listens."""
    headers = {}
    api = get_current_settings().api
    if api.key:
        headers["Authorization"] = f"Bearer {api.key.get_secret_value()}"
    auth = api.auth_string
    user, _, password = auth.get_secret_value().partition(":") if auth else ("", "", "")
    try:
        patience = httpx.Timeout(seconds, connect=CONNECT_SECONDS)
        return httpx.get(url, timeout=patience, headers=headers, auth=(user, password) if auth else None)
    except httpx.HTTPError:
        return None


def configure(url: str) -> None:
    """Prefect, in all threads, talks to the server at the URL."""
    os.environ.update(environment(url))
    refresh_global_settings_context()


def environment(url: str) -> dict[str, str]:
    """What a run needs in its environment: the server, its heartbeat, results that are JSON, as pickles would run code."""
    lines = {"PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER": "json"} if os.environ.get(LOG) == "json" else {}
    return {
        "PREFECT_API_URL": url,
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
        **lines,
    }


def server_environment(url: str) -> dict[str, str]:
    """The server's: on another port than its own the page looks for the API in the wrong place, unless told. Its leases of the
    deployments' slots outlive it: by default it forgets them, and cancels the run that a worker is just starting."""
    return {
        **os.environ,
        "PREFECT_SERVER_UI_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    }


def command(url: str) -> list[str]:
    """What starts a server on loopback for the URL.

    Not with --background: that leaves it writing into a closed pipe, and its first line of log ends it.
    """
    port = urlsplit(url).port or 80
    return [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]


def start(url: str, home: Path) -> None:
    """A server answers at the loopback URL, in the background, its words in server.log of Prefect's home."""
    with (home / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command(url), env=server_environment(url), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
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

"""Prefect's server, a worker and the schedules on this machine: `python -m flows.up`; `python -m flows.down` ends them."""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import psutil
from filelock import FileLock, Timeout
from prefect.settings import PREFECT_HOME

from flows.exits import EXITS
from tasks import keep, server
from tasks.core.errors import ParamsError, TidemillError
from tasks.run import begin

FOLDER, LOCK = Path(".cache/up"), "up.lock"
POOL = "tidemill"
DATABASE, DATABASE_PASSWORD = "PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_SERVER_DATABASE_PASSWORD"
LOGIN, OWN_LOGIN = "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"  # of the server, of those who talk to it
SECONDS = 240  # until all is up
TAKEN_SECONDS = 15  # for another server to end


def main() -> int:
    """Start what is not up yet and say where it is; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.up", description=__doc__, epilog=EXITS)
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder with params.yaml that the schedules work in (here)")
    parser.add_argument("--port", type=int, help="of the server (that of PREFECT_API_URL, or 4200); reports get the next")
    parser.add_argument(
        "--database", metavar="URL", help=f"postgresql+asyncpg://USER@HOST/NAME; the password in {DATABASE_PASSWORD}"
    )
    args = parser.parse_args()
    try:
        workspace = begin(args.workspace)
        if os.environ.get(LOGIN):
            os.environ.setdefault(OWN_LOGIN, os.environ[LOGIN])
        server.configure(server.address() if args.port is None else url_of(args.port))
        folder = workspace / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK, timeout=SECONDS):  # of two at once one starts it, and the other finds it up
            state = keep.State.read(folder)
            if state and state.ready and state.keeper.process():
                print("up already")
            else:
                if state and (half := state.keeper.process()):
                    end(half)
                keep.end_left(folder)
                state = start(folder, plan(workspace, args.database))
        show(state, folder)
    except Timeout:
        print(f"error: another `python -m flows.up` is at it for {SECONDS} s; look into {folder}", file=sys.stderr)
        return TidemillError.exit_code
    except TidemillError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; `python -m flows.down` ends what was started", file=sys.stderr)
        return 130
    return 0


def url_of(port: int) -> str:
    """Of an API on loopback; ParamsError for a port that is none."""
    if not 1 <= port <= 65_534:
        raise ParamsError(f"--port: found {port}; expected 1 to 65534")
    return f"http://127.0.0.1:{port}/api"


def plan(workspace: Path, database: str | None) -> keep.Plan:
    """What is to be started: the server too, unless one answers that this command cannot take the place of."""
    url = server.address()
    local = server.is_local(url)
    if database:
        os.environ[DATABASE] = with_password(database)
    if server.answers(url, server.BUSY_SECONDS) and not (local and take_over(url)):
        server.refuse_login(url)
        if database:
            raise TidemillError(f"a Prefect server answers at {url} already, with a database of its own; leave --database out")
        return keep.Plan(str(workspace), url, POOL, serves=False)
    if not local:
        raise TidemillError(f"the Prefect server at {url} does not answer; start it, or unset PREFECT_API_URL to have one here")
    # With a login before the server, there is none before the reports: who may log in finds them in the workspace.
    reports = None if os.environ.get(LOGIN) else (urlsplit(url).port or 80) + 1
    return keep.Plan(str(workspace), url, POOL, serves=True, database=database, reports=reports)


def with_password(url: str) -> str:
    """The URL with the password of the environment; ParamsError for one that is none of PostgreSQL, or that shows a password."""
    try:
        parts = urlsplit(url)
        if parts.password:
            raise ParamsError(
                f"--database holds a password, which everybody on this machine can see; leave it out and set {DATABASE_PASSWORD}"
            )
        found = parts.scheme == "postgresql+asyncpg" and parts.hostname and parts.path.strip("/")
    except ValueError:
        found = None
    if not found:
        raise ParamsError(f"--database {url!r}: expected postgresql+asyncpg://USER@HOST:PORT/NAME")
    password = os.environ.get(DATABASE_PASSWORD)
    if not password:
        return url
    user, _, place = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{place}"))


def take_over(url: str) -> bool:
    """Whether the server there was one that a run by hand had started; it is ended, and its database is used further."""
    record = PREFECT_HOME.value() / "server.pid"
    try:
        process = psutil.Process(int(record.read_text()))
        words = process.cmdline()
    except (OSError, ValueError, psutil.Error):
        return False
    if "prefect" not in words or str(urlsplit(url).port) not in words:
        return False
    print(f"takes the place of the server that a run by hand had started (pid {process.pid})")
    end(process)
    record.unlink(missing_ok=True)
    return True


def end(process: psutil.Process) -> None:
    """It has ended, asked first."""
    process.terminate()
    try:
        process.wait(TAKEN_SECONDS)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait(TAKEN_SECONDS)


def start(folder: Path, plan: keep.Plan) -> keep.State:
    """All of it runs and is healthy. TidemillError when something does not, and then nothing does."""
    (folder / keep.PLAN).write_text(json.dumps(asdict(plan)))
    (folder / keep.STATE).unlink(missing_ok=True)
    for old in folder.glob("*.log"):
        old.replace(old.with_suffix(".log.before"))
    command = [sys.executable, "-m", keep.__name__, str(folder)]
    with (folder / "keeper.log").open("wb") as log:
        keeper = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        state = keep.State.read(folder)
        if state and state.ready:
            return state
        if keeper.poll() is not None:
            break
        time.sleep(0.2)
    keeper.terminate()
    keeper.wait(4 * TAKEN_SECONDS)
    state = keep.State.read(folder)
    raise TidemillError((state and state.error) or f"it did not come up within {SECONDS} s; look into {folder}")


def show(state: keep.State, folder: Path) -> None:
    """Where everything is."""
    plan = state.plan
    page = plan.url.removesuffix("/api")
    print(f"server     {page}" + ("" if plan.serves else " (not started here, and not started again when it dies)"))
    if plan.serves:
        print(f"database   {plan.database or f'SQLite in {PREFECT_HOME.value()}'}")
    print(f"worker     pool {plan.pool}, in {plan.workspace}")
    if plan.reports:
        print(f"reports    http://127.0.0.1:{plan.reports}")
    print(f"schedules  {page}/deployments: those that are off are switched on there")
    print(f"logs       {folder}")
    print("end it with: python -m flows.down")


if __name__ == "__main__":
    sys.exit(main())

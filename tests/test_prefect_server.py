"""Prefect's server as commands find it: started once, waited for while it is busy, and not taken for another program."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from tests.conftest import environment_of, free_port, processes_of

pytestmark = pytest.mark.slow
FIND = """
from tasks import server
from tasks.core.errors import TidemillError
try:
    print(server.find_server()[1])
except TidemillError as error:
    print(f"error: {error}")
"""


@dataclass
class Machine:
    """One that had no server yet."""

    home: Path
    port: int

    def find(self) -> "subprocess.Popen[str]":
        environment = {**environment_of(self.home), "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api"}
        return subprocess.Popen(
            [sys.executable, "-c", FIND], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "prefect", free_port())
    yield made
    for process in processes_of(made.home):
        with suppress(psutil.Error):
            process.kill()


def said(find: "subprocess.Popen[str]") -> str:
    out, err = find.communicate(timeout=180)
    assert (find.returncode, "Traceback" in err) == (0, False), err
    return out.strip()


def test_commands_at_once_start_one_server_and_wait_for_it_while_it_is_busy(machine: Machine) -> None:
    told = sorted(said(find) for find in [machine.find() for _ in range(3)])
    assert told[:2] == ["", ""]
    assert told[2].startswith(f"started a Prefect server at http://127.0.0.1:{machine.port}; ")
    pid = int((machine.home / "server.pid").read_text())
    up = processes_of(machine.home)
    assert pid in {process.pid for process in up}

    for process in up:
        process.send_signal(signal.SIGSTOP)
    try:
        find = machine.find()
        time.sleep(15)  # several times what it takes to find out that nothing listens
        assert find.poll() is None
    finally:
        for process in up:
            process.send_signal(signal.SIGCONT)
    assert said(find) == ""
    assert {process.pid for process in processes_of(machine.home)} == {process.pid for process in up}


def test_other_program_at_the_port_is_not_taken_for_a_server(machine: Machine) -> None:
    class Page(BaseHTTPRequestHandler):
        """One page for every address, as the servers of web frameworks have it."""

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html></html>")

    with ThreadingHTTPServer(("127.0.0.1", machine.port), Page) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            error = said(machine.find())
        finally:
            other.shutdown()
            thread.join()
    assert error.startswith(f"error: no Prefect server could be started at http://127.0.0.1:{machine.port}/api: ")
    assert "already in use" in error
    assert error.endswith("Or use another port: PREFECT_API_URL=http://127.0.0.1:4300/api")

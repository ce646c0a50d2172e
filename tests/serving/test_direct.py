"""Requests that are answered without an application: as those are that come another way, each in its turn, none lost."""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from serving import protocol
from serving.__main__ import parse
from serving.metrics import Metrics
from serving.protocol import LEAVE_SECONDS, Crowd, PatientProtocol
from serving.server import open_service
from tests.conftest import apart
from tests.serving.test_bundle import model  # noqa: F401  the fixture that `bundle` takes
from tests.serving.test_server import PATH, bundle, counted, everything, serving  # noqa: F401

ROWS = [{"distance": float(distance), "carrier": "AA"} for distance in range(12)]


@pytest.fixture(scope="module")
def port(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:  # noqa: F811
    log = tmp_path_factory.mktemp("direct") / "log"
    with serving(bundle, log, "--max-waiting", "6", "--log", str(log.parent / "rows")) as port:
        yield port
    assert "Traceback" not in log.read_text()


def post(row: object, *headers: str, path: str = PATH) -> bytes:
    body = json.dumps({"instances": [row]}).encode()
    head = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*head, "\r\n"]).encode() + body


def answers(data: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """The answers that the bytes hold: status, headers, content."""
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        size = int(headers["content-length"])
        found.append((int(first.split()[1]), headers, data[:size]))
        data = data[size:]
    return found


def alone(port: int, row: object) -> bytes:
    """The answer to a request in two packets, which the application is asked."""
    data = post(row, "connection: close")
    with socket.create_connection(("127.0.0.1", port), timeout=8) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(data[:-5])
        time.sleep(0.02)
        client.sendall(data[-5:])
        return answers(everything(client))[0][2]


def test_answer_is_the_same_by_either_way(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=8) as client:
        for row in (*ROWS, {"carrier": 1}, {"distence": 1}, 7):
            client.sendall(post(row))
            status, headers, content = answers(client.recv(65_536))[0]
            assert content == alone(port, row)
            assert headers["content-type"] == ("application/json" if status == 200 else "application/problem+json")
            assert (status == 200) == ("x-model-version" in headers)
            assert "date" in headers


def test_requests_of_one_packet_are_answered_in_their_order(port: int) -> None:
    get = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    wrong = post({"distance": "far"})
    last = post(ROWS[3], "connection: close")
    with socket.create_connection(("127.0.0.1", port), timeout=8) as client:
        client.sendall(post(ROWS[0]) + post(ROWS[1]) + get + post(ROWS[2]) + wrong + last + post(ROWS[4]))
        told = answers(everything(client))
    assert [status for status, _, _ in told] == [200, 200, 200, 200, 422, 200]  # and none behind the last
    assert [content for _, _, content in (told[0], told[1], told[3], told[5])] == [alone(port, ROWS[i]) for i in (0, 1, 2, 3)]
    assert json.loads(told[2][2])["status"] == "ok"


def test_patience_with_an_idle_connection_is_not_counted_from_a_request_that_others_came_behind(
    bundle: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would end the connection later, in the middle of what is under way then."""
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    service = open_service(parse(["--bundle", str(bundle)]), Metrics())

    async def talk() -> int:
        config = uvicorn.Config(service.app, log_level="error", timeout_keep_alive=1)
        config.load()
        line = Line()
        made: Any = {"config": config, "server_state": ServerState(), "app_state": {}}
        connection = PatientProtocol(Crowd(service.traffic, service.direct), **made)
        connection.connection_made(line)
        connection.data_received(post(ROWS[0]) + post(ROWS[1])[:-5])
        await asyncio.sleep(2)
        assert not line.closed
        connection.data_received(post(ROWS[1])[-5:])
        await asyncio.sleep(0.5)
        connection.connection_lost(None)
        return len(answers(line.written))

    assert apart(talk()) == 2


def test_what_is_no_request_takes_no_answer_from_the_one_before_it(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=8) as client:
        client.sendall(post(ROWS[5]) + b"\0\1\2\3\r\n\r\n")
        told = answers(everything(client))
    assert [status for status, _, _ in told] == [200, 400]
    assert told[0][2] == alone(port, ROWS[5])


def test_request_has_the_id_that_it_came_with(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=8) as client:
        for way in (PATH, f"{PATH}?by=app"):
            client.sendall(post(ROWS[0], "x-request-id: \t mine \t ", path=way))  # blanks are none of it
            assert answers(client.recv(65_536))[0][1]["x-request-id"] == "mine"
        client.sendall(post(ROWS[0]))
        assert len(answers(client.recv(65_536))[0][1]["x-request-id"]) == 32


def test_each_is_counted_once(port: int) -> None:
    def predicted(status: int) -> float:
        return counted(port, f'tidemill_requests_total{{route="predict",status="{status}"}}')

    before = predicted(200), predicted(422)
    with socket.create_connection(("127.0.0.1", port), timeout=8) as client:
        client.sendall(b"".join(post(row) for row in ROWS[:5]) + post({"distance": []}, "connection: close"))
        everything(client)
    assert (predicted(200), predicted(422)) == (before[0] + 5, before[1] + 1)
    assert counted(port, "tidemill_requests_in_progress") == 1.0  # the one that asks


class Line(asyncio.Transport):
    """A connection's other end: what was written, and whether more can be."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closed = b"", False

    def write(self, data: Any) -> None:
        assert not self.closed
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close


def test_connection_that_asks_for_nothing_more_is_closed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    service = open_service(parse(["--bundle", str(bundle)]), Metrics())

    async def rest() -> float:
        config: Any = uvicorn.Config(service.app, log_level="error", timeout_keep_alive=2)
        config.load()
        line, made = Line(), {"config": config, "server_state": ServerState(), "app_state": {}}
        connection = PatientProtocol(Crowd(service.traffic, service.direct), **made)
        connection.connection_made(line)
        for _ in range(4):
            connection.data_received(post(ROWS[0]))
            last = time.monotonic()
            await asyncio.sleep(0.6)
            assert not line.closed
        while not line.closed:
            await asyncio.sleep(0.01)
        return time.monotonic() - last

    assert 1.9 < apart(rest()) < 4  # its own default is 5


def test_request_that_was_read_is_answered_before_the_service_ends_or_its_client_is_gone(bundle: Path) -> None:  # noqa: F811
    service = open_service(parse(["--bundle", str(bundle)]), Metrics())

    async def read(then: Callable[[PatientProtocol], None]) -> Line:
        made: Any = {"config": uvicorn.Config(service.app, log_level="error"), "server_state": ServerState(), "app_state": {}}
        made["config"].load()
        line = Line()
        crowd = Crowd(service.traffic, service.direct)
        PatientProtocol(crowd, **made).connection_made(Line())  # who is alone need not wait
        connection = PatientProtocol(crowd, **made)
        connection.connection_made(line)
        connection.data_received(post(ROWS[0]))
        assert not line.written  # it waits for others of this turn
        then(connection)
        await asyncio.sleep(0)
        assert not connection.pending
        await asyncio.sleep(LEAVE_SECONDS + 0.1)
        return line

    def lose(connection: PatientProtocol) -> None:
        connection.transport.close()
        connection.connection_lost(None)
        assert connection not in connection.crowd.idle

    ended = apart(read(lambda connection: connection.shutdown()))
    assert (answers(ended.written)[0][0], ended.closed) == (200, True)
    assert apart(read(lose)).written == b""
    assert service.traffic.begun == service.traffic.ended == 2


def test_request_that_is_read_as_the_service_ends_is_answered(bundle: Path) -> None:  # noqa: F811
    """It lay in the system's hands: to close its connection at once would lose it."""
    service = open_service(parse(["--bundle", str(bundle)]), Metrics())

    async def end() -> bytes:
        made: Any = {"config": uvicorn.Config(service.app, log_level="error"), "server_state": ServerState(), "app_state": {}}
        made["config"].load()
        line = Line()
        connection = PatientProtocol(Crowd(service.traffic, service.direct), **made)
        connection.connection_made(line)
        connection.data_received(post(ROWS[0]))
        connection.shutdown()
        assert not line.closed
        connection.data_received(post(ROWS[1]))
        deadline = time.monotonic() + 5
        while not line.closed and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        return line.written

    told = answers(apart(end()))
    assert [(status, headers.get("connection")) for status, headers, _ in told] == [(200, None), (200, "close")]

"""Clients that mean harm, or know no better: each is told why, none keeps the others waiting."""

import asyncio
import json
import logging
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from serving import protocol
from serving.direct import Direct
from serving.doors import Doors
from serving.metrics import Metrics
from serving.models import Models
from serving.protocol import Crowd, PatientProtocol
from serving.request import MOST_ROWS
from serving.traffic import Traffic
from tests.conftest import ROOT, free_port
from tests.serving.test_bundle import model  # noqa: F401  the fixture that `bundle` takes
from tests.serving.test_server import PATH, ROW, ask, bundle, counted, everything, serving  # noqa: F401

INFER = "/v2/models/flights/infer"
POST = f"POST {PATH} HTTP/1.1\r\nhost: x\r\n".encode()
WHOLE = POST + b"content-length: %d\r\n\r\n%s" % (len(ROW), ROW)
COLUMNS = [
    {"name": "distance", "shape": [1], "datatype": "FP64", "data": [1.0]},
    {"name": "carrier", "shape": [1], "datatype": "BYTES", "data": ["AA"]},
]


@pytest.fixture(scope="module")
def port(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:  # noqa: F811
    log = tmp_path_factory.mktemp("hostile") / "log"
    with serving(bundle, log, "--max-waiting", "8") as port:
        yield port
    assert "Traceback" not in log.read_text()  # whatever was sent


def raw(port: int, data: bytes) -> bytes:
    """All that the service says to these bytes until it closes the connection, which it must within a few seconds."""
    with socket.create_connection(("127.0.0.1", port), timeout=8) as client:
        client.sendall(data)
        return everything(client)


def refusal(answer: bytes) -> tuple[int, str]:
    """Status and sentence of the last answer, which is an RFC 9457 problem."""
    head, _, content = answer[answer.rindex(b"HTTP/1.1 ") :].partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    told = json.loads(content)
    assert told["status"] == int(head[9:12])
    return told["status"], told["detail"]


def get(rest: str, head: str = "host: x\r\n", path: str = "/healthz", version: str = "1.1") -> bytes:
    return f"GET {path} HTTP/{version}\r\n{head}{rest}\r\n".encode()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (get("", head=""), 400),
        (get("host: y\r\n"), 400),
        (get("", version="2.0"), 400),
        (get("", version="9.9"), 400),
        (b"GET /healthz\r\n\r\n", 400),
        (get("", path="http://evil.example"), 400),
        (b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"CONNECT evil.example:80 HTTP/1.1\r\nhost: x\r\n\r\n", 405),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (get("x-a: b\rc\r\n"), 400),
        (get("x-a: b\0c\r\n"), 400),
        (get("x-a: b\r\n c\r\n"), 400),
        (get("x-a : b\r\n"), 400),
        (get("x: y\r\n" * 300), 431),
        (get("", path="/" + "a" * 70_000), 431),
        (POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\n", 400),
        (POST + b"content-length: -5\r\n\r\n", 400),
        (POST + b"content-length: 99999999999999999999999\r\n\r\n", 400),
        (POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
        (POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
        (POST + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (f"POST {PATH} HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".encode(), 400),
        (POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (POST + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n" + b"x: y\r\n" * 20_000 + b"\r\n", 431),
    ],
)
def test_what_is_no_request_or_could_be_two_is_refused_and_the_connection_closed(port: int, data: bytes, status: int) -> None:
    before = counted(port, f'tidemill_requests_total{{route="none",status="{status}"}}')
    assert refusal(raw(port, data))[0] == status
    assert counted(port, f'tidemill_requests_total{{route="none",status="{status}"}}') == before + 1


def test_good_request_before_a_bad_one_is_answered_and_the_bad_one_refused(port: int) -> None:
    answer = raw(port, WHOLE + b"\x00\x01")
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"400"]


def test_requests_behind_each_other_are_answered_in_order(port: int) -> None:
    answer = raw(port, WHOLE + get("") + get("connection: close\r\n", path="/nowhere"))
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"200", b"404"]


def test_client_that_has_said_all_is_answered_all_the_same(port: int) -> None:
    """As `nc -N` and scripts end what they send."""
    with socket.create_connection(("127.0.0.1", port), timeout=8) as client:
        client.sendall(WHOLE + WHOLE[:-9])
        time.sleep(0.02)
        client.sendall(WHOLE[-9:])
        client.shutdown(socket.SHUT_WR)
        assert re.findall(rb"HTTP/1.1 (\d+)", everything(client)) == [b"200"] * 2
    with socket.create_connection(("127.0.0.1", port), timeout=8) as client:
        client.sendall(WHOLE[:-9])  # of which the rest will not come
        client.shutdown(socket.SHUT_WR)
        assert everything(client) == b""


def test_client_that_would_rather_speak_http_2_is_answered_in_http_1(port: int) -> None:
    """As Java's client asks, with each first request of a connection."""
    wish = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\ncontent-length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=8) as client:
        for _ in range(2):
            client.sendall(POST + wish % len(ROW) + ROW[:5])
            time.sleep(0.05)  # the body comes in two packets
            client.sendall(ROW[5:])
            assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")
        client.sendall(get("connection: close\r\n"))
        assert everything(client).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b'{"instances": [{"distance": NaN}]}', 400, "not JSON"),
        (b'{"instances": [{"distance": 1e999}]}', 400, "not JSON"),
        (b'{"instances": [{"distance": 1%s}]}' % (b"0" * 400), 400, "not JSON"),
        (b"[" * 100_000 + b"]" * 100_000, 400, "not JSON"),
        (b'{"a":' * 100_000, 400, "not JSON"),
        (b'{"instances": [{"carrier": "\\ud800"}]}', 400, "not JSON"),
        (b'{"instances": [{"carrier": "\xff"}]}', 400, "not JSON"),
        (b'{"instances": [{"carrier": "\x00"}]}', 400, "not JSON"),
        (b"\xef\xbb\xbf" + ROW, 400, "not JSON"),
        (b"", 400, "not JSON"),
        (b'{"instances": [{"distance": %s}]}' % (b"[" * 900 + b"]" * 900), 422, "expected a number, found a list"),
        (b'{"instances": [{"distance": 1, "distance": 2}]}', 400, "'distance' is there twice"),
        (b'{"instances": [], "instances": [{"distance": 2}]}', 400, "'instances' is there twice"),
        (b'{"inputs": {"distance": [1], "distance": [2]}}', 400, "'distance' is there twice"),
        (b'{"instances": [{"carrier": "a:b", "carrier": "a"}]}', 400, "'carrier' is there twice"),
        (b'{"instances": [{"distance": 1}], "signature_name": 3}', 400, "signature_name: expected a string"),
        (b'{"instances": [' + b"{}," * MOST_ROWS + b"{}]}", 413, f"{MOST_ROWS + 1:,} rows; at most {MOST_ROWS:,}"),
        (b'{"%s": 1, "instances": [{}]}' % (b"x" * 900_000), 400, "unknown keys"),
        (b" " * 1_000_001, 413, "larger than 1,000,000 bytes"),
    ],
)
def test_body_that_means_nothing_or_two_things_is_refused(port: int, body: bytes, status: int, words: str) -> None:
    started = time.monotonic()
    found, headers, content = ask(port, "POST", PATH, body)
    told = json.loads(content)
    assert (found, headers["content-type"], words in told["detail"]) == (status, "application/problem+json", True), told
    assert len(content) < 20_000
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances": [{"distance": -0}]}',
        b'{"instances": [{"distance": 18446744073709551616}]}',
        b'{"instances": [{"distance": 1e308}]}',
        b'{"instances": [{"carrier": "a:b"}, {"carrier": "\\u0000"}]}',  # colons that are no key's
        b'{"instances": [{"carrier": "\\u003a\\"carrier\\":"}]}',
    ],
)
def test_odd_values_that_are_right_are_answered(port: int, body: bytes) -> None:
    assert ask(port, "POST", PATH, body)[0] == 200


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parameters": [1]}, "the request.parameters: expected an object, found [1]"),
        ({"parameters": "x"}, "the request.parameters: expected an object"),
        ({"outputs": [{"name": "prediction", "parameters": "x"}]}, "outputs[0].parameters: expected an object"),
        ({"inputs": [{**COLUMNS[0], "parameters": 1}]}, "inputs[0].parameters: expected an object"),
        ({"inputs": [{**COLUMNS[0], "datatype": ["FP64"]}]}, "inputs[0].datatype"),
        ({"inputs": [{**COLUMNS[0], "datatype": {}}]}, "inputs[0].datatype"),
        ({"inputs": [{**COLUMNS[0], "shape": [10**15]}]}, "inputs[0].shape"),
        ({"id": {"a": 1}}, "id: expected a string"),
    ],
)
def test_tensors_of_another_shape_than_the_protocols_are_refused(port: int, changes: dict[str, Any], words: str) -> None:
    status, _, content = ask(port, "POST", INFER, json.dumps({"inputs": COLUMNS, **changes}).encode())
    assert (status, words in json.loads(content)["detail"]) == (400, True), content


def test_nested_and_doubled_and_endless_tensors_are_refused(port: int) -> None:
    nested = json.dumps({"inputs": COLUMNS}).replace('"FP64"', "[" * 900 + "]" * 900).encode()
    assert ask(port, "POST", INFER, nested)[0] == 400
    doubled = json.dumps({"inputs": COLUMNS}).replace('"shape"', '"shape": [2], "shape"', 1).encode()
    assert b"is there twice" in ask(port, "POST", INFER, doubled)[2]
    head = json.dumps(
        {"inputs": [{"name": "distance", "shape": [900_000], "datatype": "INT8", "parameters": {"binary_data_size": 900_000}}]}
    ).encode()
    length = {"Inference_Header_Content_Length": str(len(head))}
    assert ask(port, "POST", INFER, head + bytes(900_000), **length)[0] == 413
    endless = {"Inference_Header_Content_Length": "9" * 5000}
    assert ask(port, "POST", INFER, json.dumps({"inputs": COLUMNS}).encode(), **endless)[0] == 400


def test_packed_body_is_refused_and_any_content_type_is_taken(port: int) -> None:
    assert ask(port, "POST", PATH, ROW, content_encoding="gzip")[0] == 415
    assert ask(port, "POST", PATH, ROW, content_encoding="identity")[0] == 200
    assert ask(port, "POST", PATH, ROW, content_type="application/x-www-form-urlencoded")[0] == 200  # as curl -d sends it


@pytest.mark.parametrize("size", [b"content-length: 60000000", b"transfer-encoding: chunked"])
def test_60_mb_are_refused_and_the_client_finds_out(port: int, size: bytes) -> None:
    piece = b"[" * 65_536
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(POST + size + b"\r\n\r\n")
        for _ in range(60_000_000 // len(piece)):
            client.sendall(b"10000\r\n" + piece + b"\r\n" if b"chunked" in size else piece)
        client.sendall(b"0\r\n\r\n" if b"chunked" in size else b"[" * (60_000_000 % len(piece)))
        assert refusal(everything(client))[0] == 413


@pytest.mark.parametrize(
    "path",
    [
        "/docs/static/../../../../etc/passwd",
        "/docs/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/docs/static/..%2f..%2f..%2fetc%2fpasswd",
        "/docs/static//etc/passwd",
        "/docs/static/..%5c..%5cetc",
        "/docs/static/%00",
        "/docs/static/",
        "/docs/static",  # which must not lead to where the Host header says
        "/docs/",
        "//evil.example/healthz",
        "/v1/models/flights/versions/a%0d%0ax-b:%20c",
        "/" + "a" * 60_000,
    ],
)
def test_paths_lead_nowhere_but_to_what_there_is(port: int, path: str) -> None:
    answer = raw(port, get("connection: close\r\n", path=path, head="host: evil.example\r\n"))
    assert refusal(answer)[0] == 404
    assert len(answer) < 2000
    assert b"\r\nx-b" not in answer
    assert b"\r\nlocation" not in answer


def test_clients_that_send_or_read_slowly_take_no_place_from_others(port: int) -> None:
    with ExitStack() as open_ones:
        for i in range(40):  # of 8 places
            client = open_ones.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", port))
            client.sendall(
                POST + b"content-length: 100\r\n\r\n{" if i % 2 else get("", path="/docs/static/swagger-ui-bundle.js") * 8
            )
        time.sleep(2)  # as long as their requests are being begun, they are a burst as any other
        for _ in range(20):
            assert ask(port, "POST", PATH, ROW)[0] == 200
        assert counted(port, "tidemill_requests_in_progress") == 1  # the one that asks


def test_burst_is_answered_up_to_the_limit_and_the_rest_told_to_come_again(port: int) -> None:
    # All of a burst that has come while the service was at something else: an explanation of many rows.
    explain = json.dumps({"instances": [{"distance": 1.0}] * 16}).encode()
    head = POST.replace(b":predict", b":explain") + b"content-length: %d\r\n\r\n" % len(explain)
    with ExitStack() as open_ones:
        clients = [open_ones.enter_context(socket.create_connection(("127.0.0.1", port), timeout=8)) for _ in range(300)]
        for client in clients:
            client.sendall(head + explain)
        answers = [client.recv(65_536) for client in clients]
        statuses = [int(answer[9:12]) for answer in answers]
        assert set(statuses) == {200, 503}
        full = answers[statuses.index(503)]
        assert refusal(full)[1] == "8 requests are under way; come again"
        assert b"\r\nretry-after: 1\r\n" in full
        assert ask(port, "GET", "/healthz")[0] == 200
    assert ask(port, "POST", PATH, ROW)[0] == 200


def test_other_sites_may_neither_read_nor_send(port: int) -> None:
    site = {"Origin": "https://evil.example", "Sec_Fetch_Site": "cross-site"}
    assert ask(port, "POST", PATH, ROW, **site)[0] == 403
    assert ask(port, "POST", PATH, ROW, Sec_Fetch_Site="same-origin")[0] == 200
    for method, path in (("GET", "/"), ("OPTIONS", PATH), ("GET", "/v1/models")):
        asked = {"Origin": "https://evil.example", "Access_Control_Request_Method": "POST"}
        assert not [name for name in ask(port, method, path, **asked)[1] if name.startswith("access-control")]


def test_pages_run_their_own_scripts_alone(port: int) -> None:
    nonces = set()
    for path in ("/", "/docs", "/models/flights"):
        status, headers, content = ask(port, "GET", path)
        assert status == 200
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert (policy["default-src"], policy["frame-ancestors"], policy["base-uri"]) == ("'none'", "'none'", "'none'")
        assert "unsafe" not in policy["script-src"]
        (nonce,) = re.findall("'nonce-(.+)'", policy["script-src"])
        scripts = re.findall(r"<script([^>]*)>", content.decode())
        assert scripts
        assert all(f'nonce="{nonce}"' in one or 'src="/docs/static/' in one for one in scripts)
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        nonces.add(nonce)
    assert len(nonces) == 3
    assert ask(port, "GET", "/docs/static/swagger-ui.css")[1]["x-content-type-options"] == "nosniff"


def test_service_does_what_its_document_says(bundle: Path, tmp_path: Path) -> None:  # noqa: F811
    """Schemathesis walks over all operations with good and bad requests, and without the key; its checks know the document."""
    run = [sys.executable, "-m", "serving.keys", "--keys", str(tmp_path / "keys.json"), "add", "all"]
    scopes = ["--scope", "predict", "--scope", "metrics", "--scope", "admin"]
    key = subprocess.run([*run, *scopes], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    flags = ["--keys", str(tmp_path / "keys.json"), "--log", str(tmp_path / "predictions")]
    with serving(bundle, tmp_path / "log", *flags) as port:
        # Not all that fits the document is right: dates are strings, tensors have the values of their shape.
        walk = ["--checks", "all", "--exclude-checks", "positive_data_acceptance", "--phases", "coverage,fuzzing"]
        walk += ["--max-examples", "2", "--seed", "1", "--no-color", "--generation-database", "none"]
        walk += ["--header", f"Authorization: Bearer {key}"]
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{port}/openapi.json", *walk]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stdout.partition("= FAILURES =")[2][:6000] + done.stderr[-2000:]
        (tested,) = re.findall(r"Tested: (\d+)", done.stdout)
        document = json.loads(ask(port, "GET", "/openapi.json", x_api_key=key)[2])
        assert int(tested) >= 30
        for path, methods in document["paths"].items():
            there = path.replace("{version}", "1").replace("{label}", "production")
            for method in ("GET", "POST"):
                status = ask(port, method, there, b"{", x_api_key=key)[0]
                assert (status == 405) == (method.lower() not in methods), (method, there, status)
                assert status != 404, there
    assert "Traceback" not in (tmp_path / "log").read_text()


async def pour(scope: Any, receive: Any, send: Any) -> None:
    """An app that answers 20 MB."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(20):
        await send({"type": "http.response.body", "body": bytes(1_000_000), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def small_crowd(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, Crowd]]:
    """A server of 4 connections at most, whose patience with readers ends after a second."""
    monkeypatch.setattr(protocol, "WRITE_SECONDS", 1.0)
    traffic = Traffic(Metrics(), 8)
    crowd = Crowd(traffic, Direct(Models([]), traffic, Doors(None, None), 1000, None), most=4)
    made: Any = partial(PatientProtocol, crowd)
    config = uvicorn.Config(pour, port=free_port(), log_level="error", lifespan="off", ws="none", http=made)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.02)
    yield config.port, crowd
    server.should_exit = True
    thread.join(20)


def test_client_that_does_not_take_its_answer_is_cut_off(small_crowd: tuple[int, Crowd]) -> None:
    port, _ = small_crowd
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.settimeout(10)
        client.sendall(get(""))
        time.sleep(2.5)
        assert len(everything(client)) < 20_000_000


def test_client_that_talks_nonsense_while_it_is_answered_is_no_fault_of_the_service(
    small_crowd: tuple[int, Crowd], caplog: pytest.LogCaptureFixture
) -> None:
    port, _ = small_crowd
    logging.getLogger("uvicorn.error").addHandler(caplog.handler)
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(get("transfer-encoding: chunked\r\n"))
        assert client.recv(9) == b"HTTP/1.1 "
        client.sendall(b"zz\r\n")
        assert len(everything(client)) < 20_000_000
    logging.getLogger("uvicorn.error").removeHandler(caplog.handler)
    assert not caplog.records


def test_connection_that_was_idle_for_the_longest_time_makes_room(small_crowd: tuple[int, Crowd]) -> None:
    port, crowd = small_crowd
    with ExitStack() as open_ones:
        clients = []
        for _ in range(8):
            clients.append(open_ones.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5)))
            time.sleep(0.02)
        clients[-1].sendall(get("connection: close\r\n"))
        assert len(everything(clients[-1])) > 20_000_000
        for client in clients[:4]:
            assert client.recv(1) == b""
        assert len(crowd.idle) <= 4

"""The service as a process, of a bundle of two columns: its doors, its patience, its protocols, what it counts."""

import http.client
import json
import re
import socket
import ssl
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.conftest import ROOT, free_port
from tests.serving.test_bundle import BACKGROUND, ENCODER, GOLDEN, WANTED, model, record  # noqa: F401  the fixture

PATH = "/v1/models/flights:predict"
ROW = json.dumps({"instances": [GOLDEN[0]]}).encode()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, model: bytes) -> Path:  # noqa: F811
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "model.tflite").write_bytes(model)
    free = replace(ENCODER, numbers=(replace(ENCODER.numbers[0], required=False),))
    (folder / "encoder.json").write_text(json.dumps(free.to_json()))
    (folder / "model_card.md").write_text("# flights")
    (folder / "background.json").write_text(json.dumps(BACKGROUND))
    record(folder, GOLDEN, WANTED)
    return folder


def command(bundle: Path, port: int, *flags: str) -> list[str]:
    return [sys.executable, "-m", "serving", "--bundle", str(bundle), "--port", str(port), *flags]


@contextmanager
def serving(bundle: Path, log: Path, *flags: str) -> Iterator[int]:
    port = free_port()
    with log.open("wb") as said, subprocess.Popen(command(bundle, port, *flags), cwd=ROOT, stdout=said, stderr=said) as process:
        try:
            deadline = time.monotonic() + 30
            while ask(port, "GET", "/healthz")[0] != 200:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield port
        finally:
            process.terminate()


def ask(port: int, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    except OSError:
        return 0, {}, b""
    finally:
        connection.close()


@pytest.fixture(scope="module")
def port(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with serving(bundle, tmp_path_factory.mktemp("open") / "log") as port:
        yield port


def counted(port: int, series: str) -> float:
    """The value of a series of /metrics; 0 for one that is not there yet."""
    text = ask(port, "GET", "/metrics")[2].decode()
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_official_client_of_the_open_inference_protocol_gets_the_recorded_answers(port: int) -> None:
    client = triton.InferenceServerClient(f"127.0.0.1:{port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("flights")
    assert client.is_model_ready("flights", "1")
    assert not client.is_model_ready("flights", "2")
    assert not client.is_model_ready("planes")
    told = client.get_model_metadata("flights")
    assert [(one["name"], one["datatype"]) for one in told["inputs"]] == [("distance", "FP64"), ("carrier", "BYTES")]
    columns: dict[str, tuple[str, Any]] = {
        "distance": ("FP64", np.array([row.get("distance", np.nan) for row in GOLDEN], float)),
        "carrier": ("BYTES", np.array([(row.get("carrier") or "").encode() for row in GOLDEN], object)),
    }
    for binary in (True, False):
        inputs = [triton.InferInput(name, [len(GOLDEN)], kind) for name, (kind, _) in columns.items()]
        for one, (name, (_, values)) in zip(inputs, columns.items(), strict=True):
            one.set_data_from_numpy(values, binary_data=binary or name == "distance")  # JSON has no NaN
        answer = client.infer("flights", inputs, request_id="42")
        np.testing.assert_allclose(answer.as_numpy("prediction"), WANTED, atol=1e-6)
        assert (answer.get_response()["id"], answer.get_response()["model_version"]) == ("42", "1")
    wrong = triton.InferInput("distance", [1], "BYTES")
    wrong.set_data_from_numpy(np.array([b"far"], object))
    with pytest.raises(triton.InferenceServerException, match="expected a number, found the string 'far'"):
        client.infer("flights", [wrong])


def test_requests_of_tensorflow_servings_documents_are_answered(port: int) -> None:
    """https://www.tensorflow.org/tfx/serving/api_rest: rows, columns, status, metadata, by version and by label."""
    rows = {"signature_name": "serving_default", "instances": GOLDEN}
    columns = {"inputs": {name: [row.get(name) for row in GOLDEN] for name in ("distance", "carrier")}}
    for path in ("", "/versions/1", "/labels/production"):
        status, _, answer = ask(port, "POST", f"/v1/models/flights{path}:predict", json.dumps(rows).encode())
        assert status == 200
        assert json.loads(answer)["predictions"] == pytest.approx(WANTED, abs=1e-6)
        status, _, answer = ask(port, "POST", f"/v1/models/flights{path}:predict", json.dumps(columns).encode())
        assert status == 200
        assert json.loads(answer)["outputs"] == pytest.approx(WANTED, abs=1e-6)
        told = json.loads(ask(port, "GET", f"/v1/models/flights{path}")[2])
        assert told == {
            "model_version_status": [{"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}]
        }
        told = json.loads(ask(port, "GET", f"/v1/models/flights{path}/metadata")[2])
        assert told["model_spec"] == {"name": "flights", "signature_name": "", "version": "1"}
        signature = told["metadata"]["signature_def"]["signature_def"]["serving_default"]
        assert {name: one["dtype"] for name, one in signature["inputs"].items()} == {
            "distance": "DT_DOUBLE",
            "carrier": "DT_STRING",
        }
        assert list(signature["outputs"]) == ["predictions"]
    for path in ("/v1/models/flights/versions/2", "/v1/models/flights/labels/canary:predict", "/v1/models/planes/metadata"):
        status, _, answer = ask(port, "POST" if path.endswith("predict") else "GET", path, json.dumps(rows).encode())
        assert (status, "error" in json.loads(answer)) == (404, True)


def test_release_in_production_answers_alike_by_name_and_by_version(port: int) -> None:
    by_version = PATH.replace(":predict", "/versions/1:predict")
    for body in (json.dumps({"instances": GOLDEN}).encode(), b'{"inputs": {"distance": [1], "carrier": ["AA"]}}', b"{", b"", b"[]"):
        (status, headers, content), (other_status, other_headers, other_content) = (
            ask(port, "POST", path, body) for path in (PATH, by_version)
        )
        assert (status, content) == (other_status, other_content)
        told = [
            {name.lower(): value for name, value in dict(one).items() if name.lower() != "date"} for one in (headers, other_headers)
        ]
        assert told[0] == told[1]


def test_head_and_body_of_an_answer_come_in_one_packet(port: int) -> None:
    body = json.dumps({"instances": GOLDEN}).encode()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        for _ in range(20):
            client.sendall(b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (PATH.encode(), len(body), body))
            head, _, content = client.recv(65_536).partition(b"\r\n\r\n")
            assert b"content-length: %d" % len(content) in head
            assert len(json.loads(content)["predictions"]) == len(GOLDEN)


def test_metrics_count_requests_rows_and_what_rows_lack(port: int) -> None:
    before = {name: counted(port, name) for name in SERIES}
    rows = [{"distance": 1.0, "carrier": "ZZ"}, {"carrier": "AA"}, {"distance": 2.0}]
    assert ask(port, "POST", PATH, json.dumps({"instances": rows}).encode())[0] == 200
    assert ask(port, "POST", PATH, b"{")[0] == 400
    grown = {name: counted(port, name) - before[name] for name in SERIES}
    assert grown == dict(zip(SERIES, (1, 1, 1, 3, 1, 1, 1, 3), strict=True))
    assert counted(port, 'tidemill_release_info{candidate="student",channel="production",model="flights",version="1"}') == 1
    assert counted(port, "tidemill_requests_in_progress") == 1  # the one that asks
    ask(port, "GET", "/" + "x" * 500)
    assert "xxx" not in ask(port, "GET", "/metrics")[2].decode()


SERIES = [
    'tidemill_requests_total{route="predict",status="200"}',
    'tidemill_requests_total{route="predict",status="400"}',
    'tidemill_request_rows_count{model="flights",version="1"}',
    'tidemill_request_rows_sum{model="flights",version="1"}',
    'tidemill_unknown_categories_total{column="carrier",model="flights",version="1"}',
    'tidemill_missing_values_total{column="carrier",model="flights",version="1"}',
    'tidemill_missing_values_total{column="distance",model="flights",version="1"}',
    'tidemill_prediction_count{class_="",model="flights",version="1"}',
]


def test_slow_head_and_huge_head_are_ended_while_others_are_answered(port: int) -> None:
    def client(start: bytes) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", port), timeout=20)
        made.sendall(start)
        return made

    whole = b"GET /healthz HTTP/1.1\r\nhost: x\r\n"
    with (
        client(b"GET /healthz HTTP/1.1\r\nhost:") as slow,
        client(b"GET /healthz HTTP/1.1\r\n") as huge,
        client(b"") as silent,
        client(whole + b"\r\n") as empty_lines,
        client(whole + b"content-length: 1000\r\n\r\n") as never_done,
    ):
        huge.sendall(b"x-a: " + b"b" * 70_000 + b"\r\n\r\n")
        assert huge.recv(100).startswith(b"HTTP/1.1 431 ")
        started = time.monotonic()
        assert ask(port, "POST", PATH, ROW)[0] == 200
        assert empty_lines.recv(1000).startswith(b"HTTP/1.1 200 ")
        empty_lines.sendall(b"\r\n")
        assert never_done.recv(1000).startswith(b"HTTP/1.1 200 ")
        never_done.sendall(b" " * 10)
        head, _, told = everything(slow).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert json.loads(told)["detail"] == "the request's head did not end within 10 s"
        assert 5 < time.monotonic() - started < 15
        # No request can be held open by what is none, or by the rest of one that was answered.
        assert everything(silent) == everything(never_done) == b""
        assert everything(empty_lines) == b""
        assert time.monotonic() - started < 15


def everything(client: socket.socket) -> bytes:
    """All that comes until the connection is closed."""
    return b"".join(iter(lambda: client.recv(1 << 20), b""))


def test_keys_open_the_service_and_are_written_nowhere(bundle: Path, tmp_path: Path) -> None:
    keys, log = tmp_path / "keys.json", tmp_path / "log"

    def manage(*words: str) -> str:
        run = [sys.executable, "-m", "serving.keys", "--keys", str(keys), *words]
        return subprocess.run(run, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    client, watcher = manage("add", "client"), manage("add", "watcher", "--scope", "metrics", "--per-second", "2")
    assert manage("list").splitlines() == ["client: predict; no end", "watcher: metrics; no end, 2 a second"]
    with serving(bundle, log, "--keys", str(keys)) as port:
        status, headers, answer = ask(port, "POST", PATH, ROW)
        assert (status, headers["content-type"]) == (401, "application/problem+json")
        assert headers["www-authenticate"] == 'Basic realm="a key as the password"'  # after Bearer, in a line of its own
        assert json.loads(answer)["status"] == 401
        assert ask(port, "POST", PATH, ROW, authorization=f"Bearer {client}")[0] == 200
        assert ask(port, "POST", PATH, ROW, x_api_key=client)[0] == 200
        basic = b64encode(f"me:{client}".encode()).decode()
        assert ask(port, "GET", "/", authorization=f"Basic {basic}")[0] == 200
        assert ask(port, "GET", "/", authorization="Basic ???")[0] == 401
        assert ask(port, "POST", "/v1/models/flights:refresh", x_api_key=client)[0] == 403
        assert ask(port, "POST", PATH, ROW, authorization=f"Bearer {watcher}")[0] == 403
        assert ask(port, "GET", "/metrics", authorization=f"Bearer {client}")[0] == 403
        found = [ask(port, "GET", "/metrics", authorization=f"Bearer {watcher}") for _ in range(4)]
        assert [status for status, _, _ in found[:2]] == [200, 200]
        assert found[-1][0] == 429
        assert found[-1][1]["retry-after"] == "1"
        metrics = found[0][2].decode()
        manage("remove", "client")
        deadline = time.monotonic() + 5
        while ask(port, "POST", PATH, ROW, x_api_key=client)[0] == 200 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert ask(port, "POST", PATH, ROW, x_api_key=client)[0] == 401
    for secret in (client, watcher):
        assert secret not in log.read_text() + metrics + keys.read_text()


def test_service_does_not_listen_beyond_this_machine_without_doors(bundle: Path) -> None:
    for host in ("0.0.0.0", "::", "", "0", "192.0.2.1", "::ffff:0.0.0.0", "service.invalid"):
        done = subprocess.run(command(bundle, free_port(), "--host", host), cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert "nobody would be asked for a key: give --keys or --jwks" in done.stderr
        assert "Traceback" not in done.stderr


def test_bad_keys_providers_and_logs_end_the_start_with_a_line(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{}")
    cases = (
        (["--keys", str(tmp_path / "keys.json")], 1, "holds no keys"),
        (["--jwks", str(tmp_path / "none.json"), "--audience", "flights"], 1, "no keys at"),
        (["--jwks", str(tmp_path / "none.json")], 2, "--jwks needs --audience"),
        (["--log", str(tmp_path / "keys.json")], 1, "name a folder that can be written"),
    )
    for flags, code, words in cases:
        done = subprocess.run(command(bundle, free_port(), *flags), cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert (done.returncode, words in done.stderr, "Traceback" in done.stderr) == (code, True, False), done.stderr


def test_certificate_makes_it_https_and_one_that_is_none_is_refused(bundle: Path, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    flags = ["--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")]
    port, trusting = free_port(), ssl.create_default_context(cafile=tmp_path / "cert.pem")
    with subprocess.Popen(command(bundle, port, *flags), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert f"at https://127.0.0.1:{port}" in process.stdout.readline()
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trusting)
                try:
                    connection.request("POST", PATH, ROW)
                    with connection.getresponse() as answer:
                        assert answer.status == 200
                    break
                except ConnectionRefusedError:
                    time.sleep(0.05)
                finally:
                    connection.close()
            else:
                raise AssertionError("no answer over TLS")
        finally:
            process.terminate()
    (tmp_path / "key.pem").write_text("no key")
    done = subprocess.run(command(bundle, port, *flags), cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "are no certificate and key" in done.stderr
    assert "Traceback" not in done.stderr

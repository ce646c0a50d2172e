"""The function of AWS Lambda under Amazon's own runtime client: its answers are those of the service over HTTP."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tritonclient.http as triton

from serving.gateway import to_request
from tests.conftest import ROOT, free_port
from tests.serving.test_bundle import GOLDEN, WANTED, model  # noqa: F401  the fixture
from tests.serving.test_server import PATH, ROW, ask, bundle, serving  # noqa: F401  the fixture

COLD = 3.0  # seconds from the process's start to the first answer; far above what it takes on a quiet machine


class Lambda:
    """What Lambda is to a function: the runtime API, which hands out events and takes answers."""

    def __init__(self) -> None:
        self.events: Queue[dict[str, Any]] = Queue()
        self.answers: Queue[tuple[str, dict[str, Any]]] = Queue()
        outer = self

        class Runtime(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                event = json.dumps(outer.events.get()).encode()
                self.send_response(200)
                self.send_header("Lambda-Runtime-Aws-Request-Id", "42")
                self.send_header("Lambda-Runtime-Deadline-Ms", str(int((time.time() + 30) * 1000)))
                self.send_header("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:eu-west-1:1:function:flights")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(event)))
                self.end_headers()
                self.wfile.write(event)

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                outer.answers.put((self.path.rsplit("/", 1)[-1], json.loads(content)))
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Runtime)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  # the function is killed while it waits
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def invoke(self, event: dict[str, Any]) -> dict[str, Any]:
        self.events.put(event)
        kind, answer = self.answers.get(timeout=30)
        assert kind == "response", answer
        return answer

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def function(flags: str, log: Path) -> Iterator[Lambda]:
    """The function in a process of its own, as its image starts it, and killed as Lambda does, without a word."""
    service = Lambda()
    environment = {**os.environ, "AWS_LAMBDA_RUNTIME_API": service.address, "TIDEMILL_FLAGS": flags}
    command = [sys.executable, "-m", "awslambdaric", "serving.lambda_handler.handler"]
    with log.open("wb") as said, subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said) as process:
        try:
            yield service
        finally:
            process.kill()
            service.close()


def event(
    method: str, path: str, body: bytes = b"", *, binary: bool = False, stage: str = "$default", **headers: str
) -> dict[str, Any]:
    """As an HTTP API sends it (payload 2.0)."""
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"content-length": str(len(body)), "host": "abc.execute-api.eu-west-1.amazonaws.com", "x-forwarded-port": "443"}
        | {name.replace("_", "-"): value for name, value in headers.items()},
        "requestContext": {
            "domainName": "abc.execute-api.eu-west-1.amazonaws.com",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": "curl"},
            "requestId": "id",
            "stage": stage,
        },
        **({"body": base64.b64encode(body).decode() if binary else body.decode()} if body else {}),
        "isBase64Encoded": binary,
    }


def content(answer: dict[str, Any]) -> bytes:
    return base64.b64decode(answer["body"]) if answer["isBase64Encoded"] else answer["body"].encode()


@pytest.fixture(scope="module")
def lambda_(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lambda]:  # noqa: F811
    with function(f"--bundle {bundle} --no-auth", tmp_path_factory.mktemp("lambda") / "log") as service:
        yield service


def lasting(content: bytes) -> bytes:
    """The content without what a page has anew each time: the nonce of its scripts."""
    return re.sub(rb'nonce="[^"]+"', b"", content)


def test_function_answers_as_the_service_does(bundle: Path, lambda_: Lambda, tmp_path: Path) -> None:  # noqa: F811
    rows = json.dumps({"instances": GOLDEN}).encode()
    asked: list[tuple[str, str, bytes]] = [
        ("POST", PATH, rows),
        ("POST", PATH.replace("predict", "explain"), ROW),
        ("POST", PATH, b"{"),
        ("POST", PATH, b'{"instances": [{"distance": "far"}]}'),
        ("POST", PATH, b'{"instances": [' + b" " * 1_100_000 + b"]}"),
        ("GET", PATH, b""),
        ("GET", "/v1/models/flights", b""),
        ("GET", "/v2/models/flights", b""),
        ("GET", "/v2", b""),
        ("GET", "/nothing", b""),
        ("GET", "/readyz", b""),
        ("GET", "/openapi.json", b""),
        ("GET", "/", b""),
        ("GET", "/docs/static/swagger-ui.css", b""),
    ]
    with serving(bundle, tmp_path / "log", "--no-auth") as port:
        for method, path, body in asked:
            status, headers, wanted = ask(port, method, path, body)
            for binary in (False, True):
                answer = lambda_.invoke(event(method, path, body, binary=binary))
                assert (answer["statusCode"], lasting(content(answer))) == (status, lasting(wanted)), path
                assert {name: answer["headers"].get(name) for name in ("content-type", "x-model-version", "allow")} == {
                    name: headers.get(name) for name in ("content-type", "x-model-version", "allow")
                }
    answer = lambda_.invoke(event("POST", PATH, rows))
    assert answer["isBase64Encoded"] is False
    assert json.loads(answer["body"])["predictions"] == pytest.approx(WANTED, abs=1e-6)
    assert "connection" not in lambda_.invoke(event("POST", PATH, b'{"instances": [' + b" " * 1_100_000 + b"]}"))["headers"]


def test_rows_and_truths_of_an_answer_are_in_the_log_though_the_process_is_killed(bundle: Path, tmp_path: Path) -> None:  # noqa: F811
    flags = f"--bundle {bundle} --no-auth --log {tmp_path / 'rows'} --log-flush 3600"
    with function(flags, tmp_path / "log") as service:
        for number in range(3):
            assert service.invoke(event("POST", PATH, ROW, x_request_id=f"r{number}"))["statusCode"] == 200
        told = json.dumps({"feedback": [{"id": "r1", "truth": 1}]}).encode()
        assert service.invoke(event("POST", PATH.replace("predict", "feedback"), told))["statusCode"] == 200
    kept = [pq.ParquetFile(path).read().column("id").to_pylist() for path in (tmp_path / "rows/flights").glob("date=*/hour=*/*")]
    assert sorted(kept) == [["r0"], ["r1"], ["r2"]]
    [truths] = (tmp_path / "rows/flights/feedback").glob("*/*")
    assert pq.ParquetFile(truths).read().column("id").to_pylist() == ["r1"]


def test_function_answers_though_its_log_cannot_be_written(bundle: Path, tmp_path: Path) -> None:  # noqa: F811
    """The place takes nothing: an answer waits for one try, and the next ones for none."""
    with function(f"--bundle {bundle} --no-auth --log {tmp_path / 'rows'}", tmp_path / "log") as service:
        assert service.invoke(event("POST", PATH, ROW))["statusCode"] == 200
        shutil.rmtree(tmp_path / "rows")
        (tmp_path / "rows").write_text("no folder")
        assert [service.invoke(event("POST", PATH, ROW))["statusCode"] for _ in range(3)] == [200] * 3
        assert "the prediction log cannot be written" in (tmp_path / "log").read_text()


def test_stage_before_the_path_and_bytes_in_base64_are_understood(lambda_: Lambda) -> None:
    answer = lambda_.invoke(event("POST", f"/prod{PATH}", ROW, binary=True, stage="prod"))
    assert (answer["statusCode"], json.loads(answer["body"])["predictions"]) == (200, pytest.approx(WANTED[:1], abs=1e-6))
    assert lambda_.invoke(event("GET", "/prod", stage="prod"))["statusCode"] == 200
    assert lambda_.invoke(event("GET", "/production/healthz", stage="prod"))["statusCode"] == 404
    columns = {"distance": ("FP64", np.array([10.0])), "carrier": ("BYTES", np.array([b"UA"], object))}
    inputs = [triton.InferInput(name, [1], kind) for name, (kind, _) in columns.items()]
    for one, (_, values) in zip(inputs, columns.values(), strict=True):
        one.set_data_from_numpy(values, binary_data=True)
    body, size = triton.InferenceServerClient.generate_request_body(inputs)
    headers = {"inference_header_content_length": str(size), "content_type": "application/octet-stream"}
    answer = lambda_.invoke(event("POST", "/v2/models/flights/infer", body, binary=True, **headers))
    assert (answer["statusCode"], answer["isBase64Encoded"]) == (200, True)
    told = triton.InferenceServerClient.parse_response_body(
        content(answer), header_length=int(answer["headers"]["inference-header-content-length"])
    )
    assert told.as_numpy("prediction") == pytest.approx(WANTED[:1], abs=1e-6)


def test_keys_guard_the_function_and_without_them_it_does_not_start(bundle: Path, tmp_path: Path) -> None:  # noqa: F811
    run = [sys.executable, "-m", "serving.keys", "--keys", str(tmp_path / "keys.json"), "add", "shop"]
    key = subprocess.run(run, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    with function(f"--bundle {bundle} --keys {tmp_path / 'keys.json'}", tmp_path / "log") as service:
        assert service.invoke(event("POST", PATH, ROW))["statusCode"] == 401
        assert service.invoke(event("POST", PATH, ROW, authorization=f"Bearer {key}"))["statusCode"] == 200
    assert key not in (tmp_path / "log").read_text()
    for flags, words in (
        (f"--bundle {bundle}", "nobody would be asked for a key"),
        (f"--bundle {tmp_path} --no-auth", "manifest.json"),
        ("--no-auth --bogus", "--bogus"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "awslambdaric", "serving.lambda_handler.handler"],
            cwd=ROOT,
            env={**os.environ, "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{free_port()}", "TIDEMILL_FLAGS": flags},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_first_answer_comes_soon_after_the_start(bundle: Path, tmp_path: Path) -> None:  # noqa: F811
    started = time.monotonic()
    with function(f"--bundle {bundle} --no-auth", tmp_path / "log") as service:
        assert service.invoke(event("POST", PATH, ROW))["statusCode"] == 200
        assert time.monotonic() - started < COLD


def test_event_of_another_form_is_told_by_what_was_expected() -> None:
    for wrong in ({}, {"version": "1.0", "httpMethod": "GET", "path": "/"}, {**event("GET", "/"), "requestContext": {}}):
        with pytest.raises(ValueError, match=r"expected payload format 2\.0"):
            to_request(wrong)
    with pytest.raises(ValueError, match="not base64"):
        to_request({**event("POST", PATH), "body": "%%%", "isBase64Encoded": True})

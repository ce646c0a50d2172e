"""An S3 service for tests: moto with authorisation on, behind a proxy that makes what a service does to its users happen.

Moto looks at If-Match and If-None-Match, and writes, in two steps: of two writers at once both may win. S3 has one step: the
proxy lets one write through at a time.
"""

import http.client
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import boto3
import pytest

from tests.conftest import free_port

Fault = Literal["500 before", "500 after", "503 before", "cut", "deaf"] | None
POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}


@dataclass
class S3:
    """Where it answers, the environment that its user needs, and what shall go wrong."""

    endpoint: str
    environment: dict[str, str]
    fault: Callable[[str, str], Fault] = field(default=lambda method, path: None)  # of a request, by method and path
    requests: list[tuple[str, str]] = field(default_factory=list)

    def client(self, endpoint: str | None = None) -> Any:
        keys = {"aws_access_key_id": "AWS_ACCESS_KEY_ID", "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY"}
        found = {key: self.environment[name] for key, name in keys.items()}
        return boto3.client("s3", endpoint_url=endpoint or self.endpoint, region_name="us-east-1", **found)


@contextmanager
def serving() -> Iterator[S3]:
    """The service, up within the block."""
    behind = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(behind)]
    environment = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "3"}  # of which the user, its key and its rights are made
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as moto:
        try:
            _wait(moto, behind)
            s3 = S3("", _user(f"http://127.0.0.1:{behind}"))
            proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(s3, behind))
            s3.endpoint = f"http://127.0.0.1:{proxy.server_address[1]}"
            s3.environment |= {"AWS_ENDPOINT_URL": s3.endpoint}
            thread = threading.Thread(target=proxy.serve_forever, daemon=True)
            thread.start()
            try:
                yield s3
            finally:
                proxy.shutdown()
                proxy.server_close()
                thread.join()
        finally:
            moto.terminate()


@contextmanager
def reached(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """The service with a bucket `mill`, which this process reaches as its user does."""
    with serving() as service:
        for name, value in service.environment.items():
            monkeypatch.setenv(name, value)
        with closing(service.client()) as client:
            client.create_bucket(Bucket="mill")
        yield service


def _wait(moto: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert moto.poll() is None, "moto ended"
        assert time.monotonic() < deadline, "moto does not answer"
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/moto-api/")
            connection.getresponse().read()
            return
        except OSError:
            time.sleep(0.1)
        finally:
            connection.close()


def _user(endpoint: str) -> dict[str, str]:
    iam = boto3.client("iam", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    iam.create_user(UserName="mill")
    key = iam.create_access_key(UserName="mill")["AccessKey"]
    iam.put_user_policy(UserName="mill", PolicyName="s3", PolicyDocument=json.dumps(POLICY))
    iam.close()
    return {
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _handler(s3: S3, behind: int) -> type[http.server.BaseHTTPRequestHandler]:
    one_at_a_time = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            body = self._body()
            s3.requests.append((self.command, self.path))
            fault = s3.fault(self.command, self.path)
            if fault in ("500 before", "503 before"):
                self._answer(int(fault[:3]), [], b"<Error><Code>InternalError</Code></Error>")
                return
            if fault == "deaf":  # to conditions, as some services are
                with closing(s3.client(f"http://127.0.0.1:{behind}")) as client:
                    bucket, _, key = self.path.lstrip("/").partition("/")
                    tag = client.put_object(Bucket=bucket, Key=key, Body=body)["ETag"]
                self._answer(200, [("ETag", tag)], b"")
                return
            with one_at_a_time:
                connection = http.client.HTTPConnection("127.0.0.1", behind, timeout=60)
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in ("transfer-encoding", "content-length", "connection", "expect"):
                        connection.putheader(name, value)
                connection.putheader("Content-Length", str(len(body)))
                connection.endheaders(body)
                answer = connection.getresponse()
                content, headers = answer.read(), answer.getheaders()
                connection.close()
            if fault == "500 after":
                self._answer(500, [], b"<Error><Code>InternalError</Code></Error>")
            elif fault == "cut":
                self._answer(answer.status, headers, content, told=content[: len(content) // 2])
            else:
                self._answer(answer.status, headers, content)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                body = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, told: bytes | None = None) -> None:
            self.send_response_only(status)
            length = next((value for name, value in headers if name.lower() == "content-length"), str(len(content)))
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content if told is None else told)
            if told is not None:
                self.close_connection = True

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = pass_on  # noqa: N815  the library's own names

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    return Handler

"""Files behind URLs, from a real S3 server and a web server that fails on purpose: whole, or one line of why not."""

import hashlib
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import boto3
import fsspec
import moto.settings
import pytest
from moto.server import ThreadedMotoServer

from benchmarks.bad_inputs import GOOD, PARQUET, ROWS
from tasks.core.errors import DataError
from tasks.core.privacy import Guard
from tasks.params import FileSource, with_values
from tasks.sources import file, network, web
from tasks.sources.store import Store
from tests.conftest import ROOT, free_port
from tests.sources.test_file import rows

BIG = b"id,word\n" + b"".join(b"%d,%s\n" % (n, b"word" * 8) for n in range(20_000))


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FILE_PASSWORD", "secret")


def store() -> Store:
    return Store(Path("store/key"))


def land(url: str, endpoint: str | None = None) -> Store:
    password = "env:FILE_PASSWORD" if "secret" in url else None
    source = FileSource(kind="file", file=url.replace("secret", "{password}"), password=password, endpoint=endpoint)
    landed = store()
    file.land("flights", source, file.look("flights", source), Guard(), landed)
    assert not list(Path("store/.spool").glob("*"))
    return landed


def refusal(url: str, endpoint: str | None = None) -> str:
    with pytest.raises(DataError) as refused:
        land(url, endpoint)
    said = str(refused.value)
    assert said.startswith("source 'flights': ")
    assert "\n" not in said
    assert "secret" not in said
    assert not list(Path().rglob("*.parquet"))
    assert not list(Path("store/.spool").glob("*"))
    return said


# The web.

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@dataclass
class Server:
    """A web server that answers as the test says, and remembers what it was asked."""

    port: int
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def of(self, path: str) -> list[dict[str, str]]:
        return [headers for asked, headers in self.asked if asked == path]


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server(free_port())

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            state.asked.append((path, {key.lower(): value for key, value in self.headers.items()}))
            answers = state.answers.get(path, [status(404)])
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    class Quiet(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass  # who reads only the head of an answer hangs up

    listener = Quiet(("127.0.0.1", state.port), Handler)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield state
    listener.shutdown()
    listener.server_close()
    thread.join()


def status(code: int, **headers: str) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for key, value in {"Content-Length": "0", **{k.replace("_", "-"): v for k, v in headers.items()}}.items():
            handler.send_header(key, value)
        handler.end_headers()

    return answer


def body(content: bytes, etag: str | None = None, *, cut: int | None = None, ranges: bool = True, modified: str = "") -> Answer:
    """The content, or what a Range asks of it; with `cut` the connection closes after so many bytes of it."""

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        start = 0
        asked = handler.headers.get("Range", "")
        if ranges and asked and handler.headers.get("If-Range") in (None, etag):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            handler.send_response(200)
        handler.send_header("Content-Length", str(len(content) - start))
        if etag:
            handler.send_header("ETag", etag)
        if modified:
            handler.send_header("Last-Modified", modified)
        handler.end_headers()
        handler.wfile.write(content[start:] if cut is None else content[start : start + cut])
        handler.wfile.flush()
        if cut is not None:
            handler.close_connection = True

    return answer


def unframed(content: bytes, etag: str) -> Answer:
    """The content as HTTP/1.0 sends it: it ends where the connection does."""

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("ETag", etag)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(content)
        handler.close_connection = True

    return answer


def slow(handler: http.server.BaseHTTPRequestHandler) -> None:
    time.sleep(1.5)
    handler.close_connection = True


def test_file_of_the_web_lands_and_is_fetched_again_only_when_its_etag_moves(server: Server) -> None:
    server.answers["/a.csv"] = [body(GOOD, '"one"')]
    assert rows(land(server.url("/a.csv"))) == ROWS
    asked = len(server.asked)
    assert asked == 3  # look by poll, look by ingest, and the file
    land(server.url("/a.csv"))
    assert len(server.asked) == asked + 2
    server.answers["/a.csv"] = [body(b"n\n1\n", '"two"')]
    assert rows(land(server.url("/a.csv"))) == {"n": [1]}


@pytest.mark.parametrize(
    ("answer", "mark"),
    [
        (body(GOOD, '"one"'), {"etag": "one", "bytes": len(GOOD)}),
        (body(GOOD, 'W/"one"'), {"etag": "W/one", "bytes": len(GOOD)}),
        (body(GOOD, modified="Tue, 01 Jan 2013 00:00:00 GMT"), {"modified": "Tue, 01 Jan 2013 00:00:00 GMT", "bytes": len(GOOD)}),
    ],
)
def test_mark_is_what_the_server_says_of_the_content(server: Server, answer: Answer, mark: dict[str, Any]) -> None:
    server.answers["/a.csv"] = [answer]
    assert file.look("flights", FileSource(kind="file", file=server.url("/a.csv"))) == mark
    assert rows(land(server.url("/a.csv"))) == ROWS


def test_mark_is_the_hash_where_the_server_says_nothing(server: Server) -> None:
    server.answers["/a.csv"] = [body(GOOD)]
    assert set(file.look("flights", FileSource(kind="file", file=server.url("/a.csv")))) == {"sha256", "bytes"}
    assert rows(land(server.url("/a.csv"))) == ROWS


def test_body_without_a_length_is_whole_only_when_two_readings_agree(server: Server) -> None:
    whole, cut = unframed(BIG, '"one"'), unframed(BIG[:300_000], '"one"')
    server.answers["/a.csv"] = [whole, whole, cut, whole]
    assert land(server.url("/a.csv")).rows == 20_000
    shutil.rmtree("store")
    server.answers["/a.csv"] = [whole, whole, cut]
    assert "cannot be reached: 300,000 of" in refusal(server.url("/a.csv"))
    server.answers["/a.csv"] = [cut, cut, whole]
    assert "changed while it was read" in refusal(server.url("/a.csv"))
    server.answers["/a.csv"] = [cut, whole]
    with pytest.raises(DataError, match=r"is not what sources\.lock says"):
        land(server.url("/a.csv"))
    server.answers["/a.csv"] = [body(BIG, '"one"'), body(BIG, '"one"'), cut]
    assert "cannot be reached: 300,000 of" in refusal(server.url("/a.csv"))
    server.answers["/a.csv"] = [body(BIG, '"one"'), body(BIG, '"one"'), unframed(BIG + b"7,x\n", '"one"')]
    assert "changed while it was read" in refusal(server.url("/a.csv"))
    server.answers["/a.csv"] = [body(BIG, '"one"'), body(BIG, '"one"'), unframed(BIG, '"two"')]
    assert "changed while it was read" in refusal(server.url("/a.csv"))


def test_format_is_told_from_the_content_behind_a_query(server: Server) -> None:
    server.answers["/get"] = [body(PARQUET, '"p"')]
    assert rows(land(server.url("/get?id=7"))) == ROWS


def test_download_that_breaks_off_goes_on_where_it_stopped(server: Server) -> None:
    server.answers["/a.csv"] = [body(BIG, '"one"'), body(BIG, '"one"'), body(BIG, '"one"', cut=300_000), body(BIG, '"one"')]
    assert land(server.url("/a.csv")).rows == 20_000
    *_, last = server.of("/a.csv")
    assert last["if-range"] == '"one"'
    assert 0 < int(last["range"].removeprefix("bytes=").rstrip("-")) <= 300_000


def test_download_without_an_etag_begins_anew(server: Server) -> None:
    dated = "Tue, 01 Jan 2013 00:00:00 GMT"
    whole, broken = body(BIG, modified=dated), body(BIG, modified=dated, cut=300_000)
    server.answers["/a.csv"] = [whole, whole, broken, whole]
    assert land(server.url("/a.csv")).rows == 20_000
    assert "range" not in server.of("/a.csv")[-1]


def test_file_that_changes_while_it_is_fetched_is_refused(server: Server) -> None:
    server.answers["/a.csv"] = [
        body(BIG, '"one"'),
        body(BIG, '"one"'),
        body(BIG, '"one"', cut=300_000),
        body(BIG.replace(b"w", b"v"), '"two"'),
    ]
    assert "changed while it was read" in refusal(server.url("/a.csv"))


def test_download_that_always_breaks_off_is_refused_and_bounded(server: Server) -> None:
    whole = body(BIG, '"one"')
    server.answers["/a.csv"] = [whole, whole, body(BIG, '"one"', cut=10, ranges=False)]
    assert "cannot be reached: the connection broke off, 4 times in a row" in refusal(server.url("/a.csv"))
    assert len(server.asked) == 2 + network.TRIES


@pytest.mark.parametrize("code", [500, 503, 429])
def test_server_that_recovers_is_tried_again(server: Server, code: int) -> None:
    server.answers["/a.csv"] = [status(code), body(GOOD, '"one"'), body(GOOD, '"one"'), status(code), body(GOOD, '"one"')]
    assert rows(land(server.url("/a.csv"))) == ROWS


@pytest.mark.parametrize("code", [429, 503])
def test_pause_that_a_server_asks_for_is_kept(server: Server, code: int) -> None:
    server.answers["/a.csv"] = [status(code, Retry_After="1"), body(GOOD, '"one"')]
    before = time.monotonic()
    assert rows(land(server.url("/a.csv"))) == ROWS
    assert time.monotonic() - before >= 1


def test_pause_that_nobody_waits_for_is_refused(server: Server) -> None:
    later = formatdate(time.time() + 4000, usegmt=True)
    server.answers["/a.csv"] = [status(429, Retry_After=later)]
    assert re.search(r"a\.csv: the server asks to wait (3,999|4,000) s; run again after that", refusal(server.url("/a.csv")))
    assert len(server.asked) == 1


@pytest.mark.parametrize(("header", "pause"), [(None, None), ("soon", None), ("7", 7.0), ("Tue, 01 Jan 2013 00:00:00 GMT", 0.0)])
def test_pause_is_a_number_or_a_date(header: str | None, pause: float | None) -> None:
    assert network.wanted_pause("here", header) == pause


def test_slow_server_is_tried_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "READ_SECONDS", 0.5)
    server.answers["/a.csv"] = [slow, body(GOOD, '"one"')]
    assert rows(land(server.url("/a.csv"))) == ROWS


@pytest.mark.parametrize(
    ("code", "words", "asked"),
    [
        (404, "no file: the server answered 404; correct the address", 1),
        (403, "may not be read: the server answered 403; check the credentials", 1),
        (401, "may not be read: the server answered 401", 1),
        (418, "the server answered 418; expected 200", 1),
        (500, "cannot be reached: the server answered 500, 4 times in a row", 4),
    ],
)
def test_missing_forbidden_and_failing_are_told_apart(server: Server, code: int, words: str, asked: int) -> None:
    server.answers["/a.csv"] = [status(code)]
    assert words in refusal(server.url("/a.csv").replace("//", "//eve:secret@") + "?token=secret")
    assert len(server.asked) == asked


def test_server_that_is_not_there_is_unreachable() -> None:
    assert "cannot be reached: no connection" in refusal(f"http://127.0.0.1:{free_port()}/a.csv")


def test_secret_of_a_url_is_neither_said_nor_kept(server: Server, tmp_path: Path) -> None:
    for path in ("/flights.csv?sig=secret", "/flights.csv"):
        server.answers[path] = [body(GOOD, '"x"')]
    url = server.url("/flights.csv").replace("//", "//eve:{password}@") + "?sig={password}"
    settings = [f"sources.flights={{kind: file, file: '{url}', password: 'env:FILE_PASSWORD'}}"]
    settings += [f"sources.{name}={{kind: file, file: {ROOT}/LICENSE}}" for name in ("weather", "planes")]
    params = tmp_path / "params.yaml"
    params.write_text(with_values((ROOT / "params.yaml").read_text(), settings))
    command = [sys.executable, "-m", "tasks.look", "--marks", "marks.json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "secret" not in done.stdout + done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path != params and b"secret" in path.read_bytes()]


def test_log_in_page_in_the_place_of_the_file_is_refused(server: Server) -> None:
    server.answers["/a.csv"] = [body(b"<!DOCTYPE html><html>Log in</html>", '"x"')]
    assert "a page of HTML" in refusal(server.url("/a.csv"))


def test_redirect_is_followed_and_takes_no_password_along(server: Server) -> None:
    server.answers["/from.csv"] = [status(302, Location=f"http://localhost:{server.port}/to.csv")]
    server.answers["/to.csv"] = [body(GOOD, '"one"')]
    assert rows(land(server.url("/from.csv").replace("//", "//eve:secret@"))) == ROWS
    assert all("authorization" in headers for headers in server.of("/from.csv"))
    assert server.of("/to.csv")
    assert not any("authorization" in headers for headers in server.of("/to.csv"))


@pytest.mark.parametrize(
    "target",
    ["http://169.254.169.254/latest/meta-data/", "http://[fe80::1]/a", "http://[::ffff:169.254.169.254]/a", "http://2852039166/a"],
)
def test_redirect_to_a_machines_own_services_is_refused_without_a_request(server: Server, target: str) -> None:
    server.answers["/a.csv"] = [status(302, Location=target)]
    assert "an address of the machine's own services; no request was sent there" in refusal(server.url("/a.csv"))


@pytest.mark.parametrize(("target", "words"), [("file:///etc/passwd", "which is not followed"), ("/a.csv", "leads on for ever")])
def test_redirect_that_leads_nowhere_is_refused(server: Server, target: str, words: str) -> None:
    server.answers["/a.csv"] = [status(302, Location=target)]
    assert words in refusal(server.url("/a.csv"))


def test_spool_is_for_this_user_alone(server: Server) -> None:
    modes: list[int] = []
    whole = body(GOOD, '"one"')

    def watching(handler: http.server.BaseHTTPRequestHandler) -> None:
        modes.extend(path.stat().st_mode & 0o777 for path in Path("store/.spool").glob("*"))
        whole(handler)

    server.answers["/a.csv"] = [whole, whole, watching]
    land(server.url("/a.csv"))
    assert modes == [0o600]


# S3.


@dataclass(frozen=True)
class Bucket:
    endpoint: str
    client: Any

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket="flights", Key=key, Body=content)


def s3(endpoint: str, key: str = "a", secret: str = "b") -> Any:
    return boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key=secret)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    running.start()
    endpoint = "http://{}:{}".format(*running.get_host_and_port())
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    client = s3(endpoint)
    client.create_bucket(Bucket="flights")
    yield Bucket(endpoint, client)
    running.stop()


def test_object_lands_and_is_marked_by_its_etag(bucket: Bucket) -> None:
    bucket.put("2013/a.csv", GOOD)
    assert rows(land("s3://flights/2013/a.csv", bucket.endpoint)) == ROWS
    mark = file.look("flights", FileSource(kind="file", file="s3://flights/2013/a.csv", endpoint=bucket.endpoint))
    assert mark == {"etag": bucket.client.head_object(Bucket="flights", Key="2013/a.csv")["ETag"].strip('"'), "bytes": len(GOOD)}


def test_endpoint_may_come_from_the_environment(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put("a.csv", GOOD)
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.endpoint)
    assert rows(land("s3://flights/a.csv")) == ROWS


def test_objects_of_a_pattern_are_parts_and_only_new_ones_are_fetched(bucket: Bucket) -> None:
    for key in ("y/2.csv", "y/1.csv", "y/deep/3.csv", "z/4.csv"):
        bucket.put(key, f"n\n{key[-5]}\n".encode())
    assert rows(land("s3://flights/y/*.csv", bucket.endpoint)) == {"n": [1, 2]}
    before = {part.mark: path.stat().st_mtime_ns for part, path in zip(store().parts, store().paths, strict=True)}
    bucket.put("y/15.csv", b"n\n15\n")
    assert rows(land("s3://flights/y/*.csv", bucket.endpoint)) == {"n": [1, 15, 2]}
    after = {part.mark: path.stat().st_mtime_ns for part, path in zip(store().parts, store().paths, strict=True)}
    assert before.items() <= after.items()


def test_missing_bucket_is_told_from_a_missing_object(bucket: Bucket) -> None:
    assert "no file: there is no bucket 'trains'" in refusal("s3://trains/a.csv", bucket.endpoint)
    assert "no file: the bucket is there, the object is not" in refusal("s3://flights/b.csv", bucket.endpoint)
    assert "no object fits" in refusal("s3://flights/b*.csv", bucket.endpoint)
    assert "no file: there is no bucket 'trains'" in refusal("s3://trains/*.csv", bucket.endpoint)


def test_service_that_is_not_there_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert "cannot be reached" in refusal("s3://flights/a.csv", f"http://127.0.0.1:{free_port()}")


def test_address_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "expected s3://BUCKET/KEY" in refusal("s3://flights")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    assert "correct endpoint:" in refusal("s3://flights/a.csv", "no address")


def test_wrong_credentials_are_forbidden(monkeypatch: pytest.MonkeyPatch, bucket: Bucket) -> None:
    bucket.put("a.csv", GOOD)
    monkeypatch.setattr(moto.settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)  # from here on the server checks signatures
    assert "may not be read: the service answered InvalidAccessKeyId" in refusal("s3://flights/a.csv", bucket.endpoint)


def test_object_that_breaks_off_or_is_damaged_is_fetched_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    etag = f'"{hashlib.md5(BIG).hexdigest()}"'
    whole = body(BIG, etag)
    busy = status(503)
    damaged = body(BIG.replace(b"wordword", b"wordsord"), etag)
    server.answers["/flights/a.csv"] = [busy, whole, busy, whole, body(BIG, etag, cut=300_000), damaged, whole]
    assert land("s3://flights/a.csv", server.url("")).rows == 20_000
    assert "range" in server.of("/flights/a.csv")[5]
    assert "range" not in server.of("/flights/a.csv")[6]


# Any other URL.


def test_any_url_of_fsspec_lands() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/there/1.csv": b"n\n1\n", "/there/2.csv": b"n\n2\n"})
    try:
        assert rows(land("memory://there/1.csv")) == {"n": [1]}
        assert rows(land("memory://there/*.csv")) == {"n": [1, 2]}
    finally:
        memory.rm("/there", recursive=True)


def test_file_in_an_archive_lands(tmp_path: Path) -> None:
    with zipfile.ZipFile("x.zip", "w") as archive:
        archive.writestr("a.csv", GOOD)
    assert rows(land(f"zip://a.csv::{tmp_path}/x.zip")) == ROWS


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://eve:secret@127.0.0.1:99999/x.csv", "http://127.0.0.1:99999/x.csv is no address"),
        ("http://eve:secret@localhost:abc/x", "http://localhost:abc/x is no address"),
        ("http://[::1/x.csv?key=secret", "is no address"),
        ("ftp://eve:secret@127.0.0.1:9/a.csv", "ftp://127.0.0.1:9/a.csv cannot be reached: no answer (ConnectionRefusedError)"),
        ("ftp://eve:secret@127.0.0.1:abc/a.csv", "ftp://127.0.0.1:abc/a.csv is no address"),
        ("ftp://eve:secret/secret@127.0.0.1/a.csv", "is no address that can be opened; correct it in params.yaml"),
        ("gopher://eve:secret@nowhere/a.csv", "is no address that can be opened; nothing is called 'gopher'"),
        ("zip://a.csv::x.zip", "no file: it is not there"),
        ("zip://a.csv::no.zip", "cannot be read (BadZipFile)"),
        ("zip://a.csv::http://eve:secret@127.0.0.1:9/x.zip?key=secret", "zip://a.csv::http://127.0.0.1:9/x.zip?..."),
    ],
)
def test_address_that_cannot_be_opened_is_refused_in_one_line(url: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "TRIES", 2)
    Path("no.zip").write_bytes(GOOD)
    assert words in refusal(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://eve:se:cret@Host:80/a@b.csv?x=1#y", "https://Host:80/a@b.csv?..."),
        ("https://host:80/a@b.csv?", "https://host:80/a@b.csv?"),
        ("ftp://eve:se::cret@host/a.csv", "ftp://host/a.csv"),
        ("ftp://eve:se/cr?et@host/a.csv", "ftp://host/a.csv"),
        ("zip://a@b.csv::ftp://eve:secret@host/x.zip?a=1", "zip://b.csv::ftp://host/x.zip?..."),
        ("s3://bucket/a@b*.csv", "s3://bucket/a@b*.csv"),
    ],
)
def test_address_is_shown_without_its_secrets(url: str, said: str) -> None:
    assert network.shown(url) == said


def test_url_that_leads_nowhere_is_refused() -> None:
    assert "no file: it is not there" in refusal("memory://nowhere/1.csv")
    assert "no file fits" in refusal("memory://nowhere/*.csv")
    assert "is no address that can be opened" in refusal("gopher://nowhere/1.csv")

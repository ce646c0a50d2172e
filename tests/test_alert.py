"""Alerts: real channels on loopback take them once, are reminded, and hear when it is over, whatever another channel does."""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest

from flows import alert as command
from tasks import alert as module
from tasks.alert import Alert, open_alerts, raise_alert, resolve_alert
from tasks.cloud.storage import open_storage
from tasks.core.alert import Message, Trouble, as_slack, settled, subject, weigh
from tasks.params import with_values
from tests.conftest import ROOT, free_port
from tests.sinks import Mailbox, Webhook, mailbox, webhook

DRIFT = Alert("drift", "3 columns drifted", "temp: mean 2.1 sd higher", "warning", "reports/drift.html")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def configure(folder: Path, *settings: str, **channels: dict[str, Any]) -> Path:
    """A workspace with these channels."""
    text = (ROOT / "params.yaml").read_text()
    (folder / "params.yaml").write_text(with_values(text, [f"alert.channels={json.dumps(channels)}", *settings]))
    return folder


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as sink:
        yield sink


@pytest.fixture
def box() -> Iterator[Mailbox]:
    with mailbox() as sink:
        yield sink


def hooked(hook: Webhook, **more: Any) -> dict[str, Any]:
    return {"kind": "webhook", "url": hook.url, "least": "info", **more}


def mailed(box: Mailbox, **more: Any) -> dict[str, Any]:
    plain = {"kind": "email", "host": "127.0.0.1", "port": box.port, "security": "none", "least": "info"}
    return {**plain, "sender": "mill@example.com", "to": ["ann@example.com", "bob@example.com"], **more}


def test_trouble_is_told_once_reminded_of_and_resolved(tmp_path: Path, hook: Webhook, box: Mailbox) -> None:
    workspace = configure(tmp_path, ops=hooked(hook), mail=mailed(box))
    assert set(raise_alert(workspace, DRIFT).sent) == {"ops", "mail"}
    for _ in range(3):
        assert raise_alert(workspace, DRIFT).sent == ()
    body = hook.bodies[0]
    assert (body["status"], body["model"], body["key"], body["severity"]) == ("firing", "flights", "drift", "warning")
    assert body["link"] == str(tmp_path / "reports/drift.html")
    mail = box.mails[0]
    assert mail["Subject"] == "[flights] WARNING: 3 columns drifted"
    assert mail["To"] == "ann@example.com, bob@example.com"
    assert "temp: mean 2.1 sd higher" in mail.get_content()
    assert (len(hook.posts), len(box.mails)) == (1, 1)
    assert [(one.key, one.times) for one in open_alerts(workspace)] == [("drift", 4)]

    worse = replace(DRIFT, severity="critical")
    assert set(raise_alert(workspace, worse).sent) == {"ops", "mail"}  # which must not wait for the reminder
    assert set(resolve_alert(workspace, "drift", "the last window is as it was").sent) == {"ops", "mail"}
    assert hook.bodies[-1]["status"] == "resolved"
    assert hook.bodies[-1]["text"] == "the last window is as it was"
    assert box.mails[-1]["Subject"] == "[flights] resolved: 3 columns drifted"
    assert len({mail["References"] for mail in box.mails}) == 1  # one thread
    assert len({mail["Message-ID"] for mail in box.mails}) == 3
    assert open_alerts(workspace) == []
    assert resolve_alert(workspace, "drift").silent == "there is no such trouble"
    assert set(raise_alert(workspace, DRIFT).sent) == {"ops", "mail"}  # it is back


def test_channel_that_fails_is_named_stops_no_other_and_is_tried_when_raised_again(
    tmp_path: Path, hook: Webhook, box: Mailbox, caplog: pytest.LogCaptureFixture
) -> None:
    down = {**hooked(hook), "url": f"http://127.0.0.1:{free_port()}/"}
    wrong = {**hooked(hook), "url": hook.url}
    hook.status = lambda: 403
    workspace = configure(tmp_path, down=down, wrong=wrong, mail=mailed(box))
    told = raise_alert(workspace, DRIFT)
    assert told.sent == ("mail",)
    assert "it does not answer" in told.failed["down"]
    assert "it answers 403" in told.failed["wrong"]
    assert "did not reach down" in caplog.text
    hook.status = lambda: 200
    again = raise_alert(workspace, DRIFT)
    assert (again.sent, set(again.failed)) == (("wrong",), {"down"})
    assert (len(box.mails), len(hook.posts)) == (1, 1)


def test_passing_failure_is_tried_again_with_the_same_id(tmp_path: Path, hook: Webhook) -> None:
    statuses = [503, 429, 200]
    seen: list[int] = []

    def answer() -> int:
        seen.append(statuses[len(seen)])
        return seen[-1]

    hook.status = answer
    assert raise_alert(configure(tmp_path, ops=hooked(hook)), DRIFT).sent == ("ops",)
    assert seen == statuses
    headers, body = hook.posts[0]
    assert headers["idempotency-key"] == body["id"]


def test_secrets_come_from_the_environment_and_stand_nowhere(
    tmp_path: Path, hook: Webhook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    workspace = configure(
        tmp_path,
        ops=hooked(hook, token="env:OPS_TOKEN"),
        team={"kind": "slack", "url": "env:TEAM_URL", "least": "info"},
        gone={"kind": "slack", "url": "env:GONE_URL", "least": "info"},
        odd={"kind": "slack", "url": "env:ODD_URL", "least": "info"},
    )
    monkeypatch.setenv("OPS_TOKEN", "hunter2")
    monkeypatch.setenv("TEAM_URL", hook.url + "/T00/B00/s3cr3t")
    monkeypatch.setenv("ODD_URL", "s3cr3t is no address")
    with caplog.at_level("DEBUG"):
        told = raise_alert(workspace, replace(DRIFT, text="<b> & *bold*"))
    assert set(told.sent) == {"ops", "team"}
    assert "GONE_URL is not set" in told.failed["gone"]
    assert [headers.get("authorization") for headers, _ in hook.posts if "authorization" in headers] == ["Bearer hunter2"]
    slack = next(body for body in hook.bodies if "blocks" in body)
    assert slack["blocks"][1]["text"]["text"] == "&lt;b&gt; &amp; *bold*"
    kept = "".join(path.read_text() for path in (tmp_path / "releases").rglob("*.json"))
    ours = " ".join(record.getMessage() for record in caplog.records if not record.name.startswith("httpcore"))
    assert "hunter2" not in kept + ours + str(told)
    assert "s3cr3t" not in kept + ours + str(told)


def test_severity_decides_who_is_told_and_news_is_over_at_once(tmp_path: Path, hook: Webhook, box: Mailbox) -> None:
    workspace = configure(tmp_path, ops=hooked(hook), mail=mailed(box, least="critical"))
    news = Alert("retrained-1", "a new model", "it is better", "info")
    assert raise_alert(workspace, news).sent == ("ops",)
    assert raise_alert(workspace, news).sent == ()  # told a moment ago
    assert open_alerts(workspace) == []
    assert raise_alert(workspace, replace(DRIFT, severity="critical")).sent == ("ops", "mail")


def test_links_lead_to_where_people_open_the_reports(tmp_path: Path, hook: Webhook) -> None:
    workspace = configure(tmp_path, 'alert.reports="https://reports.example.com/flights/"', ops=hooked(hook))
    raise_alert(workspace, DRIFT)
    raise_alert(workspace, replace(DRIFT, key="2", link=str(tmp_path / "reports/a.html")))
    raise_alert(workspace, replace(DRIFT, key="3", link="https://elsewhere.example.com/x"))
    assert [body["link"] for body in hook.bodies] == [
        "https://reports.example.com/flights/drift.html",
        "https://reports.example.com/flights/a.html",
        "https://elsewhere.example.com/x",
    ]


def test_of_many_at_once_one_speaks(tmp_path: Path, hook: Webhook) -> None:
    workspace = configure(tmp_path, ops=hooked(hook))
    barrier = threading.Barrier(8)

    def run(_: int) -> tuple[str, ...]:
        barrier.wait()
        return raise_alert(workspace, DRIFT).sent

    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(run, range(8)))
    assert sorted(sent) == [()] * 7 + [("ops",)]
    assert len(hook.posts) == 1


def test_store_that_does_not_answer_silences_nobody(tmp_path: Path, hook: Webhook) -> None:
    workspace = configure(tmp_path, ops=hooked(hook))
    (tmp_path / "releases").write_text("a file")
    assert raise_alert(workspace, DRIFT).sent == ("ops",)
    assert raise_alert(workspace, DRIFT).sent == ("ops",)  # twice is better than never


def test_record_that_was_broken_is_begun_anew(tmp_path: Path, hook: Webhook) -> None:
    workspace = configure(tmp_path, ops=hooked(hook))
    raise_alert(workspace, DRIFT)
    [record] = (tmp_path / "releases/monitor/flights/alerts").iterdir()
    record.write_text('{"key": 3')
    assert raise_alert(workspace, DRIFT).sent == ("ops",)
    assert json.loads(record.read_text())["times"] == 1


def test_process_that_died_while_it_told_leaves_the_word_to_the_next(tmp_path: Path, hook: Webhook) -> None:
    workspace = configure(tmp_path, ops=hooked(hook))
    raise_alert(workspace, DRIFT)
    storage = open_storage(tmp_path / "releases")
    [key] = storage.keys("monitor/flights/alerts/")
    content, tag = storage.read(key)
    now = datetime.now(UTC)
    for claimed, sent in ((now + timedelta(minutes=1), ()), (now - timedelta(seconds=1), ("ops",))):
        document = {**json.loads(content), "told": {}, "claimed": claimed.isoformat()}
        tag = storage.replace(key, json.dumps(document).encode(), tag)
        assert raise_alert(workspace, DRIFT).sent == sent
        tag = storage.read(key)[1]


def test_reminder_comes_after_its_time_and_not_before() -> None:
    found, due = weigh(None, DRIFT, NOW, ["ops"], DAY, timedelta(minutes=2))
    assert due == ["ops"]
    found = settled(found, due, NOW, over=False)
    for hours, expected in ((1, []), (23.9, []), (24, ["ops"])):
        assert weigh(found, DRIFT, NOW + timedelta(hours=hours), ["ops"], DAY, timedelta(minutes=2))[1] == expected
    later, due = weigh(found, DRIFT, NOW + timedelta(hours=1), ["ops", "new"], DAY, timedelta(minutes=2))
    assert due == ["new"]  # a channel that was added meanwhile
    assert later.times == 2


def message(**changes: Any) -> Message:
    plain = {"id": "1", "status": "firing", "model": "m", "key": "k", "title": "t", "text": "x", "severity": "critical"}
    return Message(**{**plain, "link": "", "since": NOW.isoformat(), "times": 1, **changes})


def test_headers_and_blocks_hold_no_line_break_and_no_more_than_is_taken() -> None:
    long = message(title="one\r\nBcc: eve@example.com\n" + "x" * 500, text="y" * 5000, link="https://a/b?c=<d>")
    assert "\n" not in subject(long)
    assert len(subject(long)) <= 180
    blocks = as_slack(long)["blocks"]
    assert len(blocks[0]["text"]["text"]) <= 150
    assert len(blocks[1]["text"]["text"]) <= 3000
    assert blocks[2]["text"]["text"] == "<https://a/b?c=&lt;d&gt;|Report>"


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    made = folder / f"{name}.pem", folder / f"{name}.key"
    words = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-days", "2"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    files = ["-out", str(made[0]), "-keyout", str(made[1])]
    subprocess.run(["openssl", "req", "-x509", "-nodes", *curve, *words, *files], check=True, capture_output=True)
    return made


def test_mail_goes_over_tls_with_a_login_to_a_server_that_proves_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = certificate(tmp_path, "mail")
    monkeypatch.setenv("SMTP_PASSWORD", "hunter2")
    with mailbox(made, ("mill", "hunter2")) as box:
        login = {"security": "starttls", "user": "mill", "password": "env:SMTP_PASSWORD"}
        workspace = configure(tmp_path, mail=mailed(box, **login))
        assert "no TLS with 127.0.0.1" in raise_alert(workspace, DRIFT).failed["mail"]  # of nobody that is known
        monkeypatch.setenv("SSL_CERT_FILE", str(made[0]))
        assert raise_alert(workspace, DRIFT).sent == ("mail",)
        assert box.logins == [("mill", "hunter2")]
        monkeypatch.setenv("SMTP_PASSWORD", "wrong")
        said = raise_alert(workspace, replace(DRIFT, key="2")).failed["mail"]
        assert "does not take user 'mill'" in said
        assert "wrong" not in said
        assert len(box.mails) == 1


def test_refused_recipient_is_named_and_the_other_has_the_mail(tmp_path: Path, box: Mailbox) -> None:
    box.refuses = {"bob@example.com"}
    told = raise_alert(configure(tmp_path, mail=mailed(box)), DRIFT)
    assert "127.0.0.1 refuses bob@example.com; the others have it" in told.failed["mail"]
    assert len(box.mails) == 1


def test_topic_passes_the_message_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    for name, value in (
        ("ACCESS_KEY_ID", "a"),
        ("SECRET_ACCESS_KEY", "b"),
        ("DEFAULT_REGION", "eu-west-1"),
        ("ENDPOINT_URL", endpoint),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], **quiet) as moto:  # type: ignore[call-overload]
        try:
            with closing(boto3.client("sns")) as sns, closing(boto3.client("sqs")) as sqs:
                topic = patiently(lambda: sns.create_topic(Name="models"))["TopicArn"]
                queue = sqs.create_queue(QueueName="ann")["QueueUrl"]
                arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
                sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
                channel = {"kind": "sns", "topic": topic, "least": "info"}
                workspace = configure(tmp_path, good=channel, bad={**channel, "topic": f"{topic}-gone"})
                told = raise_alert(workspace, replace(DRIFT, title="Temperatur über allem"))
                [got] = sqs.receive_message(QueueUrl=queue)["Messages"]
        finally:
            moto.terminate()
    assert told.sent == ("good",)
    assert "NotFound" in told.failed["bad"]
    note = json.loads(got["Body"])
    assert note["Subject"] == "[flights] WARNING: Temperatur ?ber allem"
    assert "temp: mean 2.1 sd higher" in note["Message"]


def patiently(ask: Any) -> Any:
    """What the answer is once the server is up: the client itself tries again for seconds."""
    from botocore.exceptions import EndpointConnectionError

    for _ in range(20):
        try:
            return ask()
        except EndpointConnectionError:
            continue
    return ask()


def test_command_tries_every_channel_lists_and_resolves(tmp_path: Path, hook: Webhook, capsys: pytest.CaptureFixture[str]) -> None:
    down = {**hooked(hook, least="critical"), "url": f"http://127.0.0.1:{free_port()}/"}
    workspace = configure(tmp_path, ops=hooked(hook, least="critical"), down=down)
    flags = ["--workspace", str(workspace)]
    assert command.main(["test", *flags]) == 1
    said = capsys.readouterr()
    assert said.out == f"ops: sent to {hook.url}\n"
    assert said.err.startswith("down: failed: it does not answer")
    assert hook.bodies[0]["status"] == "test"

    raise_alert(workspace, replace(DRIFT, severity="critical"))
    assert command.main(["list", "--json", *flags]) == 0
    assert [one["key"] for one in json.loads(capsys.readouterr().out)] == ["drift"]
    assert command.main(["list", *flags]) == 0
    assert "3 columns drifted" in capsys.readouterr().out
    assert command.main(["resolve", "drift", "--why", "mended", *flags]) == 0
    assert hook.bodies[-1]["text"] == "mended"
    capsys.readouterr()
    assert command.main(["list", "--json", *flags]) == 0
    assert json.loads(capsys.readouterr().out) == []

    configure(tmp_path)
    assert command.main(["test", *flags]) == 2
    assert "alert.channels in params.yaml names none" in capsys.readouterr().err


def test_what_is_over_for_long_is_forgotten(tmp_path: Path, hook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = configure(tmp_path, ops=hooked(hook))
    raise_alert(workspace, DRIFT)
    resolve_alert(workspace, "drift")
    monkeypatch.setattr(module, "KEPT", timedelta(0))
    raise_alert(workspace, replace(DRIFT, key="other"))
    folder = tmp_path / "releases/monitor/flights/alerts"
    assert [Trouble.from_json(json.loads(path.read_text())).key for path in folder.iterdir()] == ["other"]
    shutil.rmtree(folder)


@contextmanager
def answering(write: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """The address of a server that answers a POST by `write`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            with suppress(OSError):  # who asked has gone
                write(self)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/services/T00/s3cr3t-path?sig=s3cr3t-word"
    finally:
        server.shutdown()
        server.server_close()


def test_secret_that_a_channel_says_back_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def echo(request: BaseHTTPRequestHandler) -> None:
        said = f"Cannot POST {request.path}: {request.headers['authorization']}, s3cr3t-path".encode()
        request.send_response(404)
        request.send_header("content-length", str(len(said)))
        request.end_headers()
        request.wfile.write(said)

    with answering(echo) as url:
        monkeypatch.setenv("ADDRESS", url)
        monkeypatch.setenv("TOKEN", "s3cr3t-token")
        channel = {"kind": "webhook", "url": "env:ADDRESS", "token": "env:TOKEN", "least": "info"}
        told = raise_alert(configure(tmp_path, ops=channel), DRIFT)
    assert told.failed["ops"].startswith("it answers 404: Cannot POST ...")
    assert "s3cr3t" not in str(told) + caplog.text


def test_redirect_is_refused_and_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lead_on(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("location", "http://127.0.0.1:1/stolen")
        request.end_headers()

    with answering(lead_on) as url:
        monkeypatch.setenv("ADDRESS", url)
        told = raise_alert(configure(tmp_path, ops={"kind": "slack", "url": "env:ADDRESS", "least": "info"}), DRIFT)
    assert told.failed == {"ops": "it answers 302; check address and token"}


@pytest.mark.parametrize("status", [200, 400])
def test_answer_without_an_end_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    def talk_on(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.end_headers()
        until = time.monotonic() + 30
        while time.monotonic() < until:
            request.wfile.write(b"x" * 100_000)

    with answering(talk_on) as url:
        monkeypatch.setenv("ADDRESS", url)
        began = time.monotonic()
        told = raise_alert(configure(tmp_path, ops={"kind": "slack", "url": "env:ADDRESS", "least": "info"}), DRIFT)
    assert time.monotonic() - began < 10
    assert told.sent == (("ops",) if status == 200 else ())


def test_mail_server_of_an_impossible_name_is_named(tmp_path: Path, box: Mailbox) -> None:
    told = raise_alert(configure(tmp_path, odd=mailed(box, host="a..b"), mail=mailed(box)), DRIFT)
    assert told.sent == ("mail",)
    assert "a..b cannot be used" in told.failed["odd"]


@pytest.mark.parametrize(
    "edit",
    [{"told": {"ops": "x"}}, {"told": [1]}, {"claimed": "soon"}, {"since": "2026-01-01"}, {"severity": "dire"}, {"times": "x"}],
)
def test_record_that_was_edited_is_begun_anew(tmp_path: Path, hook: Webhook, edit: dict[str, Any]) -> None:
    workspace = configure(tmp_path, ops=hooked(hook))
    raise_alert(workspace, DRIFT)
    [record] = (tmp_path / "releases/monitor/flights/alerts").iterdir()
    record.write_text(json.dumps({**json.loads(record.read_text()), **edit}))
    assert raise_alert(workspace, DRIFT).sent == ("ops",)
    assert json.loads(record.read_text())["times"] == 1

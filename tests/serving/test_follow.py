"""The service as a process that follows a release store: rollouts under load, bad bundles, canaries, shadows, workers."""

import asyncio
import http.client
import json
import math
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from serving.bundle import BundleError, load_bundle
from serving.check import CheckError, check
from tasks.cloud.storage import open_storage
from tasks.releases import Channel, Releases
from tasks.sign import sign
from tests.conftest import ROOT, apart, free_port, running
from tests.core.test_signature import KEY, PUBLIC, new_key
from tests.serving.stores import ROWS, make_bundle, network, promote, seal
from tests.serving.test_bundle import sigmoid

PREDICT = "/v1/models/flights:predict"
BODY = json.dumps({"instances": ROWS}).encode()
CODES = {"AA": 2, "UA": 3}


def total(row: dict[str, Any]) -> float:
    """What the network sums up of a row: its position, whether that is missing, and the carrier's code."""
    distance = row.get("distance")
    return (1.0 if distance is None else distance / 5 - 1) + CODES.get(row.get("carrier", ""), 0)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of bundles: two good ones, one whose answers are far off, one that cannot answer long distances."""
    home = tmp_path_factory.mktemp("bundles")
    made = {}
    for name, bias in (("old", 0.0), ("new", 0.125), ("far", 4.0)):
        made[name] = home / name
        make_bundle(made[name], network(home / f"{name}_saved", bias), lambda row, bias=bias: sigmoid(total(row) + bias))
    made["other"] = home / "other"
    make_bundle(made["other"], network(home / "other_saved"), lambda row: sigmoid(total(row)), "trains")
    return made


def version(folder: Path) -> str:
    return str(json.loads((folder / "manifest.json").read_text())["version"])


@pytest.fixture
def store(tmp_path: Path, bundles: dict[str, Path]) -> Path:
    """A store with the good bundles, the old one in production."""
    releases = Releases(open_storage(tmp_path / "store"))
    for name in ("old", "new", "far"):
        releases.put(bundles[name])
    promote(tmp_path / "store", version(bundles["old"]))
    return tmp_path / "store"


@contextmanager
def starting(log: Path, *flags: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    port = free_port()
    command = [sys.executable, "-m", "serving", "--port", str(port), "--poll", "0.2", *flags]
    with log.open("wb") as said, subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said) as process:
        try:
            yield port, process
        finally:
            process.terminate()


@contextmanager
def serving(log: Path, *flags: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    with starting(log, *flags) as (port, process):
        until(lambda: process.poll() is None and ask(port, "GET", "/readyz")[0] == 200, log)
        yield port, process


def until(true: Callable[[], bool], log: Path, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def ask(port: int, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> tuple[int, str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, answer.getheader("x-model-version", ""), content if path == "/metrics" else json.loads(content)
    except OSError:
        return 0, "", b"" if path == "/metrics" else {}
    finally:
        connection.close()


def counted(port: int, series: str) -> float:
    for line in ask(port, "GET", "/metrics")[2].decode().splitlines():
        if line.startswith(f"{series} "):
            return float(line.rpartition(" ")[2])
    return 0.0


def refused(port: int) -> float:
    return counted(port, 'tidemill_channel_refused{channel="production",model="flights"}')


def open_trial(store: Path, name: str, folder: Path, **facts: Any) -> None:
    releases = Releases(open_storage(store))
    found = releases.channel(name)
    channel = Channel(name="flights", version=version(folder), chosen="student", by="test", **facts)
    releases.move(name, channel, found and found[1])


def test_hundred_rollouts_under_load_fail_no_request_and_mix_no_answer(
    store: Path, bundles: dict[str, Path], tmp_path: Path
) -> None:
    right = {
        version(bundles[name]): json.loads((bundles[name] / "golden.json").read_text())["predictions"] for name in ("old", "new")
    }
    found: list[tuple[int, str, bool]] = []
    stop = threading.Event()

    def load(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while not stop.is_set():
            connection.request("POST", PREDICT, BODY)
            answer = connection.getresponse()
            told, content = answer.getheader("x-model-version", ""), json.loads(answer.read())
            same = answer.status == 200 and all(
                abs(a - b) < 1e-5 for a, b in zip(content["predictions"], right.get(told, [9] * 4), strict=True)
            )
            found.append((answer.status, told, same))
        connection.close()

    log = tmp_path / "log"
    with serving(log, "--store", str(store)) as (port, _):
        threads = [threading.Thread(target=load, args=(port,)) for _ in range(16)]
        for thread in threads:
            thread.start()
        try:
            for i in range(100):
                to = bundles[("new", "old")[i % 2]]
                promote(store, version(to))
                assert ask(port, "POST", "/v1/models/flights:refresh")[0] == 200
                assert ask(port, "POST", PREDICT, BODY)[1] == version(to)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert len(found) > 500
    assert {status for status, _, _ in found} == {200}
    assert {told for _, told, _ in found} == set(right)
    assert all(same for _, _, same in found)


def truncated(folder: Path) -> None:
    content = (folder / "model.tflite").read_bytes()
    (folder / "model.tflite").write_bytes(content[: len(content) // 2])
    seal(folder)


def narrow(folder: Path) -> None:
    (folder / "model.tflite").write_bytes(network(folder.parent / "saved", width=5))
    seal(folder)


def no_number(folder: Path) -> None:
    (folder / "model.tflite").write_bytes(network(folder.parent / "saved", bias=math.nan))
    seal(folder)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (truncated, "is no bundle of this format"),
        (narrow, "golden rows"),
        (no_number, "answers its golden rows nan apart"),
    ],
)
def test_bad_bundle_is_refused_and_the_old_one_serves_on(
    spoil: Callable[[Path], None], words: str, store: Path, bundles: dict[str, Path], tmp_path: Path
) -> None:
    bad, log = tmp_path / "bad", tmp_path / "log"
    shutil.copytree(bundles["new"], bad)
    spoil(bad)
    with pytest.raises(BundleError, match=words):
        load_bundle(bad)
    Releases(open_storage(store)).put(bad)
    with serving(log, "--store", str(store)) as (port, _):
        promote(store, version(bad))
        until(lambda: refused(port) == 1, log)
        for _ in range(20):
            assert ask(port, "POST", PREDICT, BODY)[:2] == (200, version(bundles["old"]))
        states = ask(port, "GET", "/v1/models/flights")[2]["model_version_status"]
        assert [(one["version"], one["state"]) for one in states] == [
            (version(bundles["old"]), "AVAILABLE"),
            (version(bad), "END"),
        ]
        assert words in states[1]["status"]["error_message"]
        promote(store, version(bundles["new"]))
        until(lambda: ask(port, "POST", PREDICT, BODY)[1] == version(bundles["new"]), log)
        assert refused(port) == 0
    assert "Traceback" not in log.read_text()


def test_bundle_that_kills_its_process_is_refused(bundles: dict[str, Path]) -> None:
    async def killed() -> None:
        trial = asyncio.create_task(check(bundles["old"]))
        while not (found := running("serving.check")):
            await asyncio.sleep(0.001)
        found[0].kill()
        await trial

    with pytest.raises(CheckError, match=r"killed the process that tried it \(signal 9\)"):
        apart(killed())
    apart(check(bundles["old"]))


def test_release_that_the_key_does_not_vouch_for_is_refused(bundles: dict[str, Path], tmp_path: Path) -> None:
    store, log, key = tmp_path / "store", tmp_path / "log", tmp_path / "release.pub"
    key.write_bytes(PUBLIC)
    releases, tampered = Releases(open_storage(store)), tmp_path / "tampered"
    releases.put(bundles["old"], sign(bundles["old"], KEY))
    releases.put(bundles["new"])
    releases.put(bundles["far"], sign(bundles["far"], new_key()))
    shutil.copytree(bundles["new"], tampered)
    (tampered / "model_card.md").write_text("# flights, better")
    seal(tampered)  # every hash of the manifest is right, and the signature is of what was there before
    releases.put(tampered, sign(bundles["new"], KEY))
    promote(store, version(bundles["old"]))
    with serving(log, "--store", str(store), "--verify", str(key)) as (port, _):
        for folder, words in ((bundles["new"], "is not signed"), (bundles["far"], "another key"), (tampered, "signed")):
            promote(store, version(folder))
            until(lambda folder=folder: f"names {version(folder)}, which is refused" in log.read_text(), log)
            assert ask(port, "POST", PREDICT, BODY)[:2] == (200, version(bundles["old"]))
            assert refused(port) == 1
            why = ask(port, "GET", "/v1/models")[2]["models"][0]["refused"]["production"]["why"]
            assert words in why
        releases.put(bundles["new"], sign(bundles["new"], KEY))
        promote(store, version(bundles["new"]))
        until(lambda: ask(port, "POST", PREDICT, BODY)[1] == version(bundles["new"]), log)
        assert refused(port) == 0


def test_file_that_changed_in_the_store_is_refused_also_at_the_start(store: Path, bundles: dict[str, Path], tmp_path: Path) -> None:
    old, new, log = version(bundles["old"]), version(bundles["new"]), tmp_path / "log"
    promote(store, new)
    model = store / new / "model.tflite"
    model.chmod(0o644)
    model.write_bytes(model.read_bytes() + b"x")
    with serving(log, "--store", str(store)) as (port, _):  # the release before it stands in
        assert ask(port, "POST", PREDICT, BODY)[:2] == (200, old)
        assert refused(port) == 1
        model.write_bytes(model.read_bytes()[:-1])  # mended, and whoever did so need not wait a minute
        assert ask(port, "POST", "/v1/models/flights:refresh")[0] == 200
        assert ask(port, "POST", PREDICT, BODY)[:2] == (200, new)
        assert refused(port) == 0
    assert f"production names {new}, which is refused" in log.read_text()


def test_service_without_a_release_that_can_be_served_lives_and_waits_for_one(
    store: Path, bundles: dict[str, Path], tmp_path: Path
) -> None:
    log, new = tmp_path / "log", version(bundles["new"])
    promote(store, new)
    for one in ("old", "new"):
        shutil.rmtree(store / version(bundles[one]))
    with starting(log, "--store", str(store)) as (port, _):
        until(lambda: ask(port, "GET", "/healthz")[0] == 200, log)
        status, _, told = ask(port, "GET", "/readyz")
        assert (status, told["detail"]) == (503, "no release yet of flights")
        for path in (PREDICT, "/", "/openapi.json", "/v1/models/flights/live", "/v1/models/flights/history"):
            assert ask(port, "POST" if path == PREDICT else "GET", path, BODY)[0] in (200, 503)
        assert ask(port, "POST", PREDICT, BODY)[0] == 503
        assert refused(port) == 1
        assert "flights (no release yet) at http" in log.read_text()
        open_trial(store, "canary", bundles["far"], share=0.5)  # which needs one to be held against
        Releases(open_storage(store)).put(bundles["new"])
        until(lambda: ask(port, "GET", "/readyz")[0] == 200, log)
        assert ask(port, "POST", PREDICT, BODY)[0] == 200
        until(lambda: "canary" in channels(port), log)
    assert "Traceback" not in log.read_text()


def test_store_that_names_no_model_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "serving", "--store", str(tmp_path / "empty"), "--port", str(free_port())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "has no release in production; `python -m flows.train` makes one" in done.stderr


def test_store_that_is_gone_is_no_reason_to_stop(store: Path, bundles: dict[str, Path], tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(log, "--store", str(store)) as (port, _):
        (store / "channels/production.json").write_text("{")
        until(lambda: "the release that is served goes on" in log.read_text(), log)
        assert ask(port, "POST", PREDICT, BODY)[:2] == (200, version(bundles["old"]))
        shutil.rmtree(store)
        time.sleep(0.5)
        assert ask(port, "POST", PREDICT, BODY)[:2] == (200, version(bundles["old"]))


def test_canary_that_keeps_its_rule_is_promoted(store: Path, bundles: dict[str, Path], tmp_path: Path) -> None:
    old, new, log = version(bundles["old"]), version(bundles["new"]), tmp_path / "log"
    rule = {"requests": 100, "minutes": 0, "errors": 0.01, "latency": 1000, "shift": 0.9}
    with serving(log, "--store", str(store)) as (port, _):
        open_trial(store, "canary", bundles["new"], share=0.5, rule=rule)
        until(lambda: "canary" in channels(port), log)
        answers = [ask(port, "POST", PREDICT, BODY) for _ in range(60)]
        assert {told for _, told, _ in answers} == {old, new}
        until(lambda: ask(port, "POST", PREDICT, BODY)[0] == 200 and channels(port)["production"]["version"] == new, log)
        until(lambda: "canary" not in channels(port), log)
    releases = Releases(open_storage(store))
    found = releases.channel("production")
    assert found is not None
    assert (found[0].version, found[0].previous, releases.channel("canary")) == (new, old, None)
    assert "answers" in found[0].why
    assert found[0].by.startswith("service ")


def channels(port: int) -> dict[str, Any]:
    told: dict[str, Any] = ask(port, "GET", "/v1/models")[2]["models"][0]["channels"]
    return told


def test_canary_that_breaks_its_rule_is_ended_and_fails_no_request(store: Path, bundles: dict[str, Path], tmp_path: Path) -> None:
    old, log, brittle = version(bundles["old"]), tmp_path / "log", tmp_path / "brittle"
    make_bundle(brittle, network(tmp_path / "saved", brittle=True), lambda row: 0.5)
    golden = {"instances": [{"distance": 0.0}], "predictions": [math.sqrt(1.5)]}
    (brittle / "golden.json").write_text(json.dumps(golden))
    seal(brittle)
    Releases(open_storage(store)).put(brittle)
    with serving(log, "--store", str(store)) as (port, _):
        for folder, words in ((bundles["far"], "its answers are"), (brittle, "it could not answer")):
            open_trial(store, "canary", folder, share=1.0, rule={"requests": 1000, "minutes": 0, "latency": 50})
            until(lambda folder=folder: version(folder) == channels(port).get("canary", {}).get("version"), log)
            until(lambda: ask(port, "POST", PREDICT, BODY)[0] == 200 and "canary" not in channels(port), log)
            assert words in log.read_text()
            assert ask(port, "POST", PREDICT, BODY)[:2] == (200, old)
        errors = f'tidemill_trial_errors_total{{channel="canary",model="flights",version="{version(brittle)}"}}'
        assert counted(port, errors) >= 3
    assert Releases(open_storage(store)).channel("canary") is None


def test_canary_by_header_and_shadow(store: Path, bundles: dict[str, Path], tmp_path: Path) -> None:
    old, new, log = version(bundles["old"]), version(bundles["new"]), tmp_path / "log"
    rule = {"requests": 1e9, "minutes": 0, "shift": 1, "latency": 1e9}
    with serving(log, "--store", str(store), "--follow-only") as (port, _):
        open_trial(store, "canary", bundles["new"], share=1e-9, header="X-Canary: yes", rule=rule)
        open_trial(store, "shadow", bundles["far"], share=1.0)
        until(lambda: {"canary", "shadow"} <= set(channels(port)), log)
        for _ in range(30):
            assert ask(port, "POST", PREDICT, BODY)[1] == old
        assert ask(port, "POST", PREDICT, BODY, {"x-canary": "yes"})[1] == new
        assert ask(port, "POST", PREDICT, BODY, {"x-canary": "no"})[1] == old
        assert ask(port, "POST", "/v1/models/flights/labels/canary:predict", BODY)[1] == new
        assert ask(port, "POST", f"/v1/models/flights/versions/{new}:predict", BODY)[1] == new
        assert ask(port, "POST", "/v1/models/flights/versions/1:predict", BODY)[0] == 404
        until(lambda: channels(port)["shadow"]["requests"] >= 30, log)
        assert channels(port)["shadow"]["shift"] > 0.5
        assert channels(port)["shadow"]["on"]  # a shadow has no rule to end by


def test_several_models_in_one_service(store: Path, bundles: dict[str, Path], tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(log, "--store", str(store), "--bundle", str(bundles["other"])) as (port, _):
        assert ask(port, "POST", PREDICT, BODY)[1] == version(bundles["old"])
        assert ask(port, "POST", "/v1/models/trains:predict", BODY)[1] == version(bundles["other"])
        assert ask(port, "POST", "/v1/models/planes:predict", BODY)[0] == 404
        assert ask(port, "POST", "/v1/models/trains:refresh")[0] == 409
        told = ask(port, "GET", "/openapi.json")[2]
        assert {"/v1/models/flights:predict", "/v1/models/trains:predict"} <= set(told["paths"])
        assert ask(port, "GET", "/readyz")[2]["models"] == {
            "flights": version(bundles["old"]),
            "trains": version(bundles["other"]),
        }


def test_worker_that_is_killed_is_replaced_and_metrics_are_of_all(store: Path, bundles: dict[str, Path], tmp_path: Path) -> None:
    log = tmp_path / "log"

    def predicted(count: int) -> bool:  # each worker counts a moment later
        return counted(port, 'tidemill_requests_total{route="predict",status="200"}') == count

    with serving(log, "--store", str(store), "--workers", "2") as (port, process):
        parent = psutil.Process(process.pid)
        until(lambda: len(parent.children()) == 2 and log.read_text().count(" at http://") == 2, log)
        for _ in range(40):
            assert ask(port, "POST", PREDICT, BODY)[0] == 200
        until(lambda: predicted(40), log)
        victim = parent.children()[0]
        victim.kill()
        until(lambda: len({child.pid for child in parent.children()} - {victim.pid}) == 2, log)
        until(lambda: log.read_text().count(" at http://") == 3, log)
        for _ in range(20):
            assert ask(port, "POST", PREDICT, BODY)[0] == 200
        until(lambda: predicted(60), log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert not [child for child in parent_children(process.pid) if child.is_running()]


def test_worker_that_cannot_be_replaced_yet_leaves_the_others_to_answer(store: Path, tmp_path: Path) -> None:
    log, away = tmp_path / "log", tmp_path / "away"
    with serving(log, "--store", str(store), "--workers", "2") as (port, process):
        parent = psutil.Process(process.pid)
        until(lambda: log.read_text().count(" at http://") == 2, log)
        store.rename(away)
        time.sleep(1)  # so that the other is seen to have been there before
        parent.children()[0].kill()
        until(lambda: "a worker could not start; the next try is in 5 s" in log.read_text(), log)
        assert ask(port, "POST", PREDICT, BODY)[0] == 200
        away.rename(store)
        until(lambda: log.read_text().count(" at http://") == 3, log)
        assert len(parent.children()) == 2


def test_worker_that_cannot_start_ends_the_service_however_slow_the_machine(tmp_path: Path) -> None:
    code = (
        "import socket, sys; from serving import workers; workers.QUICK_SECONDS = 0.0\n"
        "sys.exit(workers.supervise(1, socket.create_server(('127.0.0.1', 0)), sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "--store", str(tmp_path / "nowhere")]
    with (tmp_path / "log").open("wb") as said:
        assert subprocess.run(command, cwd=ROOT, stderr=said, timeout=30).returncode == 1
    assert (tmp_path / "log").read_text().count("nowhere has no release in production") == 1


def parent_children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []

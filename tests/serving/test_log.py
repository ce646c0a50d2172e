"""The prediction log: what was answered stands in Parquet, or is counted as lost; personal columns do not stand there raw."""

import asyncio
import base64
import hashlib
import itertools
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from prometheus_client import CollectorRegistry

from serving import log as prediction_log
from serving.bundle import Bundle, load_bundle
from serving.feedback import parse_truths
from serving.log import PredictionLog, is_sampled, request_id
from serving.metrics import Metrics
from serving.models import Model, Served, Trial
from serving.request import RequestError
from serving.trial import Comparison, Rule
from tasks.core.encoder import CategoryColumn, DateColumn, Encoder
from tasks.core.target import Target
from tests import s3
from tests.conftest import ROOT, apart
from tests.serving.every_kind import EVERY_KIND, make_network, make_rows, write_bundle
from tests.serving.test_server import ask, counted, serving

ROWS = make_rows(30)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("every_kind")
    write_bundle(folder, EVERY_KIND, make_network(EVERY_KIND), ROWS)
    return load_bundle(folder)


def rows_of(place: Path) -> list[dict[str, Any]]:
    """All that the log holds, as pyarrow reads it."""
    found: list[dict[str, Any]] = ds.dataset(place, format="parquet", exclude_invalid_files=False).to_table().to_pylist()
    return found


def value(log: PredictionLog, series: str, **labels: str) -> float:
    return log.registry.get_sample_value(f"tidemill_log_{series}_total", labels) or 0.0


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., PredictionLog]]:
    made: list[PredictionLog] = []

    def make(place: str | Path = tmp_path / "log", **settings: Any) -> PredictionLog:
        made.append(PredictionLog(str(place), registry=CollectorRegistry(), **settings))
        return made[-1]

    yield make
    for log in made:
        log.stop()


def score(bundle: Bundle, rows: list[dict[str, Any]]) -> Any:
    return bundle.network(bundle.encode(rows))


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_every_row_stands_with_its_features_answer_and_origin(
    bundle: Bundle, make: Callable[..., PredictionLog], tmp_path: Path
) -> None:
    log, before = make(), time.time()
    log.record(bundle, "order-1", ROWS[:1], score(bundle, ROWS[:1]), key="shop")
    log.record(bundle, "order-2", ROWS[1:], score(bundle, ROWS[1:]), channel="shadow")
    assert log.stop() == "prediction log: 30 rows written, 0 dropped"
    written = rows_of(tmp_path / "log/flights")
    assert [row["id"] for row in written] == ["order-1", *(f"order-2-{i}" for i in range(29))]
    assert [row["prediction"] for row in written[1:]] == bundle.predict(ROWS[1:])
    assert [(row["channel"], row["key"]) for row in written[:2]] == [("production", "shop"), ("shadow", None)]
    assert {(row["model"], row["version"]) for row in written} == {("flights", "1")}
    assert all(before <= row["time"].timestamp() <= time.time() for row in written)
    for row, sent in zip(written, ROWS, strict=True):
        photo = hashlib.sha256(base64.b64decode(sent["photo"])).hexdigest()
        wanted = {**sent, "distance": float(sent["distance"]), "photo": photo}
        assert {name.removeprefix("feature_"): value for name, value in row.items() if name.startswith("feature_")} == wanted
    (file,) = (tmp_path / "log").rglob("*.parquet")
    now = datetime.now(UTC)
    assert file.parent in {
        tmp_path / f"log/flights/date={t:%Y-%m-%d}/hour={t:%H}" for t in (now, datetime.fromtimestamp(before, UTC))
    }
    assert str(os.getpid()) in file.name
    schema = pq.read_schema(file)
    assert str(schema.field("time").type) == "timestamp[us, tz=UTC]"
    assert str(schema.field("feature_distance").type) == "double"


def test_canary_and_shadow_stand_in_the_log_by_their_channel_under_the_same_id(
    bundle: Bundle, make: Callable[..., PredictionLog], tmp_path: Path
) -> None:
    log, metrics = make(), Metrics()
    model = Model("flights", metrics)
    model.production = Served(bundle, metrics)
    trial = Trial(Served(replace(bundle, version="2"), metrics), Comparison(Rule()), 1.0)

    async def ask(name: bytes) -> str | None:
        _, _, told = prediction_log.score(model, model.current, ROWS[:1], {"headers": [(b"x-request-id", name)]}, log)
        await asyncio.sleep(0)  # the shadow answers once the client has its own
        return told

    model.shadow = trial
    assert apart(ask(b"a")) == "a"
    model.shadow, model.canary = None, trial
    assert apart(ask(b"b")) == "b"
    log.stop()
    written = {(row["id"], row["channel"], row["version"]) for row in rows_of(tmp_path / "log/flights")}
    assert written == {("a", "production", "1"), ("a", "shadow", "2"), ("b", "canary", "2")}


def test_rows_are_written_after_the_flush_seconds_without_waiting_for_the_end(
    bundle: Bundle, make: Callable[..., PredictionLog], tmp_path: Path
) -> None:
    log = make(flush=0.2)
    log.record(bundle, "a", ROWS[:1], score(bundle, ROWS[:1]))
    eventually(lambda: value(log, "rows") == 1)
    log.record(bundle, "b", ROWS[:1], score(bundle, ROWS[:1]))
    eventually(lambda: value(log, "rows") == 2)
    assert sorted(row["id"] for row in rows_of(tmp_path / "log/flights")) == ["a", "b"]
    assert len(list((tmp_path / "log").rglob("*.parquet"))) == 2


def test_two_versions_and_two_hours_are_files_of_their_own(
    bundle: Bundle, make: Callable[..., PredictionLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = make()
    log.record(bundle, "a", ROWS[:1], score(bundle, ROWS[:1]))
    log.record(replace(bundle, version="2"), "b", ROWS[:1], score(bundle, ROWS[:1]))
    late = time.time() + 3600
    monkeypatch.setattr(prediction_log.time, "time", lambda: late)
    log.record(bundle, "c", ROWS[:1], score(bundle, ROWS[:1]))
    log.stop()
    files = list((tmp_path / "log").rglob("*.parquet"))
    assert sorted(pq.read_table(file)["id"].to_pylist() for file in files) == [["a"], ["b"], ["c"]]
    assert len({file.parent for file in files}) == 2


def test_rows_beyond_memory_are_dropped_and_counted(bundle: Bundle, make: Callable[..., PredictionLog], tmp_path: Path) -> None:
    log = make(most_rows=10)
    for i in range(25):
        log.record(bundle, str(i), ROWS[:1], score(bundle, ROWS[:1]))
    assert value(log, "dropped", reason="full") == 15
    assert log.stop() == "prediction log: 10 rows written, 15 dropped"
    assert len(rows_of(tmp_path / "log/flights")) == 10


def fill(folder: Path) -> None:
    """There is no room in the folder."""
    with (folder / "other").open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(512))


def test_full_disk_is_told_once_and_rows_are_kept_until_there_is_room(
    bundle: Bundle,
    make: Callable[..., PredictionLog],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], check=True)
    try:
        fill(small)
        monkeypatch.setattr(prediction_log, "RETRY_SECONDS", 0.1)
        monkeypatch.setattr(prediction_log, "MOST_RETRY_SECONDS", 0.1)
        caplog.set_level(logging.WARNING, "serving.log")
        log = make(small / "log", flush=0.1, most_rows=100)
        for i in range(150):
            log.record(bundle, str(i), ROWS[:1], score(bundle, ROWS[:1]))
        eventually(lambda: any(pending.tries > 3 for pending in log.pending.values()))
        assert value(log, "dropped", reason="full") == 50
        assert value(log, "rows") == 0
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "No space left on device" in caplog.text
        (small / "other").unlink()
        eventually(lambda: value(log, "rows") == 100)
        assert "the prediction log is written again" in caplog.text
        assert [row["id"] for row in rows_of(small / "log/flights")] == [str(i) for i in range(100)]
        fill(small)
        log.record(bundle, "last", ROWS, score(bundle, ROWS))
        assert log.stop() == "prediction log: 100 rows written, 80 dropped"
        assert value(log, "dropped", reason="unwritten") == 30
        assert not [path for path in small.rglob("*") if path.is_file() and path.suffix not in ("", ".parquet")]
    finally:
        subprocess.run(["umount", small], check=True)


def test_sampling_takes_the_share_by_the_requests_id_in_every_process_alike(
    bundle: Bundle, make: Callable[..., PredictionLog], tmp_path: Path
) -> None:
    names = [f"request {i}" for i in range(4000)]
    sampled = {name for name in names if is_sampled(name, 0.25)}
    assert 900 < len(sampled) < 1100
    assert sampled < {name for name in names if is_sampled(name, 0.5)}
    assert (is_sampled("a", 0.0), is_sampled("a", 1.0)) == (False, True)
    log = make(sample=0.25)
    scores = score(bundle, ROWS[:1])
    for name in names:
        log.record(bundle, name, ROWS[:1], scores)
    assert log.stop() == f"prediction log: {len(sampled):,} rows written, 0 dropped"
    assert {row["id"] for row in rows_of(tmp_path / "log/flights")} == sampled


def test_id_of_the_client_is_taken_if_it_can_stand_in_a_header() -> None:
    assert request_id("order-17/b") == "order-17/b"
    made = {request_id(given) for given in ("", "a b", "x" * 129, "\n", "é", "")}
    assert len(made) == 6
    assert all(len(one) == 32 for one in made)


PERSONAL = Encoder(
    numbers=(),
    dates=(DateColumn("born", False, True, (0.0, 1e9), ()),),
    categories=(
        CategoryColumn("mail", False, ("0" * 32,)),
        CategoryColumn("zip", False, ("101", "102")),
        CategoryColumn("renamed", False, ("a" * 32, "b" * 32)),
        CategoryColumn("city", False, ("Berlin",)),
    ),
    texts=(),
    target=Target("binary", "late", (0, 1)),
)


def test_personal_columns_are_written_as_training_knew_them_whatever_is_sent(
    make: Callable[..., PredictionLog], tmp_path: Path
) -> None:
    good = {"mail": "0123456789abcdef" * 2, "zip": "101", "born": "1980-05-01", "renamed": "a" * 32, "city": "Berlin"}
    raw = {"mail": "ann@example.com", "zip": "10115", "born": "1980-05-17T08:00:00", "renamed": "Ann", "city": "ann@example.com"}
    rows = [good, raw, {}]
    rules = {"mail": "pseudonym", "zip": 3, "born": "month", "gone": "pseudonym"}
    write_bundle(tmp_path / "bundle", PERSONAL, make_network(PERSONAL), rows, privacy=rules)
    bundle, log = load_bundle(tmp_path / "bundle"), make()
    log.record(bundle, "a", rows, score(bundle, rows))
    log.stop()
    written = [{name: row[f"feature_{name}"] for name in good} for row in rows_of(tmp_path / "log/flights")]
    assert written[0] == good
    # Of `city` training knew no pseudonyms, and params.yaml says nothing.
    assert written[1] == {"mail": None, "zip": "101", "born": "1980-05-01", "renamed": None, "city": "ann@example.com"}
    assert written[2] == dict.fromkeys(good)
    assert {name: value(log, "withheld", column=name) for name in good} == {"mail": 1, "zip": 1, "born": 1, "renamed": 1, "city": 0}


def test_feedback_stands_beside_the_log_with_both_times(bundle: Bundle, make: Callable[..., PredictionLog], tmp_path: Path) -> None:
    log = make()
    told = [{"id": "a", "truth": 1, "time": "2013-07-04T18:30:00+02:00"}, {"id": "b", "truth": "0"}, {"id": "a", "truth": 0}]
    body = json.dumps({"feedback": told}).encode()
    log.add_truths(parse_truths(body, bundle))
    numeric = replace(bundle, name="minutes", encoder=replace(EVERY_KIND, target=Target("regression", "delay")))
    log.add_truths(parse_truths(b'{"feedback": [{"id": "c", "truth": 12, "time": "2013-07-04"}]}', numeric))
    log.stop()
    kept = rows_of(tmp_path / "log/flights/feedback")
    assert [(row["id"], row["truth"]) for row in kept] == [("a", "1"), ("b", "0"), ("a", "0")]
    assert [row["time"] for row in kept] == [datetime(2013, 7, 4, 16, 30, tzinfo=UTC), None, None]
    assert abs(kept[0]["received"].timestamp() - time.time()) < 20
    (number,) = rows_of(tmp_path / "log/minutes/feedback")
    assert (number["truth"], number["time"]) == (12.0, datetime(2013, 7, 4, tzinfo=UTC))
    (file,) = (tmp_path / "log/flights").rglob("*.parquet")
    assert file.parent.name.startswith("date=")


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "not JSON"),
        (b'{"feedback": {}}', 400, 'expected {"feedback"'),
        (b'{"feedback": []}', 400, "feedback is empty"),
        (b'{"feedback": [3]}', 422, "feedback[0]: expected an object"),
        (b'{"feedback": [{"id": 3, "truth": 1}]}', 422, "feedback[0].id: expected the id of an answered row"),
        (b'{"feedback": [{"id": "", "truth": 1}]}', 422, "feedback[0].id"),
        (b'{"feedback": [{"id": "a", "truth": 2}]}', 422, "feedback[0].truth: expected one of the classes 0, 1, found 2"),
        (b'{"feedback": [{"id": "a"}]}', 422, "found null"),
        (b'{"feedback": [{"id": "a", "truth": 1, "time": "soon"}]}', 422, "feedback[0].time: expected a time"),
        (b'{"feedback": [{"id": "a", "truth": 1, "when": 1}]}', 422, "feedback[0].when: unknown field"),
    ],
)
def test_feedback_that_does_not_fit_is_refused(bundle: Bundle, body: bytes, status: int, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_truths(body, bundle)
    assert caught.value.status == status
    assert said in caught.value.detail


def test_feedback_of_a_number_is_one(bundle: Bundle) -> None:
    numeric = replace(bundle, encoder=replace(EVERY_KIND, target=Target("regression", "delay")))
    for truth in (b'"12"', b"true", b"null", b"[1]"):
        with pytest.raises(RequestError, match="expected a number"):
            parse_truths(b'{"feedback": [{"id": "a", "truth": %s}]}' % truth, numeric)


def test_feedback_that_memory_has_no_room_for_is_refused_and_not_lost(bundle: Bundle, make: Callable[..., PredictionLog]) -> None:
    log = make(most_rows=1)
    log.record(bundle, "a", ROWS[:1], np.zeros(1, np.float32))
    with pytest.raises(RequestError) as caught:
        log.add_truths(parse_truths(b'{"feedback": [{"id": "a", "truth": 1}]}', bundle))
    assert (caught.value.status, caught.value.retry_after) == (503, 5)


PATH = "/v1/models/flights:predict"


def stopped(said: Path) -> tuple[int, int]:
    """Rows written and dropped, as the service tells at its end."""
    deadline = time.monotonic() + 30
    while not (found := re.search(r"prediction log: ([\d,]+) rows written, ([\d,]+) dropped", said.read_text())):
        assert time.monotonic() < deadline, said.read_text()
        time.sleep(0.05)
    return int(found[1].replace(",", "")), int(found[2].replace(",", ""))


def test_service_logs_every_request_that_it_answered_when_it_is_ended_under_load(bundle: Bundle, tmp_path: Path) -> None:
    bodies = [json.dumps({"instances": ROWS[:count]}).encode() for count in (1, 1, 5)]
    answered: dict[str, int] = {}

    def load(port: int, thread: int) -> None:
        for i in itertools.count():
            count, name = (1, 1, 5)[i % 3], f"{thread}.{i}"
            status, headers, _ = ask(port, "POST", PATH, bodies[i % 3], x_request_id=name)
            if status != 200:
                return
            assert headers["x-request-id"] == name
            answered[name] = count

    with serving(bundle.folder, tmp_path / "said", "--log", str(tmp_path / "log")) as port:
        threads = [threading.Thread(target=load, args=(port, i)) for i in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(3)
    for thread in threads:
        thread.join()
    assert len(answered) > 100
    written = rows_of(tmp_path / "log/flights")
    assert stopped(tmp_path / "said") == (len(written), 0)
    wanted = {name if count == 1 else f"{name}-{i}" for name, count in answered.items() for i in range(count)}
    assert {row["id"] for row in written} == wanted
    assert len(written) == len(wanted)


def test_service_lives_on_a_full_disk_and_counts_what_it_drops(bundle: Bundle, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", small], check=True)
    try:
        flags = ("--log", str(small), "--log-rows", "100", "--log-flush", "0.1")
        with serving(bundle.folder, tmp_path / "said", *flags) as port:
            fill(small)
            for _ in range(20):
                assert ask(port, "POST", PATH, json.dumps({"instances": ROWS}).encode())[0] == 200
                time.sleep(0.02)
            rows, dropped = counted(port, "tidemill_log_rows_total"), counted(port, 'tidemill_log_dropped_total{reason="full"}')
            assert dropped >= 100
            assert 0 <= 600 - rows - dropped <= 100
        written, lost = stopped(tmp_path / "said")
        assert written + lost == 600
        assert (tmp_path / "said").read_text().count("cannot be written") == 1
    finally:
        subprocess.run(["umount", small], check=True)


def test_service_logs_and_takes_feedback_by_the_clients_key_and_the_ids_of_tensors(bundle: Bundle, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    run = [sys.executable, "-m", "serving.keys", "--keys", str(keys), "add", "shop"]
    key = subprocess.run(run, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    with serving(bundle.folder, tmp_path / "said", "--keys", str(keys), "--log", str(tmp_path / "log")) as port:
        tensors = [
            {
                "name": name,
                "shape": [2],
                "datatype": "FP64" if name in ("distance", "seats") else "BYTES",
                "data": [row[name] for row in ROWS[:2]],
            }
            for name in ROWS[0]
        ]
        body = json.dumps({"id": "pair", "inputs": tensors}).encode()
        status, headers, _ = ask(port, "POST", "/v2/models/flights/infer", body, x_api_key=key)
        assert (status, headers["x-request-id"]) == (200, "pair")
        made = ask(port, "POST", PATH, json.dumps({"instances": ROWS[:1]}).encode(), x_api_key=key)[1]["x-request-id"]
        truths = json.dumps({"feedback": [{"id": made, "truth": 1}, {"id": "pair-1", "truth": 0}]}).encode()
        assert ask(port, "POST", "/v1/models/flights:feedback", truths)[0] == 401
        status, _, answer = ask(port, "POST", "/v1/models/flights:feedback", truths, x_api_key=key)
        assert (status, json.loads(answer)) == (200, {"accepted": 2})
        assert ask(port, "GET", "/v1/models/flights:feedback", x_api_key=key)[0] == 405
        assert ask(port, "POST", "/v1/models/flights:feedback", b"{}", x_api_key=key)[0] == 400
    assert stopped(tmp_path / "said") == (5, 0)
    answered = ds.dataset(tmp_path / "log/flights", exclude_invalid_files=False).to_table(columns=["id", "key"]).to_pylist()
    written = [row for row in answered if row["key"]]
    assert [(row["id"], row["key"]) for row in written] == [("pair-0", "shop"), ("pair-1", "shop"), (made, "shop")]
    assert [row["id"] for row in rows_of(tmp_path / "log/flights/feedback")] == [made, "pair-1"]
    assert key not in (tmp_path / "said").read_text()


def test_service_without_a_log_takes_no_feedback(bundle: Bundle, tmp_path: Path) -> None:
    with serving(bundle.folder, tmp_path / "said") as port:
        status, _, answer = ask(port, "POST", "/v1/models/flights:feedback", b'{"feedback": [{"id": "a", "truth": 1}]}')
    assert status == 404
    assert "keeps no prediction log" in json.loads(answer)["detail"]


def test_log_is_written_to_s3_and_goes_on_after_it_was_down(
    bundle: Bundle, make: Callable[..., PredictionLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_log, "RETRY_SECONDS", 0.1)
    with s3.reached(monkeypatch) as service:
        client = service.client()
        down = True
        tried: set[str] = set()

        def fault(method: str, path: str) -> s3.Fault:
            if down:
                return "500 before"
            first = method == "PUT" and "-1.parquet" in path and path not in tried
            tried.add(path)
            return "500 after" if first else None

        service.fault = fault
        log = make("s3://mill/live", flush=0.1)
        log.record(bundle, "a", ROWS, score(bundle, ROWS))
        eventually(lambda: log.complained)
        down = False
        eventually(lambda: value(log, "rows") == 30)
        log.record(bundle, "b", ROWS, score(bundle, ROWS))  # the service says no and has done it
        assert log.stop() == "prediction log: 60 rows written, 0 dropped"
        found = client.list_objects_v2(Bucket="mill", Prefix="live/flights/date=")["Contents"]
        tables = [pq.read_table(pa.BufferReader(client.get_object(Bucket="mill", Key=one["Key"])["Body"].read())) for one in found]
        assert sorted(len(table) for table in tables) == [30, 30]
        assert {table["id"][0].as_py() for table in tables} == {"a-0", "b-0"}


def test_answers_wait_once_for_a_place_that_keeps_silent(
    bundle: Bundle, make: Callable[..., PredictionLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_log, "ANSWER_SECONDS", 2.0)
    with s3.reached(monkeypatch) as service:
        speaks = threading.Event()

        def fault(method: str, path: str) -> s3.Fault:
            speaks.wait(20)
            return None

        service.fault = fault
        log, waited = make("s3://mill/live", flush=3600), []
        for number in range(3):
            log.record(bundle, f"r{number}", ROWS[:1], score(bundle, ROWS[:1]))
            began = time.monotonic()
            log.write_out()
            waited.append(time.monotonic() - began)
        assert waited[0] >= 2
        assert max(waited[1:]) < 1
        speaks.set()
        eventually(lambda: log.awaited.is_set())
        log.write_out()
        assert value(log, "rows") == 3

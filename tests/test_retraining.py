"""Retraining: the rules that hold it back, the comparison on real bundles, what people are told, and what stays as it was."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prefect.logging import disable_run_logger

from flows.retrain import check_window
from tasks import retraining
from tasks.challenge import Side, find_rows, open_side, score_log
from tasks.claim import claim, leave, tell
from tasks.cloud.storage import open_storage
from tasks.core.errors import ParamsError
from tasks.core.paired import compare
from tasks.core.retraining import Attempt, Challenge, Retraining, find_obstacle, judge, render
from tasks.labelled import read_labelled
from tasks.params import Params, TimeSplit, with_values
from tasks.releases import Channel, ReleaseError, Releases
from tasks.retraining import Journal, await_word, failing, finish, open_journal, roll_out, trained, write_report
from tasks.shards import write_parquet
from tests.conftest import ROOT, free_port
from tests.serving.stores import make_bundle, network
from tests.serving.test_bundle import sigmoid
from tests.serving.test_follow import total
from tests.serving.test_server import ask
from tests.sinks import Webhook, webhook

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def attempt(hours_ago: float, outcome: Any = "promoted", **more: Any) -> Attempt:
    began = (NOW - timedelta(hours=hours_ago)).isoformat()
    return Attempt(id=str(hours_ago), began=began, by="ann@here:/w", why="drift", outcome=outcome, **more)


@pytest.mark.parametrize(
    ("attempts", "cooldown", "most", "words"),
    [
        ([], 24, 1, ""),
        ([attempt(25)], 24, 1, ""),
        (
            [attempt(23)],
            24,
            5,
            "the last one began at 2026-04-30 13:00 UTC; by retrain.cooldown_hours the next may at",
        ),
        ([attempt(23, "unchanged")], 24, 1, ""),  # which cost nothing
        ([attempt(23, "failed")], 24, 5, "by retrain.cooldown_hours"),
        (
            [attempt(20), attempt(10)],
            0,
            2,
            "2 began within 24 hours, and retrain.most_a_day is 2; the next may at 2026-05-01 16:00",
        ),
        ([attempt(30), attempt(10)], 0, 2, ""),
        ([attempt(1, None)], 0, 9, "another one goes on since 2026-05-01 11:00 UTC"),
        ([attempt(30, None)], 0, 9, ""),  # whose process is long gone
        ([attempt(-9000), attempt(-9000, None)], 24, 1, ""),  # by a clock that was a year ahead
    ],
)
def test_cool_down_ceiling_and_another_one_hold_a_retraining_back(
    attempts: list[Attempt], cooldown: float, most: int, words: str
) -> None:
    found, ceiling = find_obstacle(attempts, NOW, timedelta(hours=cooldown), most)
    assert found.startswith(words) if words == "" else words in found
    assert bool(found) == bool(words)
    assert ceiling == ("most_a_day" in words)


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as sink:
        yield sink


@pytest.fixture
def workspace(tmp_path: Path, hook: Webhook) -> Path:
    channels = {"ops": {"kind": "webhook", "url": hook.url, "least": "info"}}
    settings = [f"alert.channels={json.dumps(channels)}", "retrain.cooldown_hours=0", "retrain.most_a_day=2"]
    (tmp_path / "params.yaml").write_text(with_values((ROOT / "params.yaml").read_text(), settings))
    return tmp_path


def done(journal: Journal, outcome: Any, reason: str) -> Retraining:
    assert not journal.obstacle
    return finish(journal, outcome, reason)


def test_oscillating_feed_causes_no_more_retrainings_than_the_ceiling(workspace: Path, hook: Webhook) -> None:
    outcomes = []
    for day in range(7):
        journal = open_journal(workspace, f"drift of window {day}", force=False)
        outcomes.append(
            finish(journal, "skipped", journal.obstacle) if journal.obstacle else finish(journal, "dropped", "it is worse")
        )
    assert [one.outcome for one in outcomes] == ["dropped"] * 2 + ["skipped"] * 5
    ledger = json.loads((workspace / "releases/monitor/flights/retrainings.json").read_text())["retrainings"]
    assert [one["why"] for one in ledger] == ["drift of window 0", "drift of window 1"]
    told = [body["key"] for body in hook.bodies]
    assert told[-1] == "retrain-ceiling"
    assert len(told) == 3  # five times held back, told once
    assert not open_journal(workspace, "somebody insists", force=True).obstacle


def test_of_workers_that_begin_at_once_one_does(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    barrier = threading.Barrier(6)
    monkeypatch.setattr(retraining, "who", lambda: f"worker{threading.get_ident()}@somewhere")

    def run(_: int) -> str:
        barrier.wait()
        return open_journal(workspace, "drift", force=False).obstacle

    with ThreadPoolExecutor(6) as pool:
        obstacles = list(pool.map(run, range(6)))
    assert sorted(map(bool, obstacles)) == [False] + [True] * 5
    assert all("another one goes on" in one for one in obstacles if one)


DEPLOYED = """
import sys
from pathlib import Path
from flows.retrain import retrain
from tasks import server
server.configure(server.find_server()[0])
done = retrain(Path(sys.argv[1]), "drift")
print(done.outcome, done.reason)
"""


@pytest.mark.slow
def test_deployed_one_that_meets_another_run_is_skipped_and_leaves_its_workspace_alone(
    workspace: Path, environment: dict[str, str], hook: Webhook
) -> None:
    (workspace / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    with claim(workspace):
        words = [sys.executable, "-W", "ignore", "-c", DEPLOYED, str(workspace)]
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert f"skipped {workspace.resolve()} is in use by run (starting), pid " in done.stdout
    assert not (workspace / "releases").exists()
    assert hook.bodies == []


def test_one_that_was_killed_here_is_known_as_such_and_counts(workspace: Path) -> None:
    assert not open_journal(workspace, "first, which is killed", force=False).obstacle
    second = open_journal(workspace, "second", force=False)
    finish(second, "dropped", "worse")
    ledger = json.loads((workspace / "releases/monitor/flights/retrainings.json").read_text())["retrainings"]
    assert [one["outcome"] for one in ledger] == ["killed", "dropped"]
    assert "most_a_day is 2" in open_journal(workspace, "third", force=False).obstacle


def test_failure_is_told_reported_and_over_with_the_next_that_goes_well(workspace: Path, hook: Webhook) -> None:
    journal = open_journal(workspace, "drift", force=False)
    with pytest.raises(ValueError, match="the disk is full"), failing(journal):
        raise ValueError("the disk is full")
    [body] = hook.bodies
    assert (body["key"], body["severity"], "the disk is full" in body["text"]) == ("retrain-failed", "critical", True)
    assert "Production is as it was." in body["text"]
    record = json.loads((workspace / "reports/retrain.json").read_text())
    assert (record["outcome"], record["reason"]) == ("failed", "the disk is full")
    assert Path(body["link"]).read_text() == (workspace / "reports/retrain.html").read_text()
    finish(open_journal(workspace, "drift", force=False), "dropped", "it is worse")
    assert [(body["key"], body["status"]) for body in hook.bodies[1:]] == [
        ("retrain-failed", "resolved"),
        (hook.bodies[-1]["key"], "firing"),
    ]


def test_stopped_one_is_no_failure_and_nobody_is_told(workspace: Path, hook: Webhook) -> None:
    with pytest.raises(KeyboardInterrupt), failing(open_journal(workspace, "drift", force=False)):
        raise KeyboardInterrupt
    assert hook.bodies == []
    ledger = json.loads((workspace / "releases/monitor/flights/retrainings.json").read_text())["retrainings"]
    assert ledger[0]["outcome"] == "killed"


def test_run_that_waits_for_its_canary_is_not_taken_for_a_dead_one(tmp_path: Path) -> None:
    run = "01a201c3-27ed-77b2-8f7d-58d26d0b57ed"
    with claim(tmp_path):
        tell(tmp_path, run)
    with claim(tmp_path) as dead:
        assert dead == [run]  # as one that was killed leaves it
        tell(tmp_path, run)
        leave(tmp_path)
    with claim(tmp_path) as dead:
        assert dead == []


# Two bundles that answer by the sigmoid of a sum, one of them with a bias: their answers to logged rows are known.


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("bundles")
    made = {}
    for name, bias in (("good", 0.0), ("bad", 2.0)):
        make_bundle(home / name, network(home / f"{name}_net", bias), lambda row, bias=bias: sigmoid(total(row) + bias))  # type: ignore[misc]
        made[name] = home / name
    return made


def write_log(place: Path, sides: list[Side], rows: int, start: datetime, channel: str = "production") -> None:
    """Rows a minute apart whose truth is drawn by what the first side says, and their feedback an hour later."""
    random = np.random.default_rng(0)
    times = [start + timedelta(minutes=i) for i in range(rows)]
    ids = [f"{channel}-{start:%m%d%H%M}-{i}" for i in range(rows)]
    table = pa.table(
        {
            "id": ids,
            "time": pa.array(times, pa.timestamp("us", "UTC")),
            "version": ["1"] * rows,
            "channel": [channel] * rows,
            "feature_distance": pa.array(random.uniform(0, 10, rows)),
            "feature_carrier": pa.array(random.choice(["UA", "AA", None], rows).tolist(), pa.string()),
        }
    )
    told = sides[0].tell(dict(sides[0].encoder.columns(features(table))))
    truth = (random.random(rows) < told).astype(int)
    folder = place / f"flights/date={start:%Y-%m-%d}/hour={start:%H}"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / f"{ids[0]}.parquet")
    back = place / f"flights/feedback/date={start:%Y-%m-%d}"
    back.mkdir(parents=True, exist_ok=True)
    received = pa.array([when + timedelta(hours=1) for when in times], pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"id": ids, "truth": [str(one) for one in truth], "received": received}), back / f"{ids[0]}.parquet")


def features(table: pa.Table) -> list[dict[str, Any]]:
    names = [name for name in table.column_names if name.startswith("feature_")]
    listed = table.select(names).rename_columns([name.removeprefix("feature_") for name in names]).to_pylist()
    assert isinstance(listed, list)
    return listed


def test_worse_challenger_loses_on_the_newest_labelled_rows_and_the_better_one_wins(
    bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    good, bad = open_side("champion", bundles["good"]), open_side("challenger", bundles["bad"])
    write_log(tmp_path / "log", [good], 600, NOW)
    found = read_labelled(str(tmp_path / "log"), "flights", days=7, start=None, end=None, not_before=None)
    assert found is not None
    assert len(found.rows) == 600
    truth, told = score_log([good, bad], found.rows)
    for champion, challenger, wins in ((told[0], told[1], False), (told[1], told[0], True)):
        result = compare("binary", truth.astype(int), champion, challenger, resamples=300, confidence=0.95, seed=0)
        won, said = judge(Challenge("log", found.start, found.end, "", result, {}), 0.9)
        assert won == wins
        assert ("and it is worse" in said) == (not wins)
        assert "600 rows of the prediction log" in said


def test_window_is_the_newest_days_that_have_truth_without_shadows_twice_used_ids_and_what_was_learned(
    bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    side, place = [open_side("champion", bundles["good"])], str(tmp_path / "log")

    def read(**more: Any) -> Any:
        plain = {"days": 2.0, "start": None, "end": None, "not_before": None}
        return read_labelled(place, "flights", **{**plain, **more})

    assert read() is None
    for days_ago in (90, 5, 1, 0):
        write_log(tmp_path / "log", side, 50, NOW - days_ago * DAY)
    write_log(tmp_path / "log", side, 50, NOW, channel="shadow")
    assert len(read().rows) == 100
    assert read().start == (NOW + timedelta(minutes=49) - 2 * DAY).isoformat()
    assert len(read(days=30.0).rows) == 150
    assert len(read(days=30.0, not_before=NOW).rows) == 50
    assert len(read(start=NOW - 91 * DAY, end=NOW - 2 * DAY).rows) == 100
    again = tmp_path / "log/flights/date=2026-05-01/hour=12"
    copy = next(again.glob("production*.parquet"))
    (again / "copy.parquet").write_bytes(copy.read_bytes())  # a client that used its ids twice
    assert len(read().rows) == 50
    (again / "copy.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(Exception, match=r"the prediction log .* cannot be read"):
        read()


def test_rows_that_the_challenger_may_know_are_not_compared_on(bundles: dict[str, Path], tmp_path: Path) -> None:
    params = Params.load(ROOT / "params.yaml")
    sides = [open_side("champion", bundles["good"])]
    for change, log, words in (
        ({}, None, "no prediction log is named"),
        ({"table": params.table.model_copy(update={"images": ("photo",)})}, "x", "the log holds the hashes of images"),
        ({"table": params.table.model_copy(update={"time": None})}, "x", "may be among those that the challenger learned on"),
    ):
        found, instead = find_rows(params.model_copy(update=change), sides, log, None, None)
        assert found is None
        assert words in instead


def store(workspace: Path, bundles: dict[str, Path]) -> tuple[Releases, str, str]:
    """The workspace's store with both bundles, the first in production."""
    releases = Releases(open_storage(workspace / "releases"))
    versions = [releases.put(bundles[name]) for name in ("good", "bad")]
    releases.promote(versions[0], None, now=None, by="ann", why="begins")
    return releases, versions[0], versions[1]


def test_winner_becomes_what_params_say_and_no_canary_of_a_person_is_sent_away(workspace: Path, bundles: dict[str, Path]) -> None:
    releases, champion, challenger = store(workspace, bundles)
    journal = open_journal(workspace, "drift", force=False)
    journal.champion, journal.challenger = champion, challenger

    def then(word: str) -> tuple[str, str]:
        values = journal.params.retrain.model_copy(update={"then": word})
        journal.params = journal.params.model_copy(update={"retrain": values})
        return roll_out.fn(journal, "it is better")

    assert then("hold")[0] == "held"
    assert releases.channel("canary") is None
    assert then("canary") == ("canary", "it is better")
    found = releases.channel("canary")
    assert found is not None
    assert (found[0].version, found[0].share, found[0].why) == (challenger, 0.1, "retrained: it is better")
    assert then("canary")[0] == "canary"  # its own former one gives way
    releases.close("canary", releases.channel("canary")[1], "ann", "done")  # type: ignore[index]
    releases.move("canary", Channel(name="flights", version=champion, chosen="student", share=0.5, by="bob", why="by hand"), None)
    outcome, said = then("canary")
    assert outcome == "dropped"
    assert f"{champion} is tried as a canary, which bob began" in said
    assert releases.channel("canary")[0].version == champion  # type: ignore[index]
    assert then("promote")[0] == "promoted"
    assert releases.channel("production")[0].version == challenger  # type: ignore[index]


def test_word_on_the_canary_is_what_became_of_its_channel(workspace: Path, bundles: dict[str, Path]) -> None:
    releases, champion, challenger = store(workspace, bundles)
    journal = open_journal(workspace, "drift", force=False)
    journal.champion, journal.challenger = champion, challenger

    def word() -> Any:
        return retraining._word(journal, releases.channel("canary"), releases.channel("production"))

    roll_out.fn(journal, "it is better")
    assert word() is None
    releases.close("canary", releases.channel("canary")[1], "service a:1", "its p95 is 9 times that of production")  # type: ignore[index]
    assert word() == ("dropped", "service a:1: its p95 is 9 times that of production")
    roll_out.fn(journal, "it is better")
    now, tag = releases.channel("production")  # type: ignore[misc]
    releases.promote(challenger, tag, now=now, by="service a:1", why="500 requests")
    assert word() == ("promoted", "service a:1: 500 requests")


def test_real_service_promotes_the_challenger_and_people_hear_it(workspace: Path, bundles: dict[str, Path], hook: Webhook) -> None:
    releases, champion, challenger = store(workspace, bundles)
    rule = "{share: 0.5, requests: 60, minutes: 0.01, errors: 0.01, latency: 100, shift: 1}"
    settings = [f"release.canary={rule}", "retrain.wait_minutes=1"]
    (workspace / "params.yaml").write_text(with_values((workspace / "params.yaml").read_text(), settings))
    journal = open_journal(workspace, "drift", force=False)
    journal.champion, journal.challenger = champion, challenger
    port, over = free_port(), threading.Event()
    words = ["--store", str(workspace / "releases"), "--port", str(port), "--poll", "0.2"]
    with subprocess.Popen([sys.executable, "-m", "serving", *words], cwd=ROOT) as service, disable_run_logger():

        def load() -> None:
            while not over.wait(0.01):
                ask(port, "POST", "/v1/models/flights:predict", b'{"instances": [{"distance": 3.0}]}')

        client = threading.Thread(target=load, daemon=True)
        try:
            deadline = time.monotonic() + 60
            while ask(port, "GET", "/readyz")[0] != 200:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            client.start()
            outcome, said = roll_out.fn(journal, "it is better")
            assert outcome == "canary"
            finish(journal, outcome, said)
            assert hook.bodies == []  # one that was just begun is no news
            outcome, said = await_word.fn(journal)
            assert outcome == "promoted"
            assert "requests in" in said
            finish(journal, outcome, said)
            assert releases.channel("production")[0].version == challenger  # type: ignore[index]
            assert releases.channel("canary") is None
        finally:
            service.terminate()
            over.set()
    [body] = hook.bodies
    assert (body["key"], body["severity"]) == (f"retrain-promoted-{challenger}", "info")
    assert json.loads((workspace / "reports/retrain.json").read_text())["outcome"] == "promoted"


def test_canary_without_a_word_goes_on_and_somebody_is_told(workspace: Path, bundles: dict[str, Path], hook: Webhook) -> None:
    releases, champion, challenger = store(workspace, bundles)
    text = with_values((workspace / "params.yaml").read_text(), ["retrain.wait_minutes=0"])
    (workspace / "params.yaml").write_text(text)
    journal = open_journal(workspace, "drift", force=False)
    journal.champion, journal.challenger = champion, challenger
    with disable_run_logger():
        roll_out.fn(journal, "it is better")
        done = finish(journal, *await_word.fn(journal))
    assert done.outcome == "canary"
    assert releases.channel("canary")[0].version == challenger  # type: ignore[index]
    assert releases.channel("production")[0].version == champion  # type: ignore[index]
    assert [(body["key"], body["severity"]) for body in hook.bodies] == [(f"retrain-canary-{challenger}", "warning")]


def test_same_model_again_and_one_that_was_rolled_back_are_nothing_new(workspace: Path, bundles: dict[str, Path]) -> None:
    from tasks.publish import Release

    releases, champion, challenger = store(workspace, bundles)
    journal = open_journal(workspace, "drift", force=False)
    assert "which is in production" in trained(journal, [], Release("flights", champion, "student", champion))
    assert trained(journal, ["source 'x' moved"], Release("flights", challenger, "student", champion)) == ""
    now, tag = releases.channel("production")  # type: ignore[misc]
    tag = releases.promote(challenger, tag, now=now, by="ann", why="")
    now, tag = releases.channel("production")  # type: ignore[misc]
    releases.promote(champion, tag, now=now, by="ann", why="late", withdrawn=challenger)
    assert "which was rolled back before" in trained(journal, [], Release("flights", challenger, "student", champion))


def test_page_tells_everything_and_breaks_at_no_words_of_others(workspace: Path) -> None:
    evil = "<script>alert(1)</script> & 'words'"
    result = compare(
        "binary", np.array([0, 1, 1, 0]), np.full(4, 0.5), np.array([0.2, 0.8, 0.7, 0.4]), resamples=100, confidence=0.95, seed=0
    )
    quality = {"champion": {"auc": 0.5, "log_loss": 0.69}, "challenger": {"auc": 1.0, "log_loss": 0.3}}
    journal = open_journal(workspace, evil, force=False)
    journal.challenge = Challenge("test part", "", "", evil, result, quality)
    made = finish(journal, "dropped", evil)
    page = (workspace / made.report).read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    for words in ("Champion and challenger", "test part, as", "What was done", "://"):
        assert (words in page) == (words != "://")
    assert replace(made, steps=()).to_json()["challenge"]["quality"] == quality
    before = [attempt(30, reason=evil)]
    assert "Retrainings before" in render(made, before)
    write_report(workspace, made, before)
    assert json.loads((workspace / "reports/retrain.json").read_text())["why"] == evil


def test_truths_that_are_no_class_are_not_compared_on(
    bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One feedback of another hand ends no retraining after hours."""
    monkeypatch.chdir(tmp_path)
    params = Params.load(ROOT / "params.yaml")
    split = TimeSplit(by="time", test_last_days=28, validation_every_days=10)
    params = params.model_copy(
        update={
            "preprocess": params.preprocess.model_copy(update={"split": split}),
            "retrain": params.retrain.model_copy(update={"rows": 500}),
        }
    )
    assert params.table.time
    (tmp_path / "data/valid").mkdir(parents=True)
    times = [(NOW - days * DAY).replace(tzinfo=None) for days in (90, 60, 1)]
    write_parquet(pa.table({params.table.time: times}), tmp_path / "data/valid/00000.parquet")
    sides = [open_side(role, bundles["good"]) for role in ("champion", "challenger")]
    write_log(tmp_path / "log", sides, 600, NOW)
    [back] = (tmp_path / "log/flights/feedback").rglob("*.parquet")
    told = pq.read_table(back)
    strange = ["maybe", None, *told["truth"].to_pylist()[2:]]
    pq.write_table(told.set_column(told.column_names.index("truth"), "truth", pa.array(strange)), back)
    found, instead = find_rows(params, sides, "log", None, None)
    assert found is not None, instead
    assert len(found.rows) == 598
    truth, _ = score_log(sides, found.rows)
    assert set(truth) == {"0", "1"}


def test_failure_is_told_where_neither_store_nor_disk_takes_it(workspace: Path, hook: Webhook) -> None:
    journal = open_journal(workspace, "drift", force=False)
    (workspace / "releases/monitor/flights/retrainings.json").write_text("{")
    (workspace / "reports").write_text("a file where the folder was")
    with pytest.raises(ValueError, match="the disk is full"), failing(journal):
        raise ValueError("the disk is full")
    assert [(body["key"], "the disk is full" in body["text"]) for body in hook.bodies] == [("retrain-failed", True)]


@pytest.mark.parametrize("began", ["soon", "2026-05-01T12:00:00", 5])
def test_record_of_retrainings_that_was_edited_is_named(workspace: Path, began: Any) -> None:
    open_journal(workspace, "drift", force=False)
    record = workspace / "releases/monitor/flights/retrainings.json"
    document = json.loads(record.read_text())
    document["retrainings"][0]["began"] = began
    record.write_text(json.dumps(document))
    with pytest.raises(ReleaseError, match=r"retrainings\.json cannot be read"):
        open_journal(workspace, "drift", force=False)


def test_window_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ParamsError, match="window_start 2026-02-01 is not before window_end 2026-01-01"):
        check_window("2026-02-01", "2026-01-01")
    check_window("2026-01-01", None)

"""Windows of a real prediction log beside a real release: what raises drift, what is unknown, and that each is judged once."""

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.monitor import check
from tasks.alert import open_alerts
from tasks.cloud.storage import open_storage
from tasks.core.errors import DataError, ParamsError
from tasks.core.verdict import DriftReport
from tasks.ledger import Span
from tasks.monitor import alarm, find_due
from tasks.params import with_values
from tasks.releases import ReleaseError, Releases
from tasks.shards import write_parquet
from tasks.times import parse_time
from tasks.watch import Judged, Watch
from tests.conftest import ROOT
from tests.s3 import S3, Fault, reached
from tests.serving.stores import network
from tests.watched import DAY, Rows, Watched, draw, make_watched, other_version

SPAN = Span(DAY, DAY + timedelta(days=1))
MORNING = DAY + timedelta(hours=5, minutes=1)
AFTER = DAY + timedelta(days=1, hours=1)
RIPE = DAY + timedelta(days=9)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return network(tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model: bytes) -> Watched:
    return make_watched(tmp_path_factory.mktemp("watched") / "workspace", model)


@pytest.fixture
def watched(tmp_path: Path, made: Watched) -> Watched:
    """A workspace of the test's own."""
    shutil.copytree(made.workspace, tmp_path / "workspace")
    return Watched(tmp_path / "workspace", made.bundle)


def look(watched: Watched, what: str = "rows", now: datetime | None = None) -> Judged:
    return Watch(watched.workspace, now or (AFTER if what == "rows" else RIPE)).judge(SPAN, what)  # type: ignore[arg-type]


def found(report: DriftReport) -> list[tuple[str, str]]:
    return [(one.of, one.name) for one in report.findings]


def test_rows_as_tested_raise_nothing_and_the_page_says_so(watched: Watched) -> None:
    watched.write(draw(5000, seed=1), truth=0.5)
    rows, truth = look(watched).report, look(watched, "truth").report
    assert (rows.verdict, rows.rows, rows.findings) == ("none", 5000, ())
    assert (truth.verdict, truth.labelled, truth.findings) == ("none", 2500, ())
    assert rows.version == watched.bundle.version
    page = Path(rows.report).read_text()
    assert "No drift" in page
    assert "http" not in page.replace("http-equiv", "")  # opens offline
    assert (watched.workspace / "reports/monitor.html").exists()


@pytest.mark.parametrize(
    ("change", "column", "said"),
    [
        (lambda row, _: {**row, "distance": row["distance"] + 0.6}, "distance", "mean 0.3"),
        (lambda row, _: {**row, "distance": row["distance"] * 1.609}, "distance", "higher"),
        (lambda row, c: row if c.random() > 0.2 else {"carrier": row["carrier"]}, "distance", "missing, was 0%"),
        (lambda row, c: row if c.random() > 0.05 else {**row, "carrier": "ZZ"}, "carrier", "new category 'ZZ' in"),
        (lambda row, c: row if c.random() > 0.2 else {**row, "carrier": "DL"}, "carrier", "'DL' is"),
    ],
)
def test_changed_column_is_named_first(watched: Watched, change: Any, column: str, said: str) -> None:
    watched.write(draw(10_000, seed=2, change=change))
    report = look(watched).report
    assert report.verdict == "drift"
    assert found(report)[0] == ("feature", column)
    assert said in report.findings[0].what
    assert report.findings[0].effect >= report.findings[0].bound
    assert report.findings[0].p < 0.005
    assert report.why.startswith(f"{column}: ")


def test_other_answers_to_the_same_rows_are_prediction_drift(watched: Watched) -> None:
    made = draw(5000, seed=3)
    watched.write(Rows(made.rows, [min(0.99, p + 0.15) for p in made.told], made.truth))
    assert found(look(watched).report) == [("prediction", "")]


def test_more_that_comes_true_is_told_as_truth_then_as_calibration(watched: Watched) -> None:
    watched.write(draw(10_000, seed=4, late=0.15), truth=1.0)
    assert look(watched).report.verdict == "none"
    report = look(watched, "truth").report
    assert report.verdict == "drift"
    assert found(report)[0] == ("truth", "late")
    assert ("calibration", "") in found(report)
    assert ("quality", "") in found(report)
    assert any(name.startswith("carrier=") for _, name in found(report))
    assert "this window" in Path(report.report).read_text()


def test_what_does_not_raise_is_told(watched: Watched) -> None:
    watched.set("raises=[quality]")
    watched.write(draw(10_000, seed=2, change=lambda row, _: {**row, "distance": row["distance"] + 1}))
    report = look(watched).report
    assert report.verdict == "none"
    assert found(report)[0] == ("feature", "distance")


def test_column_has_a_floor_of_its_own_or_is_not_looked_at(watched: Watched) -> None:
    watched.write(draw(10_000, seed=2, change=lambda row, _: {**row, "distance": row["distance"] + 0.6}))
    for floor in ("0.5", "null"):
        watched.set(f"columns={{distance: {floor}}}")
        assert look(watched).report.verdict == "none"
        shutil.rmtree(watched.store / "monitor")


def test_few_rows_need_a_larger_effect(watched: Watched) -> None:
    """0.27 standard deviations are more than the floor, and no more than chance in 500 rows."""
    small, large = (draw(rows, seed=7, change=lambda row, _: {**row, "distance": row["distance"] + 0.54}) for rows in (500, 20_000))
    watched.write(small)
    assert look(watched).report.verdict == "none"
    watched.write(large, DAY + timedelta(days=1))
    later = Watch(watched.workspace, AFTER + timedelta(days=1)).judge(Span(SPAN.end, SPAN.end + timedelta(days=1)), "rows")
    assert later.report.verdict == "drift"


# What cannot be looked at is never `none`.


def test_empty_window_is_unknown(watched: Watched) -> None:
    report = look(watched).report
    assert report.verdict == "unknown"
    assert report.why.startswith("empty window")


def test_too_few_rows_are_unknown(watched: Watched) -> None:
    watched.write(draw(499, seed=1))
    assert look(watched).report.why == "too few rows: 499; monitor.min_rows is 500"


def test_only_rows_of_the_channel_and_of_one_release_count(watched: Watched) -> None:
    watched.write(draw(2000, seed=1))
    watched.write(draw(900, seed=2, change=lambda row, _: {**row, "distance": 99.0}), channel="shadow", name="s")
    watched.write(draw(800, seed=2, change=lambda row, _: {**row, "distance": 99.0}), bundle=other_version(watched), name="o")
    judged = look(watched)
    assert (judged.report.verdict, judged.report.rows) == ("none", 2000)
    assert any("800 of 0123456789ab (production)" in note for note in judged.notes)
    assert any("900 of shadow" in note for note in judged.notes)


def test_rows_of_other_channels_alone_are_an_empty_window(watched: Watched) -> None:
    watched.write(draw(900, seed=2), channel="canary")
    assert "900 rows are of other channels" in look(watched).report.why
    shutil.rmtree(watched.store / "monitor")
    watched.set("channel=canary")
    assert look(watched).report.verdict == "none"


def test_all_null_column_is_unknown_and_drift_in_another_is_still_drift(watched: Watched) -> None:
    watched.write(draw(5000, seed=1, change=lambda row, _: {"carrier": row["carrier"]}))
    report = look(watched).report
    assert report.verdict == "unknown"
    assert "all-null column: 'distance'" in report.why
    shutil.rmtree(watched.store / "monitor")
    watched.write(draw(5000, seed=1, change=lambda row, _: {"carrier": "UA"}))
    report = look(watched).report
    assert report.verdict == "drift"
    assert found(report)[0] == ("feature", "carrier")
    assert "all-null column" in Path(report.report).read_text()


@pytest.mark.parametrize("kind", ["unseen", "missing"])
def test_column_that_only_one_side_has_is_unknown(watched: Watched, kind: str) -> None:
    watched.write(draw(5000, seed=1))
    for path in watched.log.glob("date=*/*/*.parquet"):
        rows = pa.parquet.read_table(path)
        if kind == "unseen":
            rows = rows.append_column("feature_wind", pa.array([1.0] * len(rows)))
        else:
            rows = rows.drop(["feature_distance"])
        write_parquet(rows, path)
    report = look(watched).report
    assert report.verdict == "unknown"
    assert report.why.startswith("unseen column: 'wind'" if kind == "unseen" else "missing column: 'distance'")


def test_lost_hours_are_unknown_and_usual_nights_are_not(watched: Watched) -> None:
    watched.write(draw(5000, seed=1), hours=[h for h in range(24) if h not in (9, 10)])
    report = look(watched).report
    assert report.verdict == "unknown"
    assert "missing log hours: no rows at 2026-03-02 09:00, 2026-03-02 10:00" in report.why


def test_hours_that_were_quiet_before_are_no_gap(watched: Watched) -> None:
    quiet = [h for h in range(24) if h not in (2, 3)]
    for day in range(3):
        watched.write(draw(5000, seed=day + 1), DAY + timedelta(days=day), hours=quiet)
    watch = Watch(watched.workspace, DAY + timedelta(days=4))
    verdicts = [watch.judge(span, look_).report.verdict for span, look_ in watch.due() if span.start < DAY + timedelta(days=3)]
    assert verdicts == ["unknown", "none", "none"]  # the first such day may be a loss


def test_traffic_that_ends_is_no_gap(watched: Watched) -> None:
    watched.write(draw(5000, seed=1), hours=range(6, 20))
    assert look(watched).report.verdict == "none"


def test_clock_a_day_off_is_unknown_and_its_rows_do_not_count(watched: Watched) -> None:
    watched.write(draw(5000, seed=1))
    ahead = DAY + timedelta(days=1)
    watched.write(draw(240, seed=2), ahead, name="skewed")
    for path in watched.log.glob("date=2026-03-03/*/skewed.parquet"):
        target = Path(str(path).replace("2026-03-03", "2026-03-02"))
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    report = look(watched).report
    assert report.verdict == "unknown"
    assert "clock skew: the time of 240 rows" in report.why
    assert report.rows == 5000


def test_corrupt_file_is_named_and_the_rest_is_read(watched: Watched) -> None:
    watched.write(draw(4800, seed=1, change=lambda row, _: {**row, "distance": row["distance"] + 2}))
    broken = watched.log / "date=2026-03-02/hour=07/r.parquet"
    broken.write_bytes(broken.read_bytes()[:-20])
    report = look(watched).report
    assert report.verdict == "unknown"  # what was found in the rest may be an artefact of it
    assert "corrupt log file: flights/date=2026-03-02/hour=07/r.parquet" in report.why
    assert report.rows == 4600
    assert found(report)[0] == ("feature", "distance")


def test_deleted_release_and_one_without_a_reference_are_unknown(watched: Watched) -> None:
    watched.write(draw(5000, seed=1))
    home = watched.store / watched.bundle.version
    manifest = json.loads((home / "manifest.json").read_text())
    del manifest["files"]["reference.json"]
    (home / "manifest.json").write_text(json.dumps(manifest))
    assert look(watched).report.why.startswith("no reference: release")
    shutil.rmtree(watched.store / "monitor")
    shutil.rmtree(home)
    report = look(watched).report
    assert report.verdict == "unknown"
    assert report.why.startswith("reference release deleted")


def test_truths_that_did_not_come_or_belong_to_nobody_are_unknown(watched: Watched) -> None:
    made = draw(5000, seed=1)
    watched.write(made)
    assert look(watched, "truth").report.why.startswith("too few truths: 0 of 5,000 rows have one")
    shutil.rmtree(watched.store / "monitor")
    watched.write(made, truth=0.2)
    watched.write(draw(1000, seed=9), DAY, truth=0.5, name="ghost")
    for path in watched.log.glob("date=*/*/ghost.parquet"):
        path.unlink()
    report = look(watched, "truth").report
    assert report.verdict == "unknown"
    assert "truth of unknown ids: 500 of the 1,500 truths" in report.why
    assert report.labelled == 1000
    watched.set("unmatched=1")
    shutil.rmtree(watched.store / "monitor")
    judged = look(watched, "truth")
    assert judged.report.verdict == "none"
    assert any("truth of unknown ids: 500" in note for note in judged.notes)


def test_truths_of_rows_of_the_day_before_are_not_unknown(watched: Watched) -> None:
    before = DAY - timedelta(days=1)
    watched.write(draw(2000, seed=1), before, truth=1.0, received=DAY + timedelta(hours=2))
    watched.write(draw(2000, seed=2), truth=1.0)
    judged = look(watched, "truth")
    assert (judged.report.verdict, judged.report.labelled) == ("none", 2000)
    assert not any("unknown ids" in note for note in judged.notes)


def test_late_truths_are_counted_and_judge_nothing_again(watched: Watched) -> None:
    watched.write(draw(5000, seed=1), truth=0.4)
    first = look(watched, "truth").report
    watched.write(draw(5000, seed=4, late=0.3), truth=1.0, received=RIPE + timedelta(hours=3))
    for path in watched.log.glob(f"feedback/date={RIPE:%Y-%m-%d}/*"):
        path.rename(path.with_name("late.parquet"))
    watched.write(draw(5000, seed=1), truth=0.4)
    again = look(watched, "truth", RIPE + timedelta(days=2))
    assert not again.new
    assert again.report == first
    late = look(watched, "late", RIPE + timedelta(days=10))
    assert late.report.labelled == 5000
    assert "5,000 truths" in late.notes[0]
    assert look(watched, "truth").report == first


def test_truths_that_the_service_still_held_when_quality_was_judged_are_counted_late(watched: Watched) -> None:
    """Received before, written after: monitor.grace_minutes is the time for it."""
    watched.write(draw(5000, seed=1), truth=0.4)
    assert look(watched, "truth").report.labelled == 2000
    watched.write(draw(5000, seed=1), truth=0.6, received=RIPE - timedelta(minutes=5))
    late = look(watched, "late", RIPE + timedelta(days=10))
    assert late.report.labelled == 3000
    assert "3,000 truths" in late.notes[0]


def test_truth_has_the_grace_too_before_quality_is_judged(watched: Watched) -> None:
    watched.write(draw(5000, seed=1), truth=0.4)
    ripe = SPAN.end + timedelta(days=7)
    assert not Watch(watched.workspace, ripe + timedelta(minutes=14)).is_ripe(SPAN)
    assert Watch(watched.workspace, ripe + timedelta(minutes=15)).is_ripe(SPAN)


def test_log_of_another_shape_and_corrupt_feedback_are_named(watched: Watched) -> None:
    watched.write(draw(5000, seed=1), truth=0.5)
    watched.file("date=2026-03-02/hour=05/alien.parquet", b"no parquet at all")
    watched.file("feedback/date=2026-03-02/alien.parquet", b"no parquet at all")
    assert "corrupt log file: flights/date=2026-03-02/hour=05/alien.parquet" in look(watched).report.why
    assert "corrupt feedback file: flights/feedback/date=2026-03-02/alien.parquet" in look(watched, "truth").report.why


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"id": ["a"], "version": ["v"]}, "it has no column ['time', 'channel']"),
        ({"id": ["a"], "time": [MORNING], "version": [None], "channel": ["production"]}, "rows without a version or a channel"),
        ({"id": ["a"], "time": ["noon"], "version": ["v"], "channel": ["production"]}, "alien.parquet (Failed to parse string"),
        ({"feature_distance": ["far"]}, "column 'distance' is of type string; expected a number"),
    ],
)
def test_file_that_the_service_did_not_write_is_named(watched: Watched, columns: dict[str, Any], words: str) -> None:
    watched.write(draw(5000, seed=1))
    marks = {"id": ["a"], "time": [MORNING], "version": [watched.bundle.version], "channel": ["production"], "prediction": [0.5]}
    rows = pa.table(columns if "version" in columns else {**marks, **columns})
    pq.write_table(rows, watched.log / "date=2026-03-02/hour=05/alien.parquet")
    report = look(watched).report
    assert report.verdict == "unknown"
    assert "corrupt log file: flights/date=2026-03-02/hour=05/alien.parquet" in report.why
    assert words in report.why


def test_feedback_that_the_service_did_not_write_is_named(watched: Watched) -> None:
    watched.write(draw(5000, seed=1), truth=0.5)
    pq.write_table(pa.table({"id": ["a"], "truth": ["1"]}), watched.log / "feedback/date=2026-03-02/alien.parquet")
    why = look(watched, "truth").report.why
    assert "corrupt feedback file: flights/feedback/date=2026-03-02/alien.parquet (it has no column ['received'])" in why


# Each window is judged once.


def test_windows_follow_one_another_from_the_first_file_until_now(watched: Watched) -> None:
    for day in (0, 2):
        watched.write(draw(600, seed=day), DAY + timedelta(days=day))
    watch = Watch(watched.workspace, DAY + timedelta(days=3, minutes=10))  # within the grace of the last
    assert [(str(span), look_) for span, look_ in watch.due()] == [
        ("2026-03-02 to 2026-03-03", "rows"),
        ("2026-03-03 to 2026-03-04", "rows"),
    ]
    for span, look_ in watch.due():
        watch.judge(span, look_)
    later = Watch(watched.workspace, DAY + timedelta(days=3, hours=1))
    assert [str(span) for span, _ in later.due()] == ["2026-03-04 to 2026-03-05"]
    ripe = Watch(watched.workspace, DAY + timedelta(days=8, hours=1))
    assert [(str(span), look_) for span, look_ in ripe.due() if look_ == "truth"] == [("2026-03-02 to 2026-03-03", "truth")]


def test_changed_length_of_windows_judges_no_time_twice(watched: Watched) -> None:
    watched.write(draw(2400, seed=1))
    look(watched)
    watched.set("hours=6")
    spans = [span for span, what in Watch(watched.workspace, DAY + timedelta(days=2)).due() if what == "rows"]
    assert spans[0].start == SPAN.end
    assert len(spans) == 3
    assert (SPAN, "truth") in Watch(watched.workspace, RIPE).due()
    assert Watch(watched.workspace, RIPE).judge(SPAN, "truth").kept
    assert (SPAN, "truth") not in Watch(watched.workspace, RIPE).due()


def test_named_window_that_overlaps_judged_ones_is_looked_at_and_not_recorded(watched: Watched) -> None:
    for day in range(2):
        watched.write(draw(2400, seed=day), DAY + timedelta(days=day))
    look(watched)
    before = watched.records()
    watched.set("hours=48")
    both = Watch(watched.workspace, RIPE).judge(Span(DAY, DAY + timedelta(days=2)), "rows")
    assert (both.report.verdict, both.report.rows, both.kept) == ("none", 4800, False)
    assert both.notes[-1] == "neither recorded nor told: it overlaps one on record"
    assert watched.records() == before
    assert Path(both.report.report) == watched.workspace / "reports/monitor.html"


def test_look_at_minutes_of_a_day_leaves_the_day_to_be_judged(watched: Watched) -> None:
    watched.write(draw(5000, seed=1, change=lambda row, _: {**row, "distance": row["distance"] + 2}))
    watched.write(draw(1000, seed=2), DAY + timedelta(days=1))
    noon, after = DAY + timedelta(hours=12), DAY + timedelta(days=1, hours=1)
    for odd in (
        Span(noon, noon + timedelta(minutes=10)),
        Span(DAY, noon),
        Span(noon, SPAN.end),
        Span(noon, noon + timedelta(days=1)),  # as long as the schedule's own, but not one of them
    ):
        looked = Watch(watched.workspace, DAY + timedelta(days=2)).judge(odd, "rows")
        assert (looked.kept, looked.report.rows > 10) == (False, True)
        assert looked.notes[-1] == "neither recorded nor told: it is none of the windows of 24 hours"
        assert not watched.records()
    assert Watch(watched.workspace, after).due() == [(SPAN, "rows")]
    judged = Watch(watched.workspace, after).judge(SPAN, "rows")
    assert (judged.kept, judged.report.verdict, judged.report.rows) == (True, "drift", 5000)


def test_named_window_must_be_whole_and_over(watched: Watched) -> None:
    for start, end, said in (
        ("2026-03-02", "", "give both"),
        ("2026-03-03", "2026-03-02", "is not before"),
        ("2026-03-02", "2026-03-05", "is yet to come"),
    ):
        with pytest.raises(ParamsError, match=said):
            find_due.fn(watched.workspace, start, end, AFTER.isoformat())


def test_second_look_returns_the_first_whatever_the_log_holds_by_then(watched: Watched) -> None:
    watched.write(draw(5000, seed=1))
    first = look(watched)
    watched.write(draw(5000, seed=1, change=lambda row, _: {**row, "distance": 99.0}))
    second = look(watched)
    assert (first.new, second.new) == (True, False)
    assert second.report == first.report


@pytest.mark.slow
def test_evidently_draws_its_page_from_samples_and_says_what_it_lacks(watched: Watched) -> None:
    watched.write(draw(600, seed=1))
    judged, watch = look(watched), Watch(watched.workspace, AFTER)
    with pytest.raises(DataError, match="data/features/test_rows is not there"):
        watch.evidently(judged, None)
    folder = watched.workspace / "data/features/test_rows"
    folder.mkdir(parents=True)
    table(folder / "00000.parquet", draw(600, seed=2))
    page = watch.evidently(judged, None)
    assert page == watched.workspace / "reports/evidently.html"
    assert "distance" in page.read_text()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    with reached(monkeypatch) as service:
        yield service


@pytest.mark.slow
def test_log_and_ledger_in_a_bucket_are_judged_once_though_a_write_is_said_to_have_failed(watched: Watched, s3: S3) -> None:
    watched.write(draw(2400, seed=1), truth=0.5)
    target = open_storage("s3://mill/log")
    for path in watched.log.rglob("*.parquet"):
        target.create(f"flights/{path.relative_to(watched.log)}", path)
    store = Releases(open_storage("s3://mill/releases"))
    store.put(watched.workspace / "bundle")
    store.promote(watched.bundle.version, None, now=None, by="test", why="")
    text = (watched.workspace / "params.yaml").read_text()
    places = ["release.store=s3://mill/releases", "monitor.log=s3://mill/log"]
    (watched.workspace / "params.yaml").write_text(with_values(text, places))
    failed: list[str] = []

    def fault(method: str, path: str) -> Fault:
        """The first write of each record is done, and said to have failed."""
        if method == "PUT" and path.endswith("Z.json") and not failed:
            failed.append(path)
            return "500 after"
        return None

    s3.fault = fault
    first, again = look(watched), look(watched)
    assert failed
    assert (first.report.verdict, first.report.rows, first.new, again.new) == ("none", 2400, True, False)
    assert again.report == first.report
    assert first.report.report.startswith("s3://mill/releases/monitor/flights/2026")
    assert look(watched, "truth").report.labelled == 1200


# Seasonality.


def test_moving_reference_is_of_the_windows_before(watched: Watched) -> None:
    watched.set("seasonality={reference: moving, windows: 2}", "raises=[feature]")
    warmer = lambda row, _: {**row, "distance": row["distance"] + 0.3}  # noqa: E731  within the floor
    for day in range(2):
        watched.write(draw(5000, seed=day, change=warmer), DAY + timedelta(days=day))
    watched.write(draw(5000, seed=5, change=lambda row, _: {**row, "distance": row["distance"] + 0.6}), DAY + timedelta(days=2))
    watched.write(draw(5000, seed=6, change=lambda row, _: {**row, "distance": row["distance"] + 1.2}), DAY + timedelta(days=3))
    watch = Watch(watched.workspace, DAY + timedelta(days=4, hours=1))
    judged = [watch.judge(span, what) for span, what in watch.due()]
    assert [one.report.verdict for one in judged] == ["none", "none", "none", "drift"]
    assert "0 of 2 windows for a moving reference" in judged[0].notes[0]
    assert judged[2].notes == ()


def test_reference_of_a_year_before_is_of_the_same_days_or_unknown(watched: Watched) -> None:
    watched.set("seasonality={reference: year, windows: 1}", "raises=[feature]")
    winter = lambda row, _: {**row, "distance": row["distance"] + 2}  # noqa: E731
    watched.write(draw(5000, seed=1, change=winter))
    report = look(watched).report
    assert report.verdict == "unknown"
    assert "no rows of a year before" in report.why
    shutil.rmtree(watched.store / "monitor")
    before = draw(5000, seed=2, change=winter)
    watched.set_table(before, DAY - timedelta(days=364))
    assert look(watched).report.verdict == "none"
    shutil.rmtree(watched.store / "monitor")
    shutil.rmtree(watched.workspace / "data")
    watched.write(before, DAY - timedelta(days=364))
    assert look(watched).report.verdict == "none"


# Tables.


def table(path: Path, made: Rows, **more: list[Any]) -> Path:
    columns = {name: [row.get(name) for row in made.rows] for name in ("distance", "carrier")}
    write_parquet(pa.table({**columns, **more}), path)
    return path


def test_table_is_answered_by_the_release_and_nothing_is_recorded(watched: Watched, tmp_path: Path) -> None:
    watch, made = Watch(watched.workspace), draw(5000, seed=1)
    path = table(tmp_path / "t.parquet", made, late=made.truth, prediction=made.told)
    same = watch.look(path).report
    assert (same.verdict, same.rows, same.labelled) == ("none", 5000, 5000)
    moved = draw(5000, seed=1, change=lambda row, _: {**row, "distance": row["distance"] + 0.6})
    assert found(watch.look(table(tmp_path / "u.parquet", moved)).report)[0] == ("feature", "distance")
    lines = ["distance,carrier", *(f"{row['distance']},{row['carrier']}" for row in moved.rows)]
    (tmp_path / "u.csv").write_text("\n".join(lines))
    assert found(watch.look(tmp_path / "u.csv").report)[0] == ("feature", "distance")
    assert not (watched.store / "monitor").exists()


def test_table_that_cannot_be_read_is_a_clear_error(watched: Watched, tmp_path: Path) -> None:
    watch = Watch(watched.workspace)
    (tmp_path / "t.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(DataError, match="cannot be read"):
        watch.look(tmp_path / "t.parquet")
    (tmp_path / "t.xls").write_bytes(b"")
    with pytest.raises(DataError, match=r"expected .parquet, .arrow or .csv"):
        watch.look(tmp_path / "t.xls")
    write_parquet(pa.table({"carrier": ["UA"] * 600}), tmp_path / "u.parquet")
    with pytest.raises(DataError, match="no column"):
        watch.look(tmp_path / "u.parquet")
    words = pa.table({"distance": ["far"] * 600, "carrier": ["UA"] * 600, "prediction": [0.5] * 600})
    write_parquet(words, tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"column 'distance' is of type string; expected a number"):
        watch.look(tmp_path / "x.parquet")


def test_nothing_in_production_and_a_record_that_is_none_are_errors(watched: Watched, tmp_path: Path) -> None:
    watched.write(draw(600, seed=1))
    look(watched)
    next((watched.store / "monitor/flights").glob("*Z.json")).write_text("{")
    with pytest.raises(ReleaseError, match="is no record of a judged window"):
        look(watched)
    (watched.store / "channels/production.json").unlink()
    with pytest.raises(ReleaseError, match="production serves nothing"):
        Watch(watched.workspace).look(table(tmp_path / "t.parquet", draw(10, seed=1)))
    with pytest.raises(ParamsError, match="expected a time such as"):
        parse_time("yesterday", "--start")


# The command, on a real server.


def test_answers_that_are_no_numbers_are_unknown_and_hide_no_drift(watched: Watched) -> None:
    """The service logs none; a table, or a log of another hand, may hold them."""
    made = draw(5000, seed=1, late=0.3)
    watched.write(Rows(made.rows, [np.nan, *made.told[1:]], made.truth), truth=1.0)
    report = look(watched).report
    assert (report.verdict, report.why) == ("unknown", "no answer: 1 rows have none that is a number")
    quality = look(watched, "truth").report
    assert quality.labelled == 4999
    assert ("quality", "") in found(quality)


def test_hours_that_are_usually_quiet_are_no_gap_for_truths_either(watched: Watched) -> None:
    quiet = [h for h in range(24) if h not in (2, 3)]
    for day in range(3):
        watched.write(draw(5000, seed=day + 1), DAY + timedelta(days=day), hours=quiet, truth=1.0)
    watch = Watch(watched.workspace, DAY + timedelta(days=12))
    due = [(span, kind) for span, kind in watch.due() if span.start < DAY + timedelta(days=3)]
    verdicts = {(span.start.day, kind): watch.judge(span, kind).report.verdict for span, kind in due}
    assert [verdicts[day, "truth"] for day in (3, 4)] == ["none", "none"]


def test_truths_that_counted_are_not_told_to_be_late(watched: Watched) -> None:
    """Those of the day on which quality was judged, before it was."""
    watched.write(draw(5000, seed=1), truth=0.4, received=RIPE + timedelta(hours=5))
    assert look(watched, "truth", RIPE + timedelta(hours=13)).report.labelled == 2000
    assert look(watched, "late", RIPE + timedelta(days=10)).report.labelled == 0


def test_words_that_mean_no_value_are_those_of_the_sources(watched: Watched, tmp_path: Path) -> None:
    made = draw(5000, seed=1)
    table = tmp_path / "rows.csv"
    names = {"UA": "NA", "AA": "null", "DL": "n/v"}
    lines = [f"{row['distance']},{names[row['carrier']]},{told}" for row, told in zip(made.rows, made.told, strict=True)]
    table.write_text("\n".join(["distance,carrier,prediction", *lines]) + "\n")
    params = watched.workspace / "params.yaml"
    params.write_text(with_values(params.read_text(), ["sources.flights.missing=[n/v]", "sources.weather.missing=[]"]))
    params.write_text(with_values(params.read_text(), ["sources.planes.missing=[]"]))
    said = {one.what for one in Watch(watched.workspace, AFTER).look(table).report.findings if one.name == "carrier"}
    assert any("19." in what or "20" in what for what in said if "missing" in what), said
    assert any(what.startswith("words never seen before in 100%") for what in said), said


def test_column_that_stands_twice_is_named(watched: Watched, tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_text("distance,carrier,carrier\n" + "1,UA,AA\n" * 1000)
    with pytest.raises(DataError, match=r"there are several columns \['carrier'\]"):
        Watch(watched.workspace, AFTER).look(table)


def test_long_words_are_told_in_part(watched: Watched) -> None:
    watched.write(draw(5000, seed=1, change=lambda row, _: {**row, "carrier": "x" * 100_000}))
    report = look(watched).report
    assert "carrier" in {one.name for one in report.findings}
    assert len(report.why) < 200


def command(watched: Watched, environment: dict[str, str], *flags: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "flows.monitor", "--workspace", str(watched.workspace), *flags]
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180)


@pytest.mark.slow
def test_command_judges_what_is_due_and_tells_what_a_killed_one_judged(watched: Watched, environment: dict[str, str]) -> None:
    watched.write(draw(5000, seed=1))
    watched.write(draw(5000, seed=2, change=lambda row, _: {**row, "distance": row["distance"] + 2}), DAY + timedelta(days=1))
    look(watched)  # and killed before anybody heard of it
    now = (DAY + timedelta(days=2, hours=1)).isoformat()
    done = command(watched, environment, "--now", now, "--exit-code", "--json")
    assert done.returncode == 6, done.stderr
    assert [one["verdict"] for one in json.loads(done.stdout)["reports"]] == ["none", "drift"]
    assert 'tidemill_monitor_drift{model="flights",look="rows"} 1' in (watched.workspace / "reports/monitor.prom").read_text()
    again = command(watched, environment, "--now", now)
    assert (again.returncode, "nothing is due" in again.stdout) == (0, True), again.stderr
    assert sorted(path.name for path in (watched.store / "monitor/flights").glob("*.told.json")) == [
        "20260302T000000Z-20260303T000000Z.told.json",
        "20260303T000000Z-20260304T000000Z.told.json",
    ]
    events = read_events(environment["PREFECT_API_URL"], watched.workspace)
    assert sorted(event["event"] for event in events) == ["tidemill.drift", "tidemill.watched"]
    drift = next(event for event in events if event["event"] == "tidemill.drift")
    assert drift["resource"]["prefect.resource.id"] == "tidemill.model.flights"
    assert drift["payload"]["findings"][0]["name"] == "distance"


def read_events(url: str, workspace: Path) -> list[dict[str, Any]]:
    """The server's events of the workspace, which come to it a moment after they were sent."""
    deadline, events = time.monotonic() + 30, list[dict[str, Any]]()
    while len(events) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
        answer = httpx.post(f"{url}/events/filter", json={"filter": {"event": {"prefix": ["tidemill."]}}})
        events = [event for event in answer.json()["events"] if event["payload"].get("workspace") == str(workspace)]
    return events


CODE = """
import sys
from pathlib import Path
from tasks.times import parse_time
from tasks.watch import Watch
watch = Watch(Path(sys.argv[1]), parse_time(sys.argv[2], "now"))
print(sum(watch.judge(span, what).new for span, what in watch.due()))
"""


def start(watched: Watched, now: datetime) -> subprocess.Popen[str]:
    words = [sys.executable, "-W", "ignore", "-c", CODE, str(watched.workspace), now.isoformat()]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_of_two_monitors_at_once_one_judges(watched: Watched) -> None:
    watched.write(draw(5000, seed=1))
    monitors = [start(watched, AFTER) for _ in range(2)]
    assert sum(int(monitor.communicate(timeout=100)[0]) for monitor in monitors) == 1
    assert list(watched.records()) == ["20260302T000000Z-20260303T000000Z.json"]


def test_killed_at_any_moment_each_window_is_judged_once(watched: Watched) -> None:
    for day in range(12):
        watched.write(draw(600, seed=day), DAY + timedelta(days=day))
    now, chance, seen = DAY + timedelta(days=12, hours=1), random.Random(6), dict[str, bytes]()
    home = watched.store / "monitor/flights"
    for _ in range(3):
        run, wanted, deadline = start(watched, now), len(watched.records()) + 1, time.monotonic() + 100
        while len(watched.records()) < wanted and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(chance.random() * 0.1)
        run.kill()
        run.communicate()
        assert all((home / name).read_bytes() == content for name, content in seen.items())  # what was judged stays as it was
        seen = {name: (home / name).read_bytes() for name in watched.records()}
    left = Watch(watched.workspace, now)
    assert len(seen) >= 3
    assert len(left.due()) + len(seen) == 12 + 5  # of five windows the truths had their time
    assert all(left.judge(span, what).new for span, what in left.due())
    assert not Watch(watched.workspace, now).due()


def test_command_refuses_a_wrong_workspace_and_a_wrong_time_without_a_traceback(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.monitor", "--workspace", str(tmp_path)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "params.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_times_are_utc_unless_they_say_otherwise() -> None:
    assert parse_time("2026-03-02", "x") == DAY
    assert parse_time("2026-03-02T02:00+02:00", "x") == DAY
    assert np.isclose(parse_time("2026-03-02T00:00Z", "x").timestamp(), datetime(2026, 3, 2, tzinfo=UTC).timestamp())


@pytest.mark.parametrize("text", ["0001-01-01T00:00+14:00", "0001-01-01", "9999-12-31T23:59-14:00", "soon", "2026-13-01"])
def test_time_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ParamsError, match=r"--start .*expected a time"):
        parse_time(text, "--start")


def test_window_of_parts_of_a_second_and_a_present_yet_to_come_are_refused(watched: Watched) -> None:
    watched.write(draw(1000, seed=1))
    with pytest.raises(ParamsError, match="whole second"):
        find_due.fn(watched.workspace, "2026-03-02T00:00:00.1", "2026-03-02T00:00:00.2", AFTER.isoformat())
    with pytest.raises(ParamsError, match="yet to come"):
        find_due.fn(watched.workspace, None, None, "2999-01-01")
    assert not watched.records()
    assert find_due.fn(watched.workspace, "", "", AFTER.isoformat()) == [(SPAN, "rows")]  # as an empty field of the form has it


def test_named_window_before_the_log_is_not_recorded(watched: Watched) -> None:
    """On record it would make every window until today due."""
    watched.write(draw(1000, seed=1))
    old = Span(datetime(1990, 1, 1, tzinfo=UTC), datetime(1990, 1, 2, tzinfo=UTC))
    judged = Watch(watched.workspace, AFTER).judge(old, "rows")
    assert (judged.report.verdict, judged.kept) == ("unknown", False)
    assert judged.notes[-1] == "neither recorded nor told: it was before the log began"
    assert Watch(watched.workspace, AFTER).due() == [(SPAN, "rows")]


def test_file_of_a_clock_that_was_wrong_does_not_make_decades_due(watched: Watched) -> None:
    watched.write(draw(1000, seed=1))
    watched.write(draw(100, seed=1), datetime(1970, 1, 1, tzinfo=UTC))
    with pytest.raises(DataError, match=r"windows of 24 hours are due since 1970-01-01 00:00"):
        Watch(watched.workspace, AFTER).due()


@pytest.mark.parametrize("hours", ["1e-9", "0.0001", "0.3333"])
def test_window_has_whole_seconds_and_a_minute_at_least(watched: Watched, hours: str) -> None:
    watched.set(f"hours={hours}")
    with pytest.raises(ParamsError, match="expected a minute at least, of whole seconds"):
        Watch(watched.workspace, AFTER)


@pytest.mark.parametrize(
    "edit",
    [
        {"notes": None}, {"judged": "soon"}, {"judged": "2026-03-03T00:00:00"}, {"truths": "2026-03-03T00:00:00"},
        {"hours": {"x": 1}}, {"tally": [1]}, {"tally": {}},
    ],
)  # fmt: skip
def test_record_that_was_edited_is_named(watched: Watched, edit: dict[str, Any]) -> None:
    watched.write(draw(1000, seed=1))
    look(watched)
    [(name, record)] = watched.records().items()
    path = watched.store / "monitor/flights" / name
    path.write_text(json.dumps({**record, **edit}))
    with pytest.raises(ReleaseError, match=f"{name} is no record of a judged window"):
        Watch(watched.workspace, AFTER).judge(SPAN, "rows")


def test_name_that_is_no_window_is_of_somebody_else(watched: Watched) -> None:
    watched.write(draw(1000, seed=1))
    look(watched)
    (watched.store / "monitor/flights/20261399T000000Z-20261499T000000Z.json").write_text("{}")
    assert list(Watch(watched.workspace, AFTER).known) == [SPAN]


def test_window_that_cannot_be_told_does_not_end_the_alert_of_drift(watched: Watched) -> None:
    watched.write(draw(5000, seed=1, change=lambda row, _: {**row, "distance": row["distance"] + 2}))
    watched.write(draw(100, seed=2), DAY + timedelta(days=1))
    watched.write(draw(5000, seed=3), DAY + timedelta(days=2))
    troubles = []
    for day in range(3):
        judged = Watch(watched.workspace, DAY + timedelta(days=4)).judge(
            Span(DAY + timedelta(days=day), DAY + timedelta(days=day + 1)), "rows"
        )
        alarm(watched.workspace, judged, None)
        troubles.append(sorted(one.key for one in open_alerts(watched.workspace)))
    assert troubles == [["monitor.drift.rows"], ["monitor.drift.rows", "monitor.unknown.rows"], []]


def test_later_window_that_tells_nothing_hides_no_drift(watched: Watched) -> None:
    """A look by hand at a day without rows, before that at the day before."""
    watched.write(draw(5000, seed=1, change=lambda row, _: {**row, "distance": row["distance"] + 2}))
    watch, troubles = Watch(watched.workspace, SPAN.end + timedelta(days=1, hours=1)), []
    for span in (Span(SPAN.end, SPAN.end + timedelta(days=1)), SPAN):
        judged = watch.judge(span, "rows")
        alarm(watched.workspace, judged, watch.later(span, "rows"))
        troubles.append((judged.report.verdict, sorted(one.key for one in open_alerts(watched.workspace))))
    assert troubles == [("unknown", ["monitor.unknown.rows"]), ("drift", ["monitor.drift.rows", "monitor.unknown.rows"])]


@pytest.mark.slow
def test_look_at_a_window_of_the_past_does_not_end_the_alert_of_the_present(watched: Watched, environment: dict[str, str]) -> None:
    watched.write(draw(5000, seed=1))
    watched.write(draw(5000, seed=2, change=lambda row, _: {**row, "distance": row["distance"] + 2}), DAY + timedelta(days=1))
    now = ("--now", (DAY + timedelta(days=2, hours=1)).isoformat(), "--exit-code")
    for first, code in ((1, 6), (0, 0)):
        days = [(DAY + timedelta(days=first + more)).isoformat() for more in (0, 1)]
        done = command(watched, environment, "--start", days[0], "--end", days[1], *now)
        assert done.returncode == code, done.stdout + done.stderr
        assert [one.key for one in open_alerts(watched.workspace)] == ["monitor.drift.rows"]
    assert len(watched.records()) == 2


@pytest.mark.slow
def test_log_that_is_not_there_is_unknown_to_command_and_metrics(watched: Watched, environment: dict[str, str]) -> None:
    watched.set("log=nowhere")
    done = command(watched, environment, "--exit-code")
    assert (done.returncode, "nothing can be said: the log nowhere holds no row of flights" in done.stdout) == (7, True), (
        done.stderr
    )
    assert 'tidemill_monitor_unknown{model="flights",look="rows"} 1' in (watched.workspace / "reports/monitor.prom").read_text()
    told = json.loads(command(watched, environment, "--exit-code", "--json").stdout)
    assert (told["exit"], told["reports"], told["unknown"]) == (7, [], "the log nowhere holds no row of flights")


def test_form_refuses_a_table_with_the_times_of_a_window_and_times_that_are_none() -> None:
    for words, said in (
        (("2026-03-02", "", "rows.csv", ""), "a table is looked at whole"),
        (("", "noon", "", ""), "--end 'noon'"),
        (("", "", "", "soon"), "--now 'soon'"),
    ):
        with pytest.raises(ParamsError, match=said):
            check(*words)


@pytest.mark.slow
def test_table_with_the_times_of_a_window_is_refused(watched: Watched, environment: dict[str, str], tmp_path: Path) -> None:
    done = command(watched, environment, "--table", str(tmp_path / "rows.csv"), "--start", "2026-03-02", "--end", "2026-03-03")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "a table is looked at whole" in done.stderr


def test_workspace_without_room_for_the_page_leaves_none_in_the_store(watched: Watched) -> None:
    watched.write(draw(1000, seed=1))
    (watched.workspace / "reports").write_text("a file where the folder was")
    with pytest.raises(OSError, match="reports"):
        look(watched)
    assert not list((watched.store / "monitor").rglob("*.*"))
    (watched.workspace / "reports").unlink()
    assert look(watched).new

"""Files scored at once: pyarrow's own tables get the answers that JSON gets, and what does not fit is refused by column."""

import base64
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from arro3.core import Array, DataType, RecordBatch
from arro3.io import write_parquet

from serving.batch import ENDED, Format, Job, run
from serving.bundle import Bundle, load_bundle
from serving.request import RequestError, check_rows
from serving.scoring import NAMES, score_file
from tasks.core.decision import Decision
from tasks.core.intervals import Intervals
from tasks.core.target import Target
from tests.conftest import ROOT
from tests.serving.every_kind import EVERY_KIND, make_network, make_rows, write_bundle
from tests.serving.test_server import ask, serving

PLAIN = replace(EVERY_KIND, images=())
ROWS = make_rows(100)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("every_kind")
    write_bundle(folder, EVERY_KIND, make_network(EVERY_KIND), ROWS)
    return folder


@pytest.fixture(scope="session")
def bundle(folder: Path) -> Bundle:
    return load_bundle(folder)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same without images."""
    folder = tmp_path_factory.mktemp("plain")
    write_bundle(folder, PLAIN, make_network(PLAIN), [without_photo(row) for row in ROWS])
    return load_bundle(folder)


def without_photo(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "photo"}


def told(bundle: Bundle, rows: list[dict[str, Any]]) -> list[Any]:
    """What the service answers to the rows in JSON."""
    check_rows(rows, bundle.encoder, "instances")
    return bundle.predict(rows)


def write(path: Path, table: pa.Table) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table, max_chunksize=37)
    return path


def read(path: Path) -> pa.Table:
    return pq.read_table(path) if path.suffix == ".parquet" else pa.ipc.open_stream(path.read_bytes()).read_all()


FORMATS: dict[str, Format] = {".parquet": "parquet", ".arrows": "arrow"}


def score(bundle: Bundle, table: pa.Table, folder: Path, ending: str = ".parquet", out: str | None = None) -> pa.Table:
    source, target = folder / f"in{ending}", folder / f"out{out or ending}"
    write(source, table)
    rows = score_file(bundle, source, FORMATS[ending], target, FORMATS[out or ending])
    assert rows == len(table)
    return read(target)


@pytest.mark.parametrize("ending", FORMATS)
def test_pyarrow_table_of_every_kind_gets_the_answers_of_json_bit_by_bit(bundle: Bundle, tmp_path: Path, ending: str) -> None:
    answers = score(bundle, pa.Table.from_pylist(ROWS), tmp_path, ending)
    assert answers.schema == pa.schema({"prediction": pa.float64()})
    assert answers["prediction"].to_pylist() == told(bundle, ROWS)
    assert len(set(told(bundle, ROWS))) > 90


COLUMNS: dict[str, tuple[str, Callable[[list[Any]], pa.Array]]] = {
    "large strings": ("carrier", lambda values: pa.array(values, pa.large_string())),
    "dictionary": ("carrier", lambda values: pa.array(values, pa.string()).dictionary_encode()),
    "small dictionary": (
        "note",
        lambda values: pa.array(values, pa.string()).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string())),
    ),
    "all null": ("carrier", lambda values: pa.nulls(len(values))),
    "64-bit integers": ("distance", lambda values: pa.array(values, pa.int64())),
    "unsigned bytes": ("distance", lambda values: pa.array(values, pa.uint8())),
    "floats": ("distance", lambda values: pa.array(values, pa.float32())),
    "dictionary of numbers": ("distance", lambda values: pa.array(values, pa.int32()).dictionary_encode()),
    "NaN": ("seats", lambda values: pa.array([float("nan") if v is None else v for v in values])),
    "decimals": ("seats", lambda values: pa.array([None if v is None else Decimal(str(v)) for v in values], pa.decimal128(12, 2))),
    "ISO text": ("day", lambda values: pa.array(values, pa.string()).dictionary_encode()),
    **{
        f"timestamps in {unit}, {zone or 'no zone'}": (
            "day",
            lambda values, unit=unit, zone=zone: moments(values, pa.timestamp(unit, zone)),
        )
        for unit in ("s", "ms", "us", "ns")
        for zone in (None, "America/New_York")
    },
}


def moments(values: list[str | None], type_: pa.DataType) -> pa.Array:
    """Times with 999 milliseconds more, where the type has them: a second counts by its start."""
    more = 0 if type_.unit == "s" else 999_000
    times = [None if v is None else datetime.fromisoformat(v).replace(tzinfo=UTC, microsecond=more) for v in values]
    return pa.array(times, pa.timestamp("us", "UTC")).cast(type_ if type_.tz else pa.timestamp(type_.unit, "UTC")).cast(type_)


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("kind", COLUMNS)
def test_column_of_another_arrow_type_gets_the_same_answers(plain: Bundle, tmp_path: Path, kind: str, ending: str) -> None:
    name, make = COLUMNS[kind]
    rows = [without_photo(row) for row in ROWS]
    table = pa.Table.from_pylist(rows)
    table = table.set_column(table.schema.names.index(name), name, make(table[name].to_pylist()))
    wanted = [{**row, "carrier": None} for row in rows] if kind == "all null" else rows
    assert score(plain, table, tmp_path, ending)["prediction"].to_pylist() == told(plain, wanted)


def test_dates_are_their_midnight_before_and_after_1970(plain: Bundle, tmp_path: Path) -> None:
    days = [date(2013, 7, 4), date(1969, 12, 31), None]
    rows = [{"distance": 1, "model": "A320", "day": None if day is None else day.isoformat()} for day in days]
    plainly = {"distance": [1, 1, 1], "model": ["A320"] * 3}
    for type_ in (pa.date32(), pa.date64()):
        table = pa.table({**plainly, "day": pa.array(days, type_)})
        assert score(plain, table, tmp_path)["prediction"].to_pylist() == told(plain, rows)
    before = pa.table({**plainly, "day": pa.array([-1, -1_000_000_000, 1], pa.timestamp("ns"))})
    seconds = [{**rows[0], "day": day} for day in ("1969-12-31T23:59:59", "1969-12-31T23:59:59", "1970-01-01")]
    assert score(plain, before, tmp_path, ".arrows")["prediction"].to_pylist() == told(plain, seconds)


def test_images_come_as_bytes_or_in_base64(bundle: Bundle, tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{**row, "photo": base64.b64decode(row["photo"])} for row in ROWS])
    assert score(bundle, table, tmp_path)["prediction"].to_pylist() == told(bundle, ROWS)


def test_ids_are_handed_through_and_columns_that_may_be_missing_are_left_out(plain: Bundle, tmp_path: Path) -> None:
    rows = [{"distance": row["distance"], "model": row["model"]} for row in ROWS]
    for ids in (list(range(100)), [f"order {i}" for i in range(100)]):
        answers = score(plain, pa.Table.from_pylist(rows).append_column("id", [ids]), tmp_path, ".arrows", ".parquet")
        assert answers.column_names == ["id", "prediction"]
        assert answers["id"].to_pylist() == ids
        assert answers["prediction"].to_pylist() == told(plain, rows)


def test_file_without_rows_gets_answers_without_rows(plain: Bundle, tmp_path: Path) -> None:
    schema = pa.schema({"distance": pa.int64(), "model": pa.string()})
    for ending in FORMATS:
        answers = score(plain, schema.empty_table(), tmp_path, ending)
        assert (answers.num_rows, answers.column_names) == (0, ["prediction"])


TARGETS = {
    "classes": (Target("multiclass", "kind", ("a", "b", "c")), ["prediction_a", "prediction_b", "prediction_c", "label"]),
    "costs": (Target("binary", "late", (0, 1), decision=Decision(((0.0, 1.0), (3.0, 0.0)), 0.5)), ["prediction", "decision"]),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_answers_stand_in_a_column_for_each_part(tmp_path: Path, kind: str) -> None:
    target, columns = TARGETS[kind]
    encoder = replace(PLAIN, target=target)
    rows = [without_photo(row) for row in ROWS]
    write_bundle(tmp_path / "bundle", encoder, make_network(encoder), rows)
    bundle = load_bundle(tmp_path / "bundle")
    answers = score(bundle, pa.Table.from_pylist(rows), tmp_path)
    assert answers.column_names == columns
    wanted = bundle.respond(bundle.network(bundle.encode(rows)))
    if kind == "classes":
        assert [
            dict(zip("abc", row, strict=True)) for row in zip(*(answers[name].to_pylist() for name in columns[:3]), strict=True)
        ] == (wanted["predictions"])
        assert answers["label"].to_pylist() == [max(row, key=row.get) for row in wanted["predictions"]]
    else:
        assert answers["decision"].to_pylist() == [str(one) for one in wanted["decisions"]]
        assert len(set(wanted["decisions"])) == 2


INTERVALS = Intervals((5.5,), (-1.0, -2.0), (1.0, 3.0))


def test_intervals_stand_beside_a_number(plain: Bundle, tmp_path: Path) -> None:
    target = Target("regression", "minutes", center=5.0, scale=2.0, intervals=INTERVALS)
    numeric = replace(plain, encoder=replace(plain.encoder, target=target))
    rows = [without_photo(row) for row in ROWS]
    answers = score(numeric, pa.Table.from_pylist(rows), tmp_path)
    wanted = [(row["value"], row["low"], row["high"]) for row in numeric.predict(rows)]
    assert list(zip(*(answers[name].to_pylist() for name in ("prediction", "low", "high")), strict=True)) == wanted


GOOD = {"distance": [1.0, 2.0], "model": ["A320", "B737"]}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "text for a number": ({**GOOD, "distance": ["1", "2"]}, "distance: expected a number, found the type Utf8"),
    "number for a text": ({**GOOD, "model": [320, 737]}, "model: expected a string, found the type Int64"),
    "number for a date": ({**GOOD, "day": [1, 2]}, "day: expected a date, a timestamp, or ISO text, found the type Int64"),
    "list": ({**GOOD, "seats": [[1.0], [2.0]]}, "seats: expected a number, found the type List"),
    "missing column": ({"distance": [1.0, 2.0]}, "model: required, a string"),
    "missing value": ({**GOOD, "model": ["A320", None]}, "model: row 1: required, and found no value"),
    "missing number": ({**GOOD, "distance": [1.0, None]}, "distance: row 1: required, and found no value"),
    "infinite": ({**GOOD, "distance": [1.0, float("-inf")]}, "distance: row 1: expected a finite number, found an infinite one"),
    "no date": ({**GOOD, "day": ["2013-07-04", "2013-02-30"]}, "day: row 1: no such date or time: day is out of range for month"),
    "typo": ({**GOOD, "seat": [1.0, 2.0]}, "seat: unknown column; did you mean 'seats'?"),
    "several": ({"distance": ["1"], "seat": [1]}, "model: required, a string (and 2 more)"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("ending", FORMATS)
def test_what_does_not_fit_is_told_by_column(plain: Bundle, tmp_path: Path, case: str, ending: str) -> None:
    columns, message = WRONG[case]
    with pytest.raises(RequestError) as caught:
        score(plain, pa.table(columns), tmp_path, ending)
    assert caught.value.status == 422
    assert message in caught.value.detail


def test_row_that_does_not_fit_is_counted_from_the_start_of_the_file(plain: Bundle, tmp_path: Path) -> None:
    distance = [1.0] * 20_000
    distance[17_123] = float("inf")
    with pytest.raises(RequestError, match="row 17,123: expected a finite number"):
        score(plain, pa.table({"distance": distance, "model": ["A320"] * 20_000}), tmp_path)


def test_column_that_is_there_twice_is_refused(plain: Bundle, tmp_path: Path) -> None:
    twice = pa.table([pa.array([1.0]), pa.array([2.0]), pa.array(["A320"])], ["distance", "distance", "model"])
    with pytest.raises(RequestError, match="distance: there are 2 columns of this name"):
        score(plain, twice, tmp_path, ".arrows")


def test_bad_image_is_told_by_row(bundle: Bundle, tmp_path: Path) -> None:
    rows = [*ROWS[:3], {**ROWS[3], "photo": "bm8gaW1hZ2U="}]
    with pytest.raises(RequestError, match="photo: row 3: expected an image file: no PNG"):
        score(bundle, pa.Table.from_pylist(rows), tmp_path)


@pytest.mark.parametrize("ending", FORMATS)
def test_file_that_is_none_or_breaks_off_is_refused(plain: Bundle, tmp_path: Path, ending: str) -> None:
    """Some of these kill the process that reads them."""
    whole = write(tmp_path / f"whole{ending}", pa.Table.from_pylist([without_photo(row) for row in ROWS])).read_bytes()
    draw = np.random.default_rng(0)
    broken = [b"", b"{", draw.bytes(5000), whole[: len(whole) // 2], whole[:-7] if ending == ".parquet" else whole[:-600]]
    source, target = tmp_path / f"broken{ending}", tmp_path / "out.parquet"
    for content in broken:
        source.write_bytes(content)
        outcome = run(Job(str(plain.folder), str(source), FORMATS[ending], str(target), "parquet"))
        assert outcome.status == 400
        assert f"no {NAMES[FORMATS[ending]]} that can be read to its end" in outcome.detail


def test_file_that_kills_its_reader_is_told_of(plain: Bundle, tmp_path: Path) -> None:
    outcome = run(Job(str(plain.folder), str(bomb(tmp_path / "in.parquet")), "parquet", str(tmp_path / "out.parquet"), "parquet"))
    assert (outcome.status, outcome.detail) == (413, ENDED)


def bomb(path: Path, **columns: Array) -> Path:
    """A page of one long word, and thousands of rows that name it."""
    long = Array(["x" * 200_000], type=DataType.string()).cast(DataType.dictionary(DataType.int32(), DataType.string()))
    columns |= {"distance": Array.from_numpy(np.ones(9_000)), "model": long.take(Array.from_numpy(np.zeros(9_000, np.int32)))}
    write_parquet(RecordBatch.from_pydict(columns), path, compression="zstd(1)", skip_arrow_metadata=True)
    assert path.stat().st_size < 10_000
    return path


def command(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serving.batch", *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_command_scores_a_file_in_constant_memory(plain: Bundle, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    peaks = []
    for count in (50_000, 1_000_000):
        columns = {
            "id": np.arange(count),
            "distance": draw.uniform(0, 40, count),
            "seats": draw.normal(150, 60, count),
            "model": draw.choice(["A320", "B737"], count),
        }
        pq.write_table(pa.table(columns), tmp_path / "in.parquet", row_group_size=50_000)
        words = [str(tmp_path / "in.parquet"), str(tmp_path / "out.parquet"), "--bundle", str(plain.folder)]
        measured = (
            f"import resource, sys; from serving.batch import main; sys.argv = ['', *{words}]; main(); "
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)"
        )
        done = subprocess.run([sys.executable, "-c", measured], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        said, peak = done.stdout.splitlines()
        assert f"{count:,} rows scored" in said
        assert pq.read_metadata(tmp_path / "out.parquet").num_rows == count
        peaks.append(int(peak))
    assert peaks[1] < peaks[0] + 60, peaks  # MB; the file of a million rows is 24 MB, its rows as objects a gigabyte
    assert " rows\n" in done.stderr


def test_command_that_fails_leaves_what_was_there(plain: Bundle, tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    target.write_text("yesterday's answers")
    source = write(tmp_path / "in.parquet", pa.table({"distance": ["far"], "model": ["A320"]}))
    failed = command(source, target, "--bundle", plain.folder)
    assert (failed.returncode, failed.stderr) == (1, "error: distance: expected a number, found the type Utf8\n")
    nowhere = command(tmp_path / "gone.parquet", target, "--bundle", plain.folder)
    assert "gone.parquet is no file" in nowhere.stderr
    assert target.read_text() == "yesterday's answers"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "out.parquet"]
    assert "expected a name that ends in .parquet" in command(tmp_path / "in.csv", target, "--bundle", plain.folder).stderr


@pytest.fixture(scope="module")
def port(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with serving(folder, tmp_path_factory.mktemp("service") / "log", "--max-batch-body", "2000000") as port:
        yield port


PATH = "/v1/models/flights:predict"
ARROW, PARQUET = "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"


def as_parquet(table: pa.Table) -> bytes:
    file = pa.BufferOutputStream()
    pq.write_table(table, file)
    return file.getvalue().to_pybytes()


def as_stream(table: pa.Table) -> bytes:
    file = pa.BufferOutputStream()
    with pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    return file.getvalue().to_pybytes()


def test_service_answers_pyarrow_in_its_own_format_as_it_answers_json(port: int) -> None:
    table = pa.Table.from_pylist([{**row, "id": i} for i, row in enumerate(ROWS)])
    wanted = json.loads(ask(port, "POST", PATH, json.dumps({"instances": ROWS}).encode())[2])["predictions"]
    status, headers, body = ask(port, "POST", PATH, as_stream(table), content_type=ARROW)
    assert (status, headers["content-type"], headers["x-model-version"]) == (200, ARROW, "1")
    assert pa.ipc.open_stream(body).read_all().to_pydict() == {"id": list(range(100)), "prediction": wanted}
    for media in (PARQUET, "application/x-parquet"):
        status, headers, body = ask(port, "POST", PATH, as_parquet(table), content_type=media)
        assert (status, headers["content-type"]) == (200, PARQUET)
        assert pq.read_table(pa.BufferReader(body)).to_pydict() == {"id": list(range(100)), "prediction": wanted}
    few = ask(port, "POST", PATH, as_parquet(table.slice(0, 3)), content_type=PARQUET, accept=f"text/html, {ARROW}")
    assert pa.ipc.open_stream(few[2]).read_all()["prediction"].to_pylist() == wanted[:3]
    assert ask(port, "POST", PATH, as_parquet(table), content_type=PARQUET, accept="text/csv")[0] == 406


def test_service_refuses_bad_batches_and_answers_on(port: int, tmp_path: Path) -> None:
    def refused(body: bytes, media: str = PARQUET) -> tuple[int, str, str]:
        status, headers, answer = ask(port, "POST", PATH, body, content_type=media)
        return status, headers["content-type"], json.loads(answer)["detail"]

    good = as_parquet(pa.Table.from_pylist(ROWS))
    problem = "application/problem+json"
    assert refused(b"") == (
        400,
        problem,
        'no Parquet file that can be read to its end: EOF("Parquet file too small. Size is 0 but need 8")',
    )
    assert refused(good[: len(good) // 2])[:2] == (400, problem)
    assert refused(b"\x00" * 300, ARROW)[:2] == (400, problem)
    status, _, detail = refused(as_parquet(pa.table({"distance": ["far"]})))
    assert (status, detail) == (422, "model: required, a string (and 2 more)")
    assert refused(bytes(2_000_001)) == (413, problem, "the batch is larger than 2,000,000 bytes; send it in parts")
    draw = np.random.default_rng(0)
    for place in draw.integers(4, len(good) - 8, 20):
        flipped = bytearray(good)
        flipped[place : place + 8] = draw.bytes(8)
        assert ask(port, "POST", PATH, bytes(flipped), content_type=PARQUET)[0] in (200, 400, 413, 422)
    assert refused(bomb(tmp_path / "bomb.parquet", photo=Array(["x"] * 9_000, type=DataType.string())).read_bytes()) == (
        413,
        problem,
        ENDED,
    )
    assert ask(port, "POST", PATH, good, content_type=PARQUET)[0] == 200
    assert ask(port, "GET", "/healthz")[0] == 200


def test_single_rows_are_answered_while_a_batch_is_scored(port: int) -> None:
    rows = pa.table({"distance": np.ones(20_000), "model": ["A320"] * 20_000, "photo": [ROWS[0]["photo"]] * 20_000})
    body, one = as_parquet(rows), json.dumps({"instances": ROWS[:1]}).encode()
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(ask(port, "POST", PATH, body, content_type=PARQUET)[0]))
    slowest, answered, begun = 0.0, 0, time.perf_counter()
    thread.start()
    while thread.is_alive():
        started = time.perf_counter()
        assert ask(port, "POST", PATH, one)[0] == 200
        slowest, answered = max(slowest, time.perf_counter() - started), answered + 1
    took = time.perf_counter() - begun
    assert done == [200]
    assert answered > 20
    assert slowest < took / 2, (slowest, took)

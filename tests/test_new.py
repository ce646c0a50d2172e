"""A workspace for any table: what is guessed of it, what is written, and what is refused with nothing left behind."""

import csv
import random
import re
import sqlite3
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.new import main
from tasks.params import Params, RandomSplit, TimeSplit
from tests.conftest import ROOT

RANDOM = random.Random(7)
Rows = dict[str, list[Any]]


def base(rows: int = 200) -> Rows:
    """A table that can be learned from: `x` bears on `y`, `kind` does not."""
    draw = random.Random(1)
    x = [round(draw.gauss(0, 1), 3) for _ in range(rows)]
    return {
        "x": x,
        "kind": [draw.choice(["red", "green", "blue"]) for _ in range(rows)],
        "y": ["up" if value + draw.gauss(0, 1) > 0.3 else "down" for value in x],
    }


def write(folder: Path, table: Rows, name: str = "table.csv") -> Path:
    path = folder / name
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
    return path


def made(folder: Path, table: Rows, target: str = "y", *flags: str) -> Params:
    """The parameters of the workspace that is made of the table."""
    assert main([str(folder / "work"), "--data", str(write(folder, table)), "--target", target, *flags]) == 0
    return Params.load(folder / "work/params.yaml")


def refused(folder: Path, capsys: pytest.CaptureFixture[str], table: Rows, target: str = "y", *flags: str) -> str:
    """What is said; nothing is left of the workspace."""
    source = write(folder, table)
    assert main([str(folder / "work"), "--data", str(source), "--target", target, *flags]) in (2, 3)
    assert list(folder.iterdir()) == [source]
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "Traceback" not in said
    return said


def ingested(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The table that stage ingest makes in the workspace."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    ingest = ["tasks.ingest", "--lock", "sources.lock", "--raw", "data/raw", "--sets", "data/sets", "--snapshot", "snapshot.json"]
    for command in (["tasks.look", "--marks", "sources.lock"], ingest):  # JSON is YAML
        done = subprocess.run([sys.executable, "-m", *command], cwd=workspace, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return pq.read_table(workspace / "data/raw")


def text(folder: Path) -> str:
    return (folder / "work/params.yaml").read_text(encoding="utf-8")


def test_workspace_is_whole_and_its_first_stage_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = made(tmp_path, base())
    workspace = tmp_path / "work"
    assert params.name == "work"
    assert (params.table.task, params.table.classes) == ("binary", ("down", "up"))
    assert (params.table.numbers, params.table.categories) == (("x",), ("kind",))
    assert (workspace / "dvc.yaml").read_bytes() == (ROOT / "dvc.yaml").read_bytes()
    assert (workspace / "tasks/ingest.py").is_file()
    assert (workspace / ".git").is_dir()
    assert "analytics = false" in (workspace / ".dvc/config").read_text()
    table = ingested(workspace, monkeypatch)
    assert (table.num_rows, table.column_names) == (200, ["x", "kind", "y"])


def test_dvc_takes_the_workspace_for_its_own(tmp_path: Path) -> None:
    made(tmp_path, base())
    command = [sys.executable, "-m", "dvc", "stage", "list", "--names-only"]
    done = subprocess.run(command, cwd=tmp_path / "work", capture_output=True, text=True, check=False)
    assert done.stdout.split()[:2] == ["ingest", "validate"], done.stderr
    ignored = subprocess.run(["git", "check-ignore", "tasks", ".cache/x", "data/raw"], cwd=tmp_path / "work", capture_output=True)
    assert len(ignored.stdout.split()) == 3
    made_by_stages = (ROOT / ".gitignore").read_text().partition("# made by the stages, versioned by DVC\n")[2]
    paths = [line for line in made_by_stages.splitlines() if line.startswith(("/", "!"))]
    paths = [path for path in paths if not path.startswith("/deployments/")]  # a workspace has none
    assert (tmp_path / "work/.gitignore").read_text().splitlines()[-len(paths) :] == paths


def test_each_column_stands_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path, {**base(), "same": [1] * 200})
    shown = capsys.readouterr().out
    assert "- kind   # 3 values" in text(tmp_path)
    assert "# left out: same: one value in every row: '1'" in text(tmp_path)
    assert "one value in every row" in shown
    assert f"python -m flows.train --workspace {tmp_path / 'work'}" in shown


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        ([0, 1], "binary", (0, 1)),
        ([1, 2], "binary", (1, 2)),
        ([0, 1, 2], "multiclass", (0, 1, 2)),
        (list(range(60)), "regression", ()),
        ([0.5, 1.25, 3.75], "regression", ()),
        (["b", "a", "c"], "multiclass", ("a", "b", "c")),
        (["true", "false"], "binary", (False, True)),
        (["0.0", "1.0"], "binary", (0, 1)),
    ],
)
def test_task_and_classes_follow_the_target(tmp_path: Path, values: list[Any], task: str, classes: tuple[Any, ...]) -> None:
    table = made(tmp_path, {**base(240), "y": values * (240 // len(values))}).table
    assert (table.task, table.classes) == (task, classes)
    assert [type(label) for label in table.classes] == [type(label) for label in classes]


def test_rarer_class_is_the_one_told(tmp_path: Path) -> None:
    assert made(tmp_path, {**base(), "y": ["bad"] * 30 + ["good"] * 170}).table.classes == ("good", "bad")


def test_task_that_is_asked_for_is_taken(tmp_path: Path) -> None:
    assert made(tmp_path, {**base(), "y": [1, 2, 3, 4] * 50}, "y", "--task", "regression").table.task == "regression"


def test_rows_without_target_are_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = base()
    table["y"][:12] = [""] * 12
    made(tmp_path, table)
    assert '"y" IS NOT NULL  -- 12 of 200 rows lack the target' in text(tmp_path)
    assert ingested(tmp_path / "work", monkeypatch).num_rows == 188


def test_classes_of_too_few_rows_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = made(tmp_path, {**base(), "y": ["a"] * 100 + ["b"] * 97 + ["it's"] * 3})
    assert params.table.classes == ("a", "b")
    assert set(ingested(tmp_path / "work", monkeypatch).column("y").to_pylist()) == {"a", "b"}


ODD_NAMES = ["城市 名称", 'say "hi"', "a.b", "select", "time", "a,b", "no", "it's", "a: b", "# x", "[x]", "{y}", "null", "12"]
ODD_NAMES += ["v", "n", "t", "i", "data", "tab\tx", "back\\slash", "emoji 🎉", "line\u2028sep"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_column_of_any_name_is_carried_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    table = base()
    params = made(tmp_path, {name: table["x"], "kind": table["kind"], "y": table["y"]})
    assert params.table.numbers == (name,)
    assert ingested(tmp_path / "work", monkeypatch).column_names == [name, "kind", "y"]


@pytest.mark.parametrize("name", ["a\nb", "ends ", " starts"])
def test_column_whose_name_no_text_file_carries_is_carried_from_parquet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    table = base()
    pq.write_table(pa.table({name: table["x"], "y": table["y"]}), tmp_path / "table.parquet")
    assert main([str(tmp_path / "work"), "--data", str(tmp_path / "table.parquet"), "--target", "y"]) == 0
    assert Params.load(tmp_path / "work/params.yaml").table.numbers == (name,)
    assert ingested(tmp_path / "work", monkeypatch).column_names == [name, "y"]


def test_target_of_any_name_is_carried_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = base()
    name = 'Ziel "größe", no: 1'
    assert made(tmp_path, {"x": table["x"], name: table["y"]}, name).table.target == name
    assert ingested(tmp_path / "work", monkeypatch).column_names == ["x", name]


def test_identifiers_constants_and_empty_columns_are_left_out(tmp_path: Path) -> None:
    useless = {
        "id": list(range(200)),
        "code": [f"K{RANDOM.random():.9f}" for _ in range(200)],
        "empty": [""] * 200,
        "one": ["same"] * 200,
        "photo": [f"img/{i % 7}.jpg" for i in range(200)],
        "json": ['{"a": 1}', '{"a": 2}'] * 100,
    }
    features = made(tmp_path, {**useless, **base()}).table.features
    assert features == ("x", "kind")


def test_whole_numbers_that_all_differ_stay_a_number(tmp_path: Path) -> None:
    draw = random.Random(3)
    assert "people" in made(tmp_path, {**base(), "people": draw.sample(range(1_000_000), 200)}).table.numbers


def test_key_that_repeats_is_a_category_and_a_group_is_proposed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = made(tmp_path, {**base(), "customer_id": [1000 + i % 40 for i in range(200)]})
    assert params.table.categories == ("kind", "customer_id")
    assert "split: {by: group, column: customer_id," in text(tmp_path)
    assert str(ingested(tmp_path / "work", monkeypatch).schema.field("customer_id").type) == "string"


def test_long_texts_are_texts_and_dates_dates(tmp_path: Path) -> None:
    words = ["the", "room", "was", "clean", "but", "noise", "kept", "us", "awake", "again"]
    draw = random.Random(5)
    table = {
        **base(),
        "review": [" ".join(draw.choices(words, k=9)) for _ in range(200)],
        "birthless": [f"2020-01-{1 + i % 5:02d}" for i in range(200)],
    }
    params = made(tmp_path, table)
    assert (params.table.texts, params.table.dates) == (("review",), ("birthless",))
    assert isinstance(params.preprocess.split, RandomSplit)  # five days are no span


def days(rows: int, hours: int) -> list[str]:
    return [f"{datetime(2021, 3, 1) + timedelta(hours=hours * i):%Y-%m-%d %H:%M:%S}" for i in range(rows)]


def test_split_follows_an_event_time_that_spans_enough(tmp_path: Path) -> None:
    table = base(400)
    params = made(tmp_path, {"ordered_at": days(400, 6), "birth_day": days(400, 60)[::-1], **table}, "y", "--feature", "birth_day")
    split = params.preprocess.split
    assert params.table.time == "ordered_at"
    assert isinstance(split, TimeSplit)
    assert split.test_from is None
    assert split.test_last_days == 20  # of a hundred, which hold the share of rows that is to test


def test_split_is_cut_along_the_time_whatever_another_column_is_called(tmp_path: Path) -> None:
    rare = [day if i % 50 == 0 else "" for i, day in enumerate(days(400, 6))]
    params = made(tmp_path, {"t": rare, "when": days(400, 6), "data": ["same"] * 400, **base(400)})
    assert params.table.time == "when"
    text = (tmp_path / "work/params.yaml").read_text()
    counted = re.search(r"(\d+) rows train, (\d+) validate, (\d+) test", text)
    assert counted is not None
    assert sum(map(int, counted.groups())) == 400
    assert "; 0 rows equal an earlier one in every column" in text


def test_time_that_is_asked_for_wins(tmp_path: Path) -> None:
    params = made(tmp_path, {"created": days(400, 6), "valid_until": days(400, 7), **base(400)}, "y", "--time", "valid_until")
    assert params.table.time == "valid_until"


def test_column_that_tells_the_target_is_an_outcome(tmp_path: Path) -> None:
    table = base(400)
    copied = {"told": [f"{value}!" for value in table["y"]], "score": [value == "up" for value in table["y"]]}
    params = made(tmp_path, {**table, **copied})
    assert params.table.outcomes == ("told", "score")
    assert "alone it predicts the target, AUC 1.000 (bound 0.98)" in text(tmp_path)


def test_leak_that_is_named_a_feature_stays_one(tmp_path: Path) -> None:
    table = base(400)
    params = made(tmp_path, {**table, "told": [f"{value}!" for value in table["y"]]}, "y", "--feature", "told", "--outcome", "kind")
    assert (params.table.categories, params.table.outcomes) == (("told",), ("kind",))


def test_second_copy_of_a_column_is_left_out(tmp_path: Path) -> None:
    table = base(400)
    assert made(tmp_path, {**table, "x2": table["x"]}).table.numbers == ("x",)


def test_personal_columns_are_dropped_with_the_reason_and_never_land(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "zaphod@heartofgold.example"
    params = made(tmp_path, {**base(), "contact": [secret] * 200, "first_name": ["Zaphod"] * 200})
    assert params.privacy.drop == ("first_name", "contact") or params.privacy.drop == ("contact", "first_name")
    assert "its values look like e-mail addresses" in text(tmp_path)
    assert ingested(tmp_path / "work", monkeypatch).column_names == ["x", "kind", "y"]
    held = b"".join(path.read_bytes() for path in (tmp_path / "work").rglob("*") if path.is_file())
    assert secret.encode() not in held


def test_personal_column_that_was_asked_for_is_kept(tmp_path: Path) -> None:
    params = made(tmp_path, {**base(), "zip": [str(10115 + i % 9) for i in range(200)]}, "y", "--feature", "zip")
    assert params.privacy.keep == ("zip",)
    assert "zip" in params.table.features


def test_words_for_missing_among_numbers_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = base()
    table["x"][::10] = ["?"] * 20
    params = made(tmp_path, table)
    assert params.table.numbers == ("x",)
    assert params.sources["data"].missing == ("?",)  # type: ignore[union-attr]
    assert ingested(tmp_path / "work", monkeypatch).column("x").null_count == 20


def test_infinite_numbers_become_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = base()
    table["x"][:3] = ["inf", "-inf", "nan"]
    made(tmp_path, table)
    assert ingested(tmp_path / "work", monkeypatch).column("x").null_count == 3


def test_category_of_many_words_that_repeat_stays(tmp_path: Path) -> None:
    table = base(4000)
    assert "place" in made(tmp_path, {**table, "place": [f"P{i % 2000}" for i in range(4000)]}).table.categories


def test_eighty_rows_and_three_hundred_columns_fit(tmp_path: Path) -> None:
    draw = random.Random(2)
    wide = {f"c{i}": [round(draw.random(), 4) for _ in range(80)] for i in range(300)}
    params = made(tmp_path, {**wide, **base(80)})
    assert len(params.table.numbers) == 301
    assert max(map(len, text(tmp_path).splitlines())) < 140
    assert params.train.batch == 16
    assert params.preprocess.min_count == 2


def test_table_in_a_database_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    table = base()
    with sqlite3.connect("shop.db") as database:
        database.execute('CREATE TABLE sales (x REAL, kind TEXT, "the y" TEXT)')
        database.executemany("INSERT INTO sales VALUES (?, ?, ?)", zip(*table.values(), strict=True))
    assert main(["work", "--data", "sqlite:///shop.db", "--table", "sales", "--target", "the y"]) == 0, capsys.readouterr().err
    assert Params.load(tmp_path / "work/params.yaml").table.classes == ("down", "up")
    assert ingested(tmp_path / "work", monkeypatch).num_rows == 200


def test_password_in_a_url_is_refused_and_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = "postgresql://me:hunter2@127.0.0.1/shop"
    assert main([str(tmp_path / "work"), "--data", url, "--table", "sales", "--target", "y"]) == 2
    said = capsys.readouterr().err
    assert "the url holds a password" in said
    assert "hunter2" not in said


def test_workspace_may_be_made_around_the_data(tmp_path: Path) -> None:
    write(tmp_path, base())
    (tmp_path / ".gitignore").write_text("mine\n")
    assert main([str(tmp_path), "--data", str(tmp_path / "table.csv"), "--target", "y", "--name", "shop"]) == 0
    assert Params.load(tmp_path / "params.yaml").name == "shop"
    ignored = (tmp_path / ".gitignore").read_text().splitlines()
    assert ignored[0] == "mine"
    assert {"/data/*", "/.cache/", "/models/", "/releases/"} <= set(ignored)
    assert (tmp_path / "table.csv").is_file()


def test_workspace_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path, base())
    before = (tmp_path / "work/params.yaml").read_bytes()
    assert main([str(tmp_path / "work"), "--data", str(tmp_path / "table.csv"), "--target", "x"]) == 2
    assert "nothing was changed" in capsys.readouterr().err
    assert (tmp_path / "work/params.yaml").read_bytes() == before


def test_workspace_inside_a_git_tree_gets_no_git_of_its_own(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    made(tmp_path, base())
    assert not (tmp_path / "work/.git").exists()
    staged = subprocess.run(["git", "diff", "--cached", "--name-only"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert staged.stdout == ""


@pytest.mark.parametrize(
    ("change", "target", "words"),
    [
        ({}, "Y2", "--target 'Y2' is no column of the data; did you mean 'y'?"),
        ({"y": ["up"] * 200}, "y", "target 'y' is 'up' in every row; expected two values or more"),
        ({"y": [""] * 200}, "y", "target 'y' has no value in any of the 200 rows"),
        ({"y": [""] * 120 + ["up", "down"] * 40}, "y", "missing in 120 of 200 rows, more than half"),
        ({"y": [f"class {i % 90}" for i in range(200)]}, "y", "has 90 classes in 200 rows, 2.2 rows each"),
        ({"y": ["a"] * 100 + [f"c{i}" for i in range(25) for _ in range(4)]}, "y", "1 classes of 5 rows or more, and 25 of fewer"),
        ({"y": [f"2020-01-{1 + i % 28:02d}" for i in range(200)]}, "y", "target 'y' is a date, which is not predicted"),
        ({"x": range(200), "kind": ["same"] * 200}, "y", "no column is left to predict with"),
    ],
)
def test_what_cannot_be_learned_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Rows, target: str, words: str
) -> None:
    assert words in refused(tmp_path, capsys, {**base(), **change}, target)


def test_too_few_rows_are_refused_by_their_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "49 rows are too few to be split in three; expected 50 or more" in refused(tmp_path, capsys, base(49))
    assert "has a header and no row" in refused(tmp_path, capsys, base(0))


def test_flags_that_do_not_fit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--time 'wen' is no column" in refused(tmp_path, capsys, {"when": days(200, 9), **base()}, "y", "--time", "wen")
    assert "does not read as a date" in refused(tmp_path, capsys, base(), "y", "--time", "kind")
    assert "which is binary, not multiclass" in refused(tmp_path, capsys, base(), "y", "--task", "multiclass")
    assert "belong to a database" in refused(tmp_path, capsys, base(), "y", "--table", "t")
    assert "cannot name a model" in refused(tmp_path, capsys, base(), "y", "--name", "no good")


def test_missing_file_is_refused_with_nothing_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "a/b/work"), "--data", str(tmp_path / "absent.csv"), "--target", "y"]) == 3
    assert "absent.csv" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

"""A whole run on a table of persons: nothing of what was dropped, pseudonymised or coarsened is found anywhere afterwards."""

import csv
import json
import subprocess
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.core.privacy import pseudonym
from tasks.params import read_yaml, with_values
from tasks.shards import read_shards
from tests.conftest import ROOT, SMALL, Workspace, make_workspace

pytestmark = pytest.mark.slow
KEY = "a key that only the environment holds"
SECRET = {"key": "env:PEOPLE_KEY"}
ROWS = 3000


def write_people(path: Path) -> tuple[list[str], list[str], list[str]]:
    """A table of customers; returns their e-mail addresses, names and birthdays, none of which any other column holds."""
    random = np.random.default_rng(0)
    emails = [f"customer{i}.qzx@mail{i % 7}.example" for i in range(ROWS)]
    people = [f"Zoltanquist {chr(65 + i % 26)}arnabyx{i % 300:03d}" for i in range(ROWS)]
    # Few days, so that none is by chance the edge of a bin, which the data report names.
    days = [(date(1950, 1, 2) + timedelta(days=int(day))).isoformat() for day in random.integers(0, 15_000, 40)]
    born = [days[day] for day in random.integers(0, len(days), ROWS)]
    amount = random.normal(50, 10, ROWS).round(2)
    left = (amount + random.normal(0, 6, ROWS) > 55).astype(int)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["at", "email", "customer_name", "birthday", "amount", "plan", "churned"])
        start = date(2020, 1, 1)
        for i in range(ROWS):
            day = start + timedelta(days=i // 8)
            table.writerow([day, emails[i], people[i], born[i], amount[i], "abc"[i % 3] * 2, left[i]])
    return emails, people, born


def params(source: Path, privacy: dict[str, Any]) -> str:
    """The small workspace's parameters, on the table of customers."""
    document = read_yaml(with_values((ROOT / "params.yaml").read_text(), SMALL))
    document["name"] = "people"
    document["sources"] = {"people": {"kind": "file", "file": str(source)}}
    document["privacy"] = {"key": None, "drop": [], "pseudonymise": [], "coarsen": {}, "keep": [], **privacy}
    document["table"] = {
        **{"task": "binary", "time": "at", "target": "churned", "classes": [0, 1], "numbers": ["amount"], "dates": ["birthday"]},
        **{"categories": ["plan", "customer_name"], "texts": [], "slices": ["plan"], "outcomes": []},
        "query": "SELECT * FROM people",
    }
    document["validate"]["rules"] = [{"column": "churned", "not_null": True}]
    document["preprocess"] |= {"split": {**document["preprocess"]["split"], "test_from": "2020-11-01"}, "min_count": 5}
    document["tune"] |= {"budget": {**document["tune"]["budget"], "trials": 1}, "batch": 128}
    for section in ("train", "distill", "compress"):
        document[section]["batch"] = 128
    document["evaluate"]["gate"] |= {"at_least": {}, "at_most": {}, "near_teacher": {}}
    return json.dumps(document, default=str)


def make(folder: Path, source: Path, privacy: dict[str, Any], environment: dict[str, str]) -> Workspace:
    make_workspace(folder)
    (folder / "data/schema.pbtxt").unlink()
    for file in (folder / "sources").iterdir():
        file.unlink()
    (folder / "params.yaml").write_text(params(source, privacy))
    return Workspace(folder, environment)


def leaks(values: list[str], *folders: Path) -> str:
    """The files below the folders in which one of the values stands, as grep finds them."""
    patterns = folders[0].parent / "patterns.txt"
    patterns.write_text("\n".join(values))
    found = subprocess.run(["grep", "-rlaF", "-f", patterns, *folders], capture_output=True, text=True, check=False)
    patterns.unlink()
    assert found.returncode in (0, 1), found.stderr
    return found.stdout


def unpacked(folder: Path) -> list[str]:
    """Every text value of the shards: Parquet packs its pages, so that grep would find nothing in them whatever they hold."""
    tables = pa.concat_tables(read_shards(folder))
    return [str(value) for column in tables.columns for value in column.unique().to_pylist()]


def test_nothing_personal_is_found_after_a_run(tmp_path: Path, environment: dict[str, str]) -> None:
    home = tmp_path / "home"
    home.mkdir()
    source = tmp_path / "people.csv"
    emails, people, born = write_people(source)
    outside = {**environment, "PEOPLE_KEY": KEY, "HOME": str(home)}
    privacy = {**SECRET, "drop": ["email"], "pseudonymise": ["people.customer_name"], "coarsen": {"birthday": "month"}}
    workspace = make(tmp_path / "people", source, privacy, outside)
    done = workspace.train()
    assert done.returncode == 0, done.stdout + done.stderr
    again = workspace.train()
    assert "Completed" not in {line.split(": ")[1] for line in again.stdout.splitlines() if line.startswith("ingest: ")}

    personal = [*emails, *people, *(day for day in born if not day.endswith("-01")), KEY]
    server = Path(environment["PREFECT_HOME"])
    assert leaks(personal, workspace.path, home, server) == ""
    said = done.stdout + done.stderr + again.stdout + again.stderr
    assert not [value for value in personal if value in said]
    for shards in ("data/raw", "data/valid", "data/features/test_rows"):
        values = unpacked(workspace.path / shards)
        assert not set(personal) & set(values), shards
        assert pseudonym(KEY.encode(), people[0]) in values or shards.endswith("test_rows")
        assert f"{born[0][:7]}-01" in values or shards.endswith("test_rows")
    card = (workspace.path / "models/release/model_card.md").read_text()
    for line in (
        "| email | dropped |",
        "| people.customer_name | replaced by a keyed pseudonym (HMAC-SHA256) |",
        "| birthday | coarsened to its month |",
    ):
        assert line in card
    # The service is told what it must not write as it comes.
    manifest = json.loads((workspace.path / "models/release/manifest.json").read_text())
    assert manifest["privacy"] == {"customer_name": "pseudonym", "birthday": "month"}
    # The search itself finds what it is asked for.
    assert leaks(["churned"], workspace.path) != ""


def test_undecided_columns_stop_the_run_before_a_byte_is_written(tmp_path: Path, environment: dict[str, str]) -> None:
    source = tmp_path / "people.csv"
    emails, people, _ = write_people(source)
    workspace = make(tmp_path / "people", source, {"keep": ["birthday"]}, environment)
    done = workspace.train()
    assert done.returncode == 3
    assert "column 'email': its name promises an e-mail address" in done.stderr
    assert "column 'customer_name': its name promises a person's name" in done.stderr
    assert "birthday" not in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (workspace.path / "data/raw").exists()
    assert leaks([*emails, *people], workspace.path, Path(environment["PREFECT_HOME"])) == ""


def test_broken_line_is_told_without_what_it_holds(tmp_path: Path, environment: dict[str, str]) -> None:
    source = tmp_path / "people.csv"
    emails, people, _ = write_people(source)
    lines = source.read_text().splitlines(keepends=True)
    lines[1500] = lines[1500].replace("customer1499", 'customer1499"broken').strip() + ",one,two,three\n"
    source.write_text("".join(lines))
    outside = {**environment, "PEOPLE_KEY": KEY}
    privacy = {**SECRET, "drop": ["email"], "pseudonymise": ["customer_name"], "coarsen": {"birthday": "month"}}
    workspace = make(tmp_path / "people", source, privacy, outside)
    done = workspace.train()
    assert done.returncode == 3, done.stdout + done.stderr
    assert "line 1501" in done.stderr
    assert leaks([*emails, *people], workspace.path, Path(environment["PREFECT_HOME"])) == ""
    assert not [value for value in [*emails, *people] if value in done.stdout + done.stderr]


def test_missing_key_starts_nothing(tmp_path: Path, environment: dict[str, str]) -> None:
    source = tmp_path / "people.csv"
    write_people(source)
    privacy = {**SECRET, "drop": ["email"], "pseudonymise": ["customer_name"], "keep": ["birthday"]}
    workspace = make(tmp_path / "people", source, privacy, {k: v for k, v in environment.items() if k != "PEOPLE_KEY"})
    done = workspace.train()
    assert done.returncode == 2
    assert "the environment variable PEOPLE_KEY is not set" in done.stderr

"""The schema's life: inferred from the first table, shown against a later one, and made to allow what a person accepts."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tensorflow_metadata.proto.v0 import schema_pb2

from tasks.compare import compare_table
from tasks.core.change import Change
from tasks.core.errors import DataError, ParamsError
from tasks.evolve import CHANGES, accept_changes, find_changes, read_changes
from tasks.frozen import load_schema
from tasks.params import Params, Rule, Table
from tasks.shards import write_shards
from tests.conftest import ROOT
from tests.test_validate import ROWS, START, TABLE, Place, change, columns, rules


class Workspace(Place):
    """A table and its schema where flows.schema looks for them."""

    def compare(self, *found: Rule, table: Table = TABLE) -> dict[str, Change]:
        """The changes by column, found in this process."""
        paths = {name: self.folder / name for name in ("raw", "sets")}
        compare_table(table, rules(*found), **paths, schema=self.folder / "schema.pbtxt", changes=self.folder.parent / CHANGES)
        return {one.column: one for one in read_changes(self.folder.parent)}

    def accept(self, *names: str) -> list[str]:
        """Accept these; returns the columns that are left."""
        return [one.column for one in accept_changes(self.folder.parent, read_changes(self.folder.parent), names)]

    @property
    def text(self) -> str:
        return (self.folder / "schema.pbtxt").read_text()

    def rewrite(self, rewritten: Callable[[str], str]) -> None:
        (self.folder / "schema.pbtxt").write_text(rewritten(self.text))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return Workspace(tmp_path / "data")


@pytest.fixture
def frozen(place: Workspace) -> Workspace:
    """A workspace whose schema was inferred from the good table."""
    place.put().infer()
    return place


def features(place: Place) -> dict[str, schema_pb2.Feature]:
    return {feature.name: feature for feature in place.schema.feature}


def blocks(text: str) -> set[str]:
    """The text's blocks, however they are ordered."""
    return {f"{block}\n}}" for block in text.split("\n}\n")}


def test_inferred_schema_demands_what_the_first_table_has_and_guesses_no_range(place: Workspace) -> None:
    place.put(**change("weight", {3: None})).infer()
    found = features(place)
    assert found["size"].presence.min_fraction == 1
    assert found["weight"].presence.min_fraction == 0
    assert {found[name].WhichOneof("domain_info") for name in ("size", "weight", "late", "spare", "made")} == {None}
    assert "day" not in found


def test_inferred_schema_closes_a_list_of_few_words_and_leaves_many_open(place: Workspace) -> None:
    place.put(spare=[f"word {row}" for row in range(ROWS)]).infer()
    found = features(place)
    assert found["colour"].domain == "colour"
    assert [list(domain.value) for domain in place.schema.string_domain] == [["blue", "green", "red"]]
    assert found["spare"].WhichOneof("domain_info") is None
    assert found["note"].WhichOneof("domain_info") is None


def test_list_with_rare_words_lets_a_few_new_ones_pass(place: Workspace) -> None:
    place.put(**change("colour", {3: "pink"})).infer()
    assert features(place)["colour"].distribution_constraints.min_domain_mass == pytest.approx(0.95)
    place.put(**change("colour", {3: "pink", 4: "mauve"})).validate()


def test_schema_is_inferred_from_the_rows_that_keep_the_rules(place: Workspace) -> None:
    place.put(**change("colour", {3: "??", 4: None})).infer(validate=rules(Rule(column="colour", matches="[a-z]+", not_null=True)))
    assert [list(domain.value) for domain in place.schema.string_domain] == [["blue", "green", "red"]]
    assert features(place)["colour"].presence.min_fraction == 1


def test_schema_that_exists_is_not_inferred_again(frozen: Workspace) -> None:
    with pytest.raises(DataError, match="exists and is frozen"):
        frozen.infer()


def test_table_that_is_as_the_schema_says_has_no_changes(frozen: Workspace) -> None:
    assert frozen.compare() == {}


def widen(text: str) -> str:
    """The schema gives sizes a range."""
    return text.replace('name: "size"\n', 'name: "size"\n  float_domain {\n    min: 0\n    max: 6\n  }\n')


GONE = {"spare": None}


@pytest.mark.parametrize(
    ("changed", "column", "said", "verdict"),
    [
        ({"fresh": ["a", "b"] * (ROWS // 2)}, "fresh", ["is new: text, 2 different words"], "warns"),
        (GONE, "spare", ["is gone"], "warns"),
        ({"spare": [f"w{row}" for row in range(ROWS)]}, "spare", ["was whole numbers, is text"], "warns"),
        ({"spare": [row + 0.5 for row in range(ROWS)]}, "spare", ["was whole numbers, is numbers"], "warns"),
        (change("colour", {1: "ZZ", 2: "ZZ", 3: "a 'b'"}), "colour",
         ["new words 'ZZ' (2 rows), \"a 'b'\" (1 row)"], "stops the run"),
        (change("colour", dict.fromkeys(range(12), None)), "colour",
         ["now missing in 10.0% of the rows (12), was never"], "stops the run"),
        (change("size", {3: 70}), "size", ["values from 0 to 70, allowed are 0 to 6"], "stops the run"),
        ({"colour": [None] * ROWS}, "colour", ["every value is missing"], "stops the run"),
        ({"colour": [f"c{row}" for row in range(ROWS)]}, "colour", None, "stops the run"),
    ],
    ids=["new", "gone", "text", "point", "words", "missing", "range", "all-missing", "too-many"],
)  # fmt: skip
def test_change_is_told_in_plain_words_and_once_accepted_the_run_goes_on(
    frozen: Workspace, changed: dict[str, Any], column: str, said: list[str] | None, verdict: str
) -> None:
    frozen.rewrite(widen)
    before = frozen.text
    content = {name: values for name, values in {**columns(), **changed}.items() if values is not None}
    table = pa.table({name: pa.array(values, pa.string()) if name == "colour" else values for name, values in content.items()})
    write_shards([table], frozen.folder / "raw", table.schema)

    found = frozen.compare()
    assert set(found) == {column}
    if said is None:
        assert found[column].said[-1] == "120 words are too many for a list; any word would be allowed"
    else:
        assert list(found[column].said) == said
    assert found[column].verdict == verdict
    if verdict == "stops the run":
        assert f"column {column!r}" in frozen.refusal()

    assert frozen.text == before
    assert frozen.accept(column) == []
    assert frozen.text != before
    others = [block for block in blocks(before) if f'"{column}"' not in block]
    assert all(block in blocks(frozen.text) for block in others)
    assert frozen.compare() == {}
    assert frozen.validate()["schema_warnings"] == []


def test_only_the_columns_that_are_named_are_accepted(frozen: Workspace) -> None:
    frozen.put(**{**change("colour", {1: "ZZ"}), **change("weight", {1: None})}, fresh=[1] * ROWS)
    assert set(frozen.compare()) == {"colour", "weight", "fresh"}
    assert set(frozen.accept("colour", "fresh")) == {"weight"}
    assert "column 'weight'" in frozen.refusal()
    assert set(frozen.compare()) == {"weight"}
    assert frozen.accept("all") == []
    frozen.validate()


def test_words_are_added_to_the_list_and_nothing_else_is_touched(frozen: Workspace) -> None:
    frozen.rewrite(lambda text: '# reviewed {by} "us"\n' + text.replace('value: "red"', 'value: "red"  # as a } rose'))
    before = frozen.text.splitlines()
    frozen.put(**change("colour", {1: "rosé"})).compare()
    frozen.accept("colour")
    after = frozen.text.splitlines()
    assert [line for line in after if line not in before] == ['  value: "rosé"']
    assert [line for line in after if line in before] == before


def test_list_of_which_no_word_is_left_is_replaced(frozen: Workspace) -> None:
    """As when the column becomes pseudonymised: a name that stays in the schema goes into git and the release."""
    frozen.put(colour=[f"{ord(word[0]):04x}" for word in columns()["colour"]])
    assert frozen.compare()["colour"].said[-1] == "none of the 3 words before is there any more: the list would be replaced"
    assert frozen.accept("colour") == []
    assert not {"red", "green", "blue"} & set(re.findall(r"\w+", frozen.text))
    assert frozen.compare() == {}
    frozen.validate()


def test_list_that_two_columns_share_stays_for_the_other(place: Workspace) -> None:
    place.put(other=columns()["colour"]).infer()
    place.rewrite(lambda text: text.replace('domain: "other"', 'domain: "colour"'))
    place.put(other=columns()["colour"], **change("colour", {1: "ZZ"})).compare()
    place.accept("colour")
    place.put(other=change("colour", {1: "ZZ"})["colour"], **change("colour", {1: "ZZ"}))
    assert set(place.compare()) == {"other"}


def test_word_that_the_schema_lets_pass_is_shown_as_passing(place: Workspace) -> None:
    place.put(**change("colour", {3: "pink"})).infer()
    place.put(**change("colour", {3: "pink", 4: "mauve"}))
    assert place.compare()["colour"].verdict == "passes"


def test_rows_in_quarantine_make_no_difference(frozen: Workspace) -> None:
    frozen.put(**change("colour", {1: "??"}))
    assert frozen.compare(Rule(column="colour", matches="[a-z]+")) == {}


def test_column_whose_role_changed_can_be_accepted(frozen: Workspace) -> None:
    table = TABLE.model_copy(update={"numbers": ("weight",), "categories": ("colour", "size")})
    assert frozen.compare(table=table)["size"].said == ("was numbers, is text",)
    frozen.accept("size")
    frozen.validate(table=table)


@pytest.mark.parametrize(("names", "said"), [(["color"], r"\['color'\] have no difference to accept; these have: \['colour'\]")])
def test_column_without_a_difference_cannot_be_accepted(frozen: Workspace, names: list[str], said: str) -> None:
    frozen.put(**change("colour", {1: "ZZ"})).compare()
    before = frozen.text
    with pytest.raises(ParamsError, match=said):
        frozen.accept(*names)
    assert frozen.text == before


def test_schema_that_was_edited_since_it_was_compared_is_not_written_over(frozen: Workspace) -> None:
    frozen.put(**change("colour", {1: "ZZ"})).compare()
    frozen.rewrite(lambda text: text + "# mine\n")
    with pytest.raises(DataError, match="changed while it was looked at"):
        frozen.accept("colour")
    assert frozen.text.endswith("# mine\n")


@pytest.mark.parametrize(
    ("text", "line"), [('feature {\n  name: "a"\n  tpye: INT\n}\n', 3), ('feature {\n  name: "a"\n', 2), ("<<<<<<< HEAD\n", 1)]
)
def test_schema_broken_by_hand_is_refused_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "schema.pbtxt"
    path.write_text(text)
    with pytest.raises(DataError) as refused:
        load_schema(path)
    said = str(refused.value)
    assert said.startswith(f"{path}:{line}: no schema: ")
    assert said.endswith("mend it, take it back from git, or delete it to infer it anew")
    assert "\n" not in said


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_schema_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content:
        (tmp_path / "schema.pbtxt").write_bytes(content)
    with pytest.raises(DataError, match=r"schema\.pbtxt is no schema: "):
        load_schema(tmp_path / "schema.pbtxt")


def test_workspace_without_a_schema_or_a_table_says_how_to_get_them(place: Workspace) -> None:
    with pytest.raises(DataError, match=r"schema\.pbtxt does not exist yet; python -m flows\.train infers it"):
        find_changes(place.folder.parent)
    (place.folder / "schema.pbtxt").touch()
    with pytest.raises(DataError, match=r"data/raw holds no table yet; python -m flows\.train makes it"):
        find_changes(place.folder.parent)


def write_params(folder: Path) -> None:
    """The flagship's values with the small table's roles."""
    params = Params.load(ROOT / "params.yaml").model_dump(mode="json", by_alias=True)
    params["table"] = TABLE.model_dump(mode="json")
    params["validate"] = rules().model_dump(mode="json", exclude_none=True)
    params["sources"] = {"t": {"kind": "file", "file": "t.csv"}}
    params["preprocess"]["split"] = {
        "by": "time",
        "test_from": str((START + timedelta(days=100)).date()),
        "validation_every_days": 10,
    }
    (folder / "params.yaml").write_text(json.dumps(params))


@pytest.mark.slow
def test_command_shows_differences_and_accepts_them(frozen: Workspace) -> None:
    workspace = frozen.folder.parent
    write_params(workspace)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}

    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.schema", "--workspace", str(workspace), *flags]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)

    done = run()
    assert (done.returncode, done.stdout) == (0, "the table is as data/schema.pbtxt says; nothing to do\n"), done.stderr
    frozen.put(**change("colour", {1: "ZZ"}), fresh=[1] * ROWS)
    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == [
        "colour (category): new word 'ZZ' (1 row) [stops the run]",
        "fresh (no role): is new: whole numbers [warns]",
    ]
    done = run("--accept", "colr")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: --accept: ['colr'] have no difference to accept")
    done = run("--accept", "colour")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "accepted 1 of 2 columns; look at data/schema.pbtxt and commit it"
    frozen.rewrite(lambda text: text.replace("type: INT", "type: NIT", 1))
    done = run()
    assert done.returncode == 3
    assert "schema.pbtxt:" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr

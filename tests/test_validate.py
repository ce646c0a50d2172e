"""The stage validate: which rows it keeps, which it sets aside and why, what stops it, and what it says of a table."""

import json
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

from tasks.core.errors import DataError, ParamsError
from tasks.params import Drift, Privacy, RandomSplit, Rule, Table, Validate
from tasks.schema import infer_schema
from tasks.shards import write_shards
from tasks.validate import validate_table

ROWS, SHARD = 120, 50  # three shards where there is more than one, which costs processes
START = datetime(2024, 1, 1)

TABLE = Table(
    task="binary",
    time="day",
    target="late",
    classes=(0, 1),
    numbers=("size", "weight"),
    categories=("colour",),
    dates=("made",),
    texts=("note",),
    slices=("colour",),
    outcomes=(),
    query="-",
)

SNAPSHOT = {"source_rows": {"t": ROWS}, "first": None, "last": None, "content": "0" * 64}  # what ingest says of the table


def columns(rows: int = ROWS) -> dict[str, list[Any]]:
    """A good table: nothing in it is missing, no row is like another."""
    return {
        "day": [START + timedelta(days=row) for row in range(rows)],
        "late": [(row % 3 == 0 and 1) or 0 for row in range(rows)],
        "size": [row % 7 for row in range(rows)],
        "weight": [0.5 * row for row in range(rows)],
        "colour": [("red", "green", "blue")[row % 3] for row in range(rows)],
        "made": [START - timedelta(days=row) for row in range(rows)],
        "note": [f"note number {row}" for row in range(rows)],
        "spare": [row * 2 for row in range(rows)],
    }


@dataclass
class Place:
    """A folder for one table and what validation makes of it."""

    folder: Path

    def put(self, shard: int = ROWS, **changed: Any) -> "Place":
        content = pa.table({**columns(), **changed})
        write_shards((content.slice(i, shard) for i in range(0, len(content), shard)), self.folder / "raw", content.schema)
        return self

    def infer(self, table: Table = TABLE, validate: Validate | None = None) -> "Place":
        path = self.folder / "schema.pbtxt"
        infer_schema(table, validate or rules(), raw=self.folder / "raw", sets=self.folder / "sets", schema=path)
        return self

    def put_like(self, other: "Place") -> "Place":
        """The same table and schema in another folder."""
        shutil.copytree(other.folder / "raw", self.folder / "raw")
        shutil.copy(other.folder / "schema.pbtxt", self.folder)
        return self

    @property
    def schema(self) -> schema_pb2.Schema:
        return text_format.Parse((self.folder / "schema.pbtxt").read_text(), schema_pb2.Schema())

    def validate(self, validate: Validate | None = None, table: Table = TABLE, released: bytes = b"") -> dict[str, Any]:
        """Run the stage; returns its summary."""
        (self.folder / "released.pb").write_bytes(released)
        paths = {name: self.folder / name for name in ("raw", "sets", "valid", "quarantine")}
        if not (self.folder / "schema.pbtxt").exists():
            self.infer(table, validate)
        (self.folder / "snapshot.json").write_text(json.dumps(SNAPSHOT))
        validate_table(
            1,
            Privacy(key=None, drop=(), pseudonymise=(), coarsen={}, keep=()),
            table,
            validate or rules(),
            RandomSplit(by="random", test=0.2, validation=0.2),
            **paths,
            snapshot=self.folder / "snapshot.json",
            schema=self.folder / "schema.pbtxt",
            released=self.folder / "released.pb",
            reference=self.folder / "reference.pb",
            data_report=self.folder / "data.html",
            summary=self.folder / "summary.json",
        )
        return dict(json.loads((self.folder / "summary.json").read_text()))

    def refusal(self, validate: Validate | None = None, table: Table = TABLE, released: bytes = b"") -> str:
        """What the stage says when it refuses the table, having left nothing behind."""
        with pytest.raises(DataError) as refused:
            self.validate(validate, table, released)
        left = {path.name for path in self.folder.iterdir()}
        assert not left & {"valid", "quarantine", "reference.pb", "data.html", "summary.json"}
        assert not [name for name in left if name.endswith(".partial")]
        if "The whole table as it was refused: reports/refused.html" in str(refused.value):
            assert "<!doctype html>" in Path("reports/refused.html").read_text().lower()
        return str(refused.value)

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [row for path in sorted((self.folder / name).iterdir()) for row in pq.read_table(path).to_pylist()]

    def statistics(self) -> statistics_pb2.DatasetFeatureStatisticsList:
        return statistics_pb2.DatasetFeatureStatisticsList.FromString((self.folder / "reference.pb").read_bytes())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)  # DuckDB spills into the current folder
    return Place(tmp_path)


def rules(*found: Rule, budget: float = 0.1, least: int = 10, duplicates: Any = "keep", beyond: Any = "warn") -> Validate:
    drift = Drift(categories=0.1, numbers=0.1, beyond=beyond)
    return Validate(max_quarantined=budget, min_rows=least, duplicates=duplicates, drift=drift, rules=found)


def change(column: str, at: dict[int, Any]) -> dict[str, list[Any]]:
    """The column with other values in these rows."""
    values = columns()[column]
    return {column: [at.get(row, value) for row, value in enumerate(values)]}


def test_good_table_passes_whole_and_unchanged(place: Place) -> None:
    summary = place.put().validate(rules(Rule(column="size", min=0, max=6)))
    assert (summary["rows"], summary["valid"], summary["quarantined"], summary["duplicates"]) == (ROWS, ROWS, 0, 0)
    assert summary["target"] == {"0": pytest.approx(2 / 3), "1": pytest.approx(1 / 3)}
    assert [row["spare"] for row in place.rows("valid")] == columns()["spare"]
    assert place.rows("quarantine") == []


@pytest.mark.parametrize(
    ("rule", "column", "bad", "told"),
    [
        (Rule(column="weight", min=0, max=100), "weight", -1.0, "weight: at least 0, at most 100"),
        (Rule(column="size", one_of=(0, 1, 2, 3, 4, 5, 6)), "size", 9, "size: one of [0, 1, 2, 3, 4, 5, 6]"),
        (Rule(column="colour", one_of=("red", "green", "blue")), "colour", "reddish", "colour: one of ['red', 'green', 'blue']"),
        (Rule(column="colour", matches="red|green|blue"), "colour", "redd", "colour: matches red|green|blue"),
        (Rule(column="size", matches="[0-6]"), "size", 11, "size: matches [0-6]"),
        (Rule(column="colour", in_set="colours"), "colour", "pink", "colour: in the set colours"),
        (Rule(column="size", in_set="sizes"), "size", 70, "size: in the set sizes"),
        (Rule(column="weight", not_null=True), "weight", None, "weight: not missing"),
        (
            Rule(expression="spare = 2 * (weight * 2) OR weight IS NULL"),
            "weight",
            0.25,
            "spare = 2 * (weight * 2) OR weight IS NULL",
        ),
    ],
    ids=["range", "number-list", "word-list", "pattern", "pattern-of-numbers", "set", "number-set", "not-null", "expression"],
)
def test_row_that_breaks_a_rule_goes_to_quarantine_with_its_number(
    place: Place, rule: Rule, column: str, bad: Any, told: str
) -> None:
    (place.folder / "sets").mkdir()
    pq.write_table(pa.table({"value": ["blue", "green", "red"]}), place.folder / "sets/colours.parquet")
    pq.write_table(pa.table({"value": list(range(7))}), place.folder / "sets/sizes.parquet")
    summary = place.put(SHARD, **change(column, {7: bad, 110: bad})).validate(rules(rule))
    assert summary["rules"] == {told: 2}
    assert [(row["row"], row["rule"], row[column]) for row in place.rows("quarantine")] == [(7, told, bad), (110, told, bad)]
    kept = columns()["spare"]
    assert [row["spare"] for row in place.rows("valid")] == [*kept[:7], *kept[8:110], *kept[111:]]


@pytest.mark.parametrize(
    "rule",
    [
        Rule(column="weight", min=0),
        Rule(column="colour", matches="[a-z]+"),
        Rule(column="colour", one_of=("red", "green", "blue")),
        Rule(expression="weight >= 0"),
        Rule(unique=("weight",)),
        Rule(unique=("colour", "weight")),
    ],
)
def test_missing_value_breaks_only_not_null(place: Place, rule: Rule) -> None:
    name = rule.column or "weight"
    place.put(**change(name, {3: None, 4: None, 60: None}))
    assert place.validate(rules(rule))["quarantined"] == 0


def test_number_that_is_none_is_a_missing_value(place: Place) -> None:
    place.put(**change("weight", {3: float("nan")}))
    assert place.validate(rules(Rule(column="weight", not_null=True)))["rules"] == {"weight: not missing": 1}
    (place.folder / "schema.pbtxt").unlink()
    place.validate()
    assert place.rows("valid")[3]["weight"] is None


def test_row_that_breaks_two_rules_names_both_and_counts_once(place: Place) -> None:
    place.put(SHARD, **{**change("weight", {5: -1.0}), **change("colour", {5: "x"})})
    summary = place.validate(rules(Rule(column="weight", min=0), Rule(column="colour", matches="[a-z]{2,}")))
    assert summary["quarantined"] == 1
    assert place.rows("quarantine")[0]["rule"] == "weight: at least 0; colour: matches [a-z]{2,}"


def test_infinite_number_goes_to_quarantine(place: Place) -> None:
    assert place.put(**change("weight", {5: float("inf")})).validate()["rules"] == {"weight: finite": 1}


@pytest.mark.parametrize(("column", "told"), [("late", "late: the target is missing"), ("day", "day: the time is missing")])
def test_missing_target_or_time_goes_to_quarantine(place: Place, column: str, told: str) -> None:
    assert place.put(**change(column, {5: None})).validate()["rules"] == {told: 1}
    assert all(row[column] is not None for row in place.rows("valid"))


def test_values_that_must_be_unique_keep_their_first_row_over_all_shards(place: Place) -> None:
    place.put(SHARD, **change("weight", {3: 0.0, 101: 0.0, 102: 1.0}))
    summary = place.validate(rules(Rule(unique=("weight",))))
    assert summary["rules"] == {"unique: weight": 3}
    assert [row["row"] for row in place.rows("quarantine")] == [3, 101, 102]


def test_combination_that_must_be_unique_may_repeat_in_parts(place: Place) -> None:
    place.put(**change("weight", {3: 0.0, 101: 0.0}))  # row 3 is red as row 0, row 101 is blue
    summary = place.validate(rules(Rule(unique=("colour", "weight"))))
    assert summary["rules"] == {"unique: colour, weight": 1}
    assert [row["row"] for row in place.rows("quarantine")] == [3]


@pytest.fixture
def twice(place: Place) -> Place:
    """Rows 20 and 119 equal row 2 in every column."""

    def doubled(values: list[Any]) -> list[Any]:
        return [values[2] if row in (20, 119) else value for row, value in enumerate(values)]

    return place.put(SHARD, **{name: doubled(values) for name, values in columns().items()})


def test_rows_that_equal_another_are_counted_and_kept(twice: Place) -> None:
    summary = twice.validate(rules(duplicates="keep"))
    assert (summary["duplicates"], summary["valid"]) == (2, ROWS)


def test_rows_that_equal_another_can_go_to_quarantine(twice: Place) -> None:
    summary = twice.validate(rules(duplicates="quarantine"))
    assert (summary["duplicates"], summary["quarantined"]) == (2, 2)
    assert [(row["row"], row["rule"]) for row in twice.rows("quarantine")] == [
        (20, "equals an earlier row"),
        (119, "equals an earlier row"),
    ]


def test_rows_that_equal_another_can_stop_the_run(twice: Place) -> None:
    assert "equals an earlier row: 2 rows; for example row 20, row 119" in twice.refusal(rules(duplicates="stop"))


def test_rows_with_equal_missing_values_are_equal(place: Place) -> None:
    same = {"day": START, "late": 1}

    def emptied(name: str, values: list[Any]) -> list[Any]:
        return [same.get(name) if row in (20, 30) else value for row, value in enumerate(values)]

    place.put(**{name: emptied(name, values) for name, values in columns().items()})
    assert place.validate()["duplicates"] == 1


def test_more_bad_rows_than_the_budget_stop_the_run_and_are_told_by_rule(place: Place) -> None:
    said = place.put(SHARD, **change("weight", dict.fromkeys(range(20, 60), -1.0))).refusal(rules(Rule(column="weight", min=0)))
    assert "has 40 of 120 rows that break a rule, over the budget of 10.0% (validate.max_quarantined)" in said
    assert "column 'weight': at least 0: 40 rows; for example row 20: -1.0, row 21: -1.0, row 22: -1.0" in said


def test_a_rule_has_a_budget_of_its_own(place: Place) -> None:
    place.put(**change("weight", dict.fromkeys((20, 60, 110), -1.0)))
    assert place.validate(rules(Rule(column="weight", min=0, budget=0.03)))["quarantined"] == 3
    said = Place(place.folder / "new").put_like(place).refusal(rules(Rule(column="weight", min=0, budget=0.01)))
    assert "column 'weight': at least 0: 2.50% of the rows, budget 1.00%: 3 rows; for example row 20: -1.0" in said


def test_too_few_rows_stop_the_run(place: Place) -> None:
    said = place.put().refusal(rules(least=1000))
    assert said.startswith("the table has 120 valid rows; expected at least 1,000 (validate.min_rows)\n")


def test_rule_that_fits_no_value_of_its_column_is_refused(place: Place) -> None:
    said = place.put().refusal(rules(Rule(column="colour", min=3)))
    assert said.startswith("column 'colour': rule 'at least 3' cannot be applied to string: ")


def test_rule_of_an_absent_column_is_refused(place: Place) -> None:
    assert "validate.rules name columns ['colr'] that the table lacks" in place.put().refusal(rules(Rule(column="colr", min=3)))


@pytest.mark.parametrize("expression", ["siz > 3", "size >", "avg(size) > 3", "row_number() OVER () > 3"])
def test_expression_that_is_no_condition_of_a_row_is_refused_before_any_row_is_read(place: Place, expression: str) -> None:
    place.put()
    with pytest.raises(ParamsError) as refused:
        place.validate(rules(Rule(expression=expression)))
    said = str(refused.value)
    assert said.startswith(f"validate.rules: the expression {expression!r} is no condition over the table's columns")
    assert "\n" not in said


def test_expression_that_fails_on_a_value_is_refused_with_it(place: Place) -> None:
    said = place.put().refusal(rules(Rule(expression="CAST(note AS INT) > 3")))
    assert "cannot be computed" in said
    assert "note number" in said


def test_expression_may_end_in_a_comment(place: Place) -> None:
    place.put(**change("size", {7: 70}))
    assert place.validate(rules(Rule(expression="size < 7 -- days")))["quarantined"] == 1


def test_column_of_the_wrong_kind_stops_the_run_with_row_numbers_of_the_table(place: Place) -> None:
    place.put(SHARD).infer()
    said = place.put(SHARD, weight=["far" if row == 110 else str(row) for row in range(ROWS)]).refusal()
    assert "column 'weight': expected a number, found string: 1 rows; for example row 110: 'far'" in said


def test_offending_row_is_told_by_its_number_in_the_table_though_rows_before_it_are_in_quarantine(place: Place) -> None:
    place.put(SHARD).infer()
    place.put(SHARD, **{**change("weight", {3: -1.0}), **change("colour", {100: "pink"})})
    assert "row 100: 'pink'" in place.refusal(rules(Rule(column="weight", min=0)))


@pytest.mark.parametrize(
    ("classes", "values"),
    [
        ((0, 1), [0, 1]),
        ((0, 1), [0.0, 1.0]),
        ((False, True), [False, True]),
        (("false", "true"), [False, True]),
        (("no", "yes"), ["no", "yes"]),
        (("0", "1"), [0, 1]),
    ],
)
def test_classes_are_compared_as_text(place: Place, classes: tuple[Any, Any], values: list[Any]) -> None:
    table = TABLE.model_copy(update={"classes": classes})
    summary = place.put(late=[values[row % 4 == 0] for row in range(ROWS)]).validate(table=table)
    assert list(summary["target"].values()) == [0.75, 0.25]


def test_value_that_is_no_class_stops_the_run(place: Place) -> None:
    place.put().infer()
    assert (
        "column 'late': the target is neither 0 nor 1: 1 rows; for example row 7: 2"
        in place.put(**change("late", {7: 2})).refusal()
    )


def test_target_of_one_class_stops_the_run(place: Place) -> None:
    assert "the target has one class, 0; expected both 0 and 1: 120 rows" in place.put(late=[0] * ROWS).refusal()


def multiclass(*classes: str) -> Table:
    return TABLE.model_copy(update={"task": "multiclass", "classes": classes})


def test_several_classes_are_told_with_their_shares(place: Place) -> None:
    summary = place.put(late=["abcd"[row % 4] for row in range(ROWS)]).validate(table=multiclass("a", "b", "c", "d"))
    assert summary["target"] == {"a": 0.25, "b": 0.25, "c": 0.25, "d": 0.25}


def test_class_that_never_comes_and_value_that_is_none_of_several_stop_the_run(place: Place) -> None:
    place.put(late=["abcd"[row % 4] for row in range(ROWS)])
    assert "the target never is e" in place.refusal(table=multiclass("a", "b", "c", "d", "e"))
    assert "the target is none of a, b, c: 30 rows; for example row 3: 'd'" in place.refusal(table=multiclass("a", "b", "c"))


REGRESSION = TABLE.model_copy(update={"task": "regression", "target": "price", "classes": ()})


def test_number_to_be_predicted_is_told_by_its_mean_and_must_be_finite(place: Place) -> None:
    prices = [float("inf") if row == 60 else float(row) for row in range(ROWS)]
    summary = place.put(price=prices).validate(table=REGRESSION)
    assert summary["rules"] == {"price: finite": 1}
    assert summary["target"] == {"mean": pytest.approx((sum(range(ROWS)) - 60) / (ROWS - 1))}


def test_number_to_be_predicted_that_never_changes_stops_the_run(place: Place) -> None:
    assert "the target is always 3.0; expected different numbers" in place.put(price=[3.0] * ROWS).refusal(table=REGRESSION)


def test_table_may_have_no_time(place: Place) -> None:
    table = TABLE.model_copy(update={"time": None})
    assert place.put().validate(table=table)["valid"] == ROWS


def test_whole_numbers_and_truth_values_become_text_where_a_category_is_wanted(place: Place) -> None:
    table = TABLE.model_copy(update={"categories": ("colour", "size", "flag")})
    table = table.model_copy(update={"numbers": ("weight",)})
    place.put(flag=[None if row == 2 else row % 2 == 0 for row in range(ROWS)]).validate(table=table)
    rows = place.rows("valid")
    assert [rows[8]["size"], rows[0]["flag"], rows[1]["flag"], rows[2]["flag"]] == ["1", "true", "false", None]


def test_decimals_are_numbers(place: Place) -> None:
    place.put(weight=pa.array([Decimal(row) for row in range(ROWS)], pa.decimal128(10, 2))).validate()
    assert place.rows("valid")[7]["weight"] == 7.0


def test_columns_named_row_and_rule_stay_beside_those_of_the_quarantine(place: Place) -> None:
    place.put(row=["mine"] * ROWS, rule=["own"] * ROWS, **change("weight", {5: -1.0})).validate(rules(Rule(column="weight", min=0)))
    (bad,) = place.rows("quarantine")
    assert (bad["row"], bad["rule"], bad["row_"], bad["rule_"]) == ("mine", "own", 5, "weight: at least 0")


def test_column_without_a_role_only_warns(place: Place) -> None:
    place.put().infer()
    summary = place.put(spare=[f"word {row}" for row in range(ROWS)], fresh=[1] * ROWS).validate()
    assert len(summary["schema_warnings"]) == 2
    assert summary["valid"] == ROWS


def test_new_word_of_a_column_with_a_role_stops_the_run(place: Place) -> None:
    place.put().infer()
    said = place.put(**change("colour", dict.fromkeys((7, 99), "pink"))).refusal()
    assert "column 'colour'" in said
    assert "2 rows; for example row 7: 'pink', row 99: 'pink'" in said


def test_column_that_has_lost_all_its_values_stops_the_run(place: Place) -> None:
    place.put().infer()
    assert "column 'colour'" in place.put(colour=pa.array([None] * ROWS, pa.string())).refusal()


def test_statistics_do_not_depend_on_the_processes_that_made_them(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.put(SHARD).validate()
    one = (place.folder / "reference.pb").read_bytes()
    monkeypatch.setattr("tasks.parallel.PROCESSES", 1)
    place.validate()
    assert (place.folder / "reference.pb").read_bytes() == one


def test_statistics_count_every_word_of_every_shard(place: Place) -> None:
    place.put(SHARD).validate()
    described = {feature.path.step[0]: feature for feature in place.statistics().datasets[0].features}
    assert list(described) == ["late", "size", "weight", "colour", "made", "note", "spare"]
    assert [(word.value, word.frequency) for word in described["colour"].string_stats.top_values] == [
        ("blue", 40),
        ("green", 40),
        ("red", 40),
    ]
    assert described["note"].string_stats.unique == ROWS
    assert described["weight"].num_stats.mean == pytest.approx(0.5 * (ROWS - 1) / 2)
    assert described["made"].num_stats.max == START.replace(tzinfo=UTC).timestamp()


def test_distance_from_the_last_release_is_told_and_none_without_one(place: Place) -> None:
    assert place.put().validate()["drift"] == {}
    before = (place.folder / "reference.pb").read_bytes()
    drift = place.validate(released=before)["drift"]
    assert set(drift) == {"late", "size", "weight", "colour", "made"}
    assert all(one["value"] == 0 and not one["beyond"] for one in drift.values())


def test_column_that_moved_beyond_its_threshold_warns_or_stops(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.put().validate()
    before = (place.folder / "reference.pb").read_bytes()
    moved = [("red", "green", "blue")[row % 3] if row < 30 else "red" for row in range(ROWS)]
    place.put(colour=moved, weight=[1000.0 + row for row in range(ROWS)])
    drift = place.validate(released=before)["drift"]
    assert {name for name, one in drift.items() if one["beyond"]} == {"colour", "weight"}
    assert drift["colour"]["measure"] == "L-infinity"
    assert drift["colour"]["value"] == pytest.approx(0.5, abs=1e-6)
    assert "column 'colour': L-infinity distance 0.500 from the last release's data, over 0.1" in caplog.text
    said = Place(place.folder / "new").put_like(place).refusal(rules(beyond="stop"), released=before)
    assert "has drifted from what the last release learned on" in said
    assert "column 'weight': Jensen-Shannon distance" in said


def test_schema_s_own_threshold_comes_before_that_of_params(place: Place) -> None:
    place.put().validate()
    before = (place.folder / "reference.pb").read_bytes()
    schema = place.schema
    feature = next(feature for feature in schema.feature if feature.name == "colour")
    feature.drift_comparator.infinity_norm.threshold = 0.9
    (place.folder / "schema.pbtxt").write_text(text_format.MessageToString(schema))
    drift = place.put(colour=["red"] * ROWS).validate(released=before)["drift"]
    assert drift["colour"] == {
        "column": "colour",
        "measure": "L-infinity",
        "value": pytest.approx(2 / 3),
        "threshold": 0.9,
        "beyond": False,
    }


def test_statistics_of_the_last_release_that_are_none_are_refused(place: Place) -> None:
    assert "released.pb holds no statistics" in place.put().infer().refusal(released=b"\xff\xfe not a message")


def test_row_without_a_readable_image_goes_to_quarantine(place: Place) -> None:
    gif = bytes.fromhex("47494638396101000100f00000ff0000ffffff21f90405000000002c00000000010001000002024401003b")  # one red pixel
    photos = pa.array([None if row == 4 else b"no image" if row == 9 else gif for row in range(ROWS)], pa.binary())
    table = TABLE.model_copy(update={"images": ("photo",)})
    summary = place.put(photo=photos).validate(table=table)
    assert summary["valid"] == ROWS - 2
    assert [(row["row"], row["rule"]) for row in place.rows("quarantine")] == [
        (4, "photo: an image that can be read"),
        (9, "photo: an image that can be read"),
    ]
    assert {row["photo"] for row in place.rows("valid")} == {gif}


def test_paths_in_place_of_images_are_refused(place: Place) -> None:
    table = TABLE.model_copy(update={"images": ("photo",)})
    said = place.put(photo=pa.array([f"photos/{row}.png" for row in range(ROWS)])).refusal(table=table)
    assert "column 'photo': expected the bytes of image files, found string" in said
    assert "format: bytes" in said

"""What the contract finds wrong with a table, and in which rows."""

from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from tasks.core.contract import Violation, allowed, check_kinds, offenders, required_columns, violation
from tests.conftest import ROOT

SCHEMA = text_format.Parse(
    """
    feature { name: "shared" type: BYTES domain: "colours" presence { min_fraction: 1.0 } }
    feature { name: "own" type: BYTES string_domain { value: "x" value: "y" } }
    feature { name: "month" type: INT int_domain { min: 1 max: 12 } presence { min_fraction: 1.0 } }
    feature { name: "share" type: FLOAT float_domain { min: 0 } }
    feature { name: "free" type: BYTES presence { min_fraction: 0.5 } }
    feature { name: "late" type: INT bool_domain { } }
    feature { name: "digits" type: BYTES int_domain { } presence { min_fraction: 1.0 } }
    string_domain { name: "colours" value: "red" value: "blue" }
    """,
    schema_pb2.Schema(),
)


def table(**columns: Any) -> pa.Table:
    good = {"time": [datetime(2013, 1, 1)] * 3, "late": [0, 1, 0], "distance": [1.0, 2.0, None], "carrier": ["UA", "AA", None]}
    return pa.table({**good, **columns})


KINDS: Any = {"time": "a timestamp", "late": "a number or text", "distance": "a number", "carrier": "text or whole numbers"}


def found_in(*shards: pa.Table) -> list[Violation]:
    return check_kinds(iter(shards), KINDS)


def broken(column: str, *values: Any) -> list[bool]:
    feature = next(feature for feature in SCHEMA.feature if feature.name == column)
    return list(offenders(pa.chunked_array([pa.array(list(values))]), allowed(feature, SCHEMA)))


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"distance": [1, 2, 3]},
        {"late": [True, False, True]},
        {"distance": [None] * 3, "carrier": [None] * 3},
        {"time": pa.array([0, 1, 2], pa.date32())},
        {"carrier": pa.array(["UA", "AA", None], pa.large_string())},
        {"carrier": pa.array(["UA", "AA", None]).dictionary_encode()},
        {"carrier": [1, 2, None]},
        {"carrier": [True, False, None]},
        {"distance": [True, False, None]},
        {"distance": pa.array([Decimal("1.5"), None, Decimal("2.5")])},
        {"late": ["yes", "no", "yes"]},
    ],
)
def test_columns_of_the_right_kind_break_nothing(columns: dict[str, Any]) -> None:
    assert found_in(table(**columns)) == []


def test_text_in_a_number_column_is_counted_and_shown() -> None:
    (found,) = found_in(table(distance=["12", "far", None]))
    assert found == Violation("distance", "expected a number, found string", 1, ("row 1: 'far'",))


def test_three_examples_stand_for_many_rows() -> None:
    rows = 2000
    many = pa.table(
        {"time": [datetime(2013, 1, 1)] * rows, "late": [0] * rows, "distance": ["far"] * rows, "carrier": ["UA"] * rows}
    )
    (found,) = found_in(many)
    shown = "row 0: 'far', row 1: 'far', row 2: 'far'"
    assert str(found) == f"column 'distance': expected a number, found string: 2,000 rows; for example {shown}"


def test_numbers_that_came_as_text_are_all_to_blame() -> None:
    (found,) = found_in(table(distance=["1", "2", None]))
    assert (found.column, found.rows) == ("distance", 2)


def test_numbers_with_a_point_in_a_column_of_categories_are_found() -> None:
    (found,) = found_in(table(carrier=[1.5, None, 3.0]))
    assert found == Violation("carrier", "expected text or whole numbers, found double", 2, ("row 0: 1.5", "row 2: 3.0"))


def test_rows_are_counted_over_all_shards() -> None:
    shards = [table(distance=["12", None, "3"]), table(distance=["far", None, "near"])]
    (found,) = found_in(*shards)
    assert found == Violation("distance", "expected a number, found string", 2, ("row 3: 'far'", "row 5: 'near'"))


def test_long_value_is_cut_in_a_message() -> None:
    (found,) = found_in(table(distance=["x" * 5000, None, None]))
    assert len(str(found)) < 300


def test_text_that_is_no_time_is_found() -> None:
    (found,) = found_in(table(time=["2013-01-01", "soon", "2013-01-02"]))
    assert found == Violation("time", "expected a timestamp, found string", 1, ("row 1: 'soon'",))


def test_time_that_is_missing_everywhere_is_found() -> None:
    (found,) = found_in(table(time=[None] * 3))
    assert (found.column, found.rule) == ("time", "expected a timestamp, every value is missing")


def test_every_wrong_column_is_found() -> None:
    dates = [datetime(2013, 1, 1)] * 3
    assert [found.column for found in found_in(table(late=dates, carrier=[1.0, 2.0, 3.0]))] == ["late", "carrier"]


def test_violation_of_whole_rows_names_no_column_and_one_of_no_rows_no_number() -> None:
    assert str(Violation("", "equals an earlier row", 2, ("row 7",))) == "equals an earlier row: 2 rows; for example row 7"
    assert str(Violation("c", "is far", None, ())) == "column 'c': is far"


def test_violations_of_two_shards_add_up_to_three_examples() -> None:
    one, two = Violation("c", "r", 2, ("row 1", "row 2")), Violation("c", "r", 5, ("row 8", "row 9"))
    assert one.plus(two) == Violation("c", "r", 7, ("row 1", "row 2", "row 8"))


def test_violation_without_rows_shows_no_example() -> None:
    assert str(violation("c", "rule", [1, 2], np.zeros(2, bool))) == "column 'c': rule: 0 rows"


def test_words_outside_the_domain_offend() -> None:
    assert broken("own", "x", "z", None, "y") == [False, True, False, False]
    assert broken("shared", "red", "green", "blue") == [False, True, False]


def test_numbers_outside_the_range_offend() -> None:
    assert broken("month", 0, 1, 12, 13) == [True, False, False, True]


def test_range_without_an_upper_end_is_open_there() -> None:
    assert broken("share", -0.1, 0.0, 1e300, None) == [True, False, False, False]


def test_missing_values_offend_where_the_schema_demands_one_in_every_row() -> None:
    assert broken("shared", "red", None) == [False, True]
    assert broken("month", 1.0, None) == [False, True]
    assert broken("free", "anything", None) == [False, False]


def test_missing_value_offends_in_a_column_of_digits_kept_as_text() -> None:
    assert broken("digits", "12", None) == [False, True]


def test_numbers_other_than_0_and_1_offend_in_a_column_of_truth_values() -> None:
    assert broken("late", 0, 1, 2) == [False, False, True]


def test_required_columns_are_those_demanded_in_every_row() -> None:
    assert required_columns(SCHEMA) == {"shared", "month", "digits"}
    flights = text_format.Parse((ROOT / "data/schema.pbtxt").read_text(), schema_pb2.Schema())
    assert {"month", "late", "carrier"} <= required_columns(flights)


def test_wholly_missing_column_is_told_with_all_its_rows() -> None:
    empty = pa.array([None] * 3, pa.string())
    (found,) = found_in(table(distance=empty))
    assert (found.rule, found.rows) == ("expected a number, every value is missing", 3)

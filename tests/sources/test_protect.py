"""What is written of a source: common types, and nothing of what is personal."""

from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from tasks import engine
from tasks.core.errors import DataError, ParamsError
from tasks.core.privacy import Guard, pseudonym
from tasks.params import Privacy
from tasks.sources import protect

NOTHING = Privacy(key=None, drop=(), pseudonymise=(), coarsen={}, keep=())


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def apply(select: str, guard: Guard = Guard()) -> tuple[list[str], list[str], list[tuple[object, ...]]]:  # noqa: B008
    with engine.connect() as db:
        relation = protect.protected(db, db.sql(f"SELECT {select}"), guard)
        return relation.columns, list(map(str, relation.types)), relation.fetchall()


@pytest.mark.parametrize(
    ("value", "type_", "wanted"),
    [
        ("1::TINYINT", "BIGINT", 1),
        ("1::UINTEGER", "BIGINT", 1),
        ("1.5::FLOAT", "DOUBLE", 1.5),
        ("1.25::DECIMAL(9, 2)", "DOUBLE", 1.25),
        ("9007199254740993::DECIMAL(38, 0)", "BIGINT", 9007199254740993),
        ("'x'::VARCHAR", "VARCHAR", "x"),
        ("true", "BOOLEAN", True),
        ("DATE '2013-07-04'", "DATE", date(2013, 7, 4)),
        ("TIMESTAMP_S '2013-07-04 01:02:03'", "TIMESTAMP", datetime(2013, 7, 4, 1, 2, 3)),
        ("make_timestamptz(1372899723000000)", "TIMESTAMP", datetime(2013, 7, 4, 1, 2, 3)),
        ("CAST(make_timestamptz(1372899723000000) AS TIMESTAMPTZ_NS)", "TIMESTAMP", datetime(2013, 7, 4, 1, 2, 3)),
        ("[1, 2]", "VARCHAR", "[1,2]"),
        ("{'a': 1}", "VARCHAR", '{"a":1}'),
        ("'ab'::BLOB", "VARCHAR", "6162"),
    ],
)
def test_type_does_not_depend_on_the_source(value: str, type_: str, wanted: object) -> None:
    value = value.replace("make_timestamptz(1372899723000000)", "TIMESTAMPTZ '2013-07-04 03:02:03+02'")
    assert apply(f"{value} AS x") == (["x"], [type_], [(wanted,)])


def test_integer_beyond_64_bits_is_told(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="out of range"):
        apply("170141183460469231731687303715884105727::HUGEINT AS x")


def test_dropped_column_is_gone_and_the_others_keep_their_order() -> None:
    columns, _, rows = apply("1 AS a, 'ann' AS b, 2 AS c", Guard(drop=frozenset({"b"})))
    assert (columns, rows) == (["a", "c"], [(1, 2)])


@pytest.mark.parametrize("key", [b"k", b"k" * 64, b"k" * 65])
def test_pseudonym_in_sql_is_the_hmac(key: bytes) -> None:
    guard = Guard(pseudonymise=frozenset({"a", "n", "d"}), key=key)
    _, _, rows = apply("'ann é' AS a, 12 AS n, DATE '2013-07-04' AS d, NULL::VARCHAR AS x", guard)
    assert rows == [(pseudonym(key, "ann é"), pseudonym(key, "12"), pseudonym(key, "2013-07-04"), None)]
    _, _, missing = apply("NULL::VARCHAR AS a", guard)
    assert missing == [(None,)]


def test_coarsened_values_keep_their_first_part() -> None:
    guard = Guard(coarsen=(("born", "month"), ("zip", 2), ("at", "year")))
    columns, types, rows = apply("DATE '1980-05-17' AS born, '10115' AS zip, TIMESTAMP '2013-07-04 01:02:03' AS at", guard)
    assert (columns, types) == (["born", "zip", "at"], ["DATE", "VARCHAR", "DATE"])
    assert rows == [(date(1980, 5, 1), "10", date(2013, 1, 1))]


def test_coarsening_text_to_a_month_is_refused() -> None:
    with pytest.raises(DataError, match="column 'x' is VARCHAR, no date; give a number of characters"):
        apply("'abc' AS x", Guard(coarsen=(("x", "month"),)))


def test_dropping_everything_is_refused() -> None:
    with pytest.raises(DataError, match="drops every column"):
        apply("1 AS a", Guard(drop=frozenset({"a"})))


def test_undecided_personal_column_stops_with_its_reason() -> None:
    with engine.connect() as db:
        relation = db.sql("SELECT 'ann@example.com' AS contact, 1 AS n, 'x' AS first_name")
        with pytest.raises(DataError) as refused:
            protect.check_personal("people", relation, Guard())
        protect.check_personal("people", relation, Guard(keep=frozenset({"contact"}), drop=frozenset({"first_name"})))
    said = str(refused.value)
    assert "column 'contact': its values look like e-mail addresses" in said
    assert "column 'first_name': its name promises a person's name" in said
    assert "ann@" not in said


def test_privacy_names_columns_bare_or_with_their_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSEUDONYM_KEY", "s3cret")
    privacy = Privacy(
        key="env:PSEUDONYM_KEY", drop=("people.a", "other.b"), pseudonymise=("c",), coarsen={"people.d": 2}, keep=("e",)
    )
    guard = protect.guard_of("people", privacy)
    assert (guard.drop, guard.pseudonymise, guard.coarsen, guard.keep) == ({"a"}, {"c"}, (("d", 2),), {"e"})
    assert guard.key == b"s3cret"
    assert protect.guard_of("people", NOTHING) == Guard()


def test_missing_key_is_named_and_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PSEUDONYM_KEY", raising=False)
    privacy = Privacy(key="env:PSEUDONYM_KEY", drop=(), pseudonymise=("c",), coarsen={}, keep=())
    with pytest.raises(ParamsError, match="the environment variable PSEUDONYM_KEY is not set"):
        protect.guard_of("people", privacy)


def test_decimal_and_double_of_the_same_number_are_written_alike() -> None:
    assert apply("1.10::DECIMAL(9, 2) AS x")[2] == apply("1.10::DOUBLE AS x")[2] == [(float(Decimal("1.10")),)]

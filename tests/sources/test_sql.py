"""Sources in databases, on a real PostgreSQL and on SQLite: what lands, what is read again, and what a user is told."""

import itertools
import os
import shutil
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from tasks.core.errors import DataError, ParamsError
from tasks.params import Privacy, SqlSource
from tasks.sources import cells, database
from tasks.sources.land import land, look
from tasks.sources.lock import Mark
from tests.sources.postgres import PASSWORD, VARIABLE, Base, Proxy, proxying, running_postgres

OPEN = Privacy(key=None, drop=(), pseudonymise=(), coarsen={}, keep=())


@pytest.fixture(scope="session")
def make_base() -> Iterator[Callable[[str], Base]]:
    with running_postgres() as make:
        yield make


numbers = itertools.count()


@pytest.fixture
def base(make_base: Callable[[str], Base]) -> Base:
    return make_base(f"base{next(numbers)}")


@pytest.fixture
def proxy(base: Base) -> Iterator[Proxy]:
    with proxying(base.port) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace as the current folder, as a stage has it, with the password in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, PASSWORD)
    return tmp_path


def source(url: str, **settings: str) -> SqlSource:
    secret = {"password": f"env:{VARIABLE}"} if url.startswith("postgresql+psycopg") else {}
    return SqlSource.model_validate({"kind": "sql", "url": url, **secret, **settings})


def landed(of: SqlSource, privacy: Privacy = OPEN) -> tuple[Mark, dict[str, list[Any]]]:
    """The source's mark, and its rows as they landed, column by column in one order."""
    mark = look("t", of, privacy)
    return mark, rows(land("t", of, privacy, mark))


def without_columns(mark: Mark) -> Mark:
    return {key: value for key, value in mark.items() if key != "columns"}


def rows(paths: list[Path]) -> dict[str, list[Any]]:
    return pa.concat_tables([pq.read_table(path) for path in paths]).to_pydict()


def refusal(of: SqlSource, privacy: Privacy = OPEN) -> str:
    """What is said of the source: one line without the password, and nothing of it is in the workspace."""
    with pytest.raises(DataError) as refused:
        landed(of, privacy)
    said = str(refused.value)
    assert said.startswith("source 't'")
    assert PASSWORD not in said
    assert list(Path(".cache").rglob("*.parquet")) == []
    return said


def one_line(said: str) -> str:
    assert "\n" not in said
    return said


# What lands


def test_every_type_lands_as_the_common_ones_whatever_the_session_says(base: Base) -> None:
    base.run(
        f"ALTER DATABASE {base.name} SET timezone = 'America/New_York'",
        f"ALTER DATABASE {base.name} SET datestyle = 'German'",
        f"ALTER DATABASE {base.name} SET bytea_output = 'escape'",
        "CREATE TYPE mood AS ENUM ('good', 'bad')",
        """CREATE TABLE t (s smallint, i int, b bigint, n numeric(12, 4), r real, f float8, y boolean, d date, w timestamp,
             z timestamptz, c char(3), v varchar(9), x text, a bytea, u uuid, j jsonb, l int[], m mood)""",
        r"""INSERT INTO t VALUES (1, -2, 9223372036854775807, 10.2500, 39.02, 10.357019999999999, true, '2013-03-10',
             '2013-03-10 02:30:00.000001', '2013-03-10 02:30:00.5-05', 'EWR', '', E'a,"b"\r\nc\\', '\x00ff',
             '00000000-0000-0000-0000-000000000001', '{"k": [1]}', '{1,NULL}', 'bad')""",
        "INSERT INTO t (s) VALUES (NULL)",
    )
    _, table = landed(source(base.url(), table="t"))
    assert {column: values[0] for column, values in table.items()} == {
        "s": 1,
        "i": -2,
        "b": 9223372036854775807,
        "n": 10.25,
        "r": 39.02,
        "f": 10.357019999999999,
        "y": True,
        "d": date(2013, 3, 10),
        "w": datetime(2013, 3, 10, 2, 30, 0, 1),
        "z": datetime(2013, 3, 10, 7, 30, 0, 500000),
        "c": "EWR",
        "v": "",
        "x": 'a,"b"\r\nc\\',
        "a": "00FF",
        "u": "00000000-0000-0000-0000-000000000001",
        "j": '{"k": [1]}',
        "l": "{1,NULL}",
        "m": "bad",
    }
    assert {values[1] for values in table.values()} == {None}


@pytest.mark.parametrize("setting", [None, "LATIN1", "WIN1252"])
def test_text_of_another_encoding_lands_as_it_is_meant(base: Base, monkeypatch: pytest.MonkeyPatch, setting: str | None) -> None:
    name = f"{base.name}_latin"
    base.run(f"CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    latin = Base(base.port, name)
    latin.run("CREATE TABLE t AS SELECT 1 AS w, 'Z' || chr(252) || 'rich' AS x, chr(195) || chr(169) AS y")
    if setting:
        monkeypatch.setenv("PGCLIENTENCODING", setting)
    assert landed(source(latin.url(), table="t"))[1] == {"w": [1], "x": ["Z\u00fcrich"], "y": ["\u00c3\u00a9"]}


def test_column_that_is_null_for_long_keeps_its_type(base: Base) -> None:
    base.run("CREATE TABLE t AS SELECT g AS i, CASE WHEN g > 299990 THEN g END AS late FROM generate_series(1, 300000) g")
    _, table = landed(source(base.url(), table="t"))
    assert table["i"] == list(range(1, 300_001))
    assert table["late"][:3] == [None] * 3
    assert table["late"][-10:] == list(range(299_991, 300_001))


def test_decimals_land_whole_in_a_type_that_rows_do_not_change(base: Base, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    base.run(
        "CREATE TABLE t (w int, k numeric(18), h numeric(5, -2), b numeric(20, 0), n numeric, p numeric(20, 2), z numeric(38, 30))",
        "INSERT INTO t VALUES (1, 1, 100, 1, 1, 0.5, 0.25)",
    )
    of = source(base.url(), table="t", watermark="w")
    assert landed(of)[1] == {"w": [1], "k": [1], "h": [100], "b": ["1"], "n": [1.0], "p": [0.5], "z": [0.25]}
    assert "column 'b' stays text: it is declared of whole numbers with more digits than 64 bits hold" in caplog.text
    assert "decimals" not in caplog.text
    large = 9007199254740993
    base.run(
        f"INSERT INTO t VALUES (2, {large}, 12300, {large}, {large}, {large}.25, 0.1), (3, {large - 1}, 5, {large - 1}, 5, 1, 2)"
    )
    _, table = landed(of)
    assert table["k"] == [1, large, large - 1]
    assert table["b"] == ["1", str(large), str(large - 1)]
    assert caplog.text.count("column 'n' holds decimals of more than 15 digits, for example '9007199254740993'") == 1
    assert caplog.text.count("column 'p' holds decimals of more than 15 digits, for example '9007199254740993.25'") == 1
    assert "'z'" not in caplog.text
    assert "'NaN'; correct them, or CAST" in refusal(source(base.url(), query="SELECT 'NaN'::numeric(9, 0) AS x"))


def test_row_of_one_null_is_a_row(base: Base) -> None:
    base.run("CREATE TABLE t (x text)", "INSERT INTO t VALUES (NULL), (''), (NULL), ('a')")
    assert landed(source(base.url(), table="t"))[1] == {"x": [None, "", None, "a"]}


def test_query_lands_as_it_is_written(base: Base) -> None:
    query = "WITH q AS (SELECT '50%' AS p, ':x' AS c, '9'::text AS t, 7 % 4 AS m) SELECT * FROM q WHERE p LIKE '5%' -- :end\n;"
    assert landed(source(base.url(), query=query))[1] == {"p": ["50%"], "c": [":x"], "t": ["9"], "m": [3]}


@pytest.mark.parametrize("end", ["; -- done", ";\n/* done; */ ;\n", " -- done", ";;", "\n;-- a\n-- b"])
@pytest.mark.parametrize("word", ["'; -- x'", "E'\\'; --'", '"; --"', "$a$; -- $b$ '$a$", "'it''s; /*'"])
def test_query_may_end_as_it_is_typed(base: Base, end: str, word: str) -> None:
    query = f"SELECT w /* ; */ FROM (SELECT {word} AS w) q -- ;\n WHERE true"
    if word.startswith('"'):
        query = f"SELECT {word} AS w FROM (SELECT '; --' AS {word}) q"
    wanted = {"E": "'; --", "$": "; -- $b$ '"}.get(word[0], word[1:-1].replace("''", "'"))
    assert landed(source(base.url(), query=query + end))[1] == {"w": [wanted]}


def test_sqlite_query_may_end_as_it_is_typed(lite: sqlite3.Connection) -> None:
    lite.execute("CREATE TABLE t AS SELECT 1 AS w")
    assert landed(source("sqlite:///t.db", query="SELECT *, '; --' AS x FROM t; -- done\n"))[1] == {"w": [1], "x": ["; --"]}


def test_table_is_quoted_with_its_schema(base: Base) -> None:
    base.run(
        'CREATE SCHEMA "My Data"',
        'CREATE TABLE "My Data"."Tab""le %" ("Order" int, "a%b" int)',
        'INSERT INTO "My Data"."Tab""le %" VALUES (1, 2)',
    )
    of = source(base.url(), table='My Data.Tab"le %')
    assert landed(of)[1] == {"Order": [1], "a%b": [2]}
    appending = source(base.url(), table='My Data.Tab"le %', watermark="Order")
    assert without_columns(landed(appending)[0]) == {"watermark": "1", "rows": 1, "sum": 1}


def test_same_rows_have_one_mark_in_any_order_and_database(base: Base, here: Path) -> None:
    columns = "(i {int}, f {float}, y boolean, d date, w timestamp, x text)"
    values = ["(1, 0.1, true, '2013-01-01', '2013-01-01 10:00:00', 'a')", "(2, 1e300, false, NULL, '2013-01-01 10:00:00.25', NULL)"]
    base.run(f"CREATE TABLE t {columns.format(int='int', float='float8')}", f"INSERT INTO t VALUES {', '.join(values)}")
    with closing(sqlite3.connect(here / "t.db")) as lite, lite:
        lite.execute(f"CREATE TABLE t {columns.format(int='INTEGER', float='DECIMAL(9, 2)')}")
        lite.execute(f"INSERT INTO t VALUES {', '.join(reversed(values))}")
    one, _ = landed(source(base.url(), table="t"))
    assert landed(source("sqlite:///t.db", table="t"))[0] == one
    assert landed(source("sqlite:///t.db", query="SELECT * FROM t ORDER BY i"))[0] == one
    base.run("UPDATE t SET x = 'b' WHERE i = 1")
    assert landed(source(base.url(), table="t"))[0]["content"] != one["content"]


# What is read, and what is not again


def test_content_that_was_looked_at_is_not_read_again(base: Base, proxy: Proxy) -> None:
    base.run("CREATE TABLE t AS SELECT g FROM generate_series(1, 100) g")
    of = source(base.url(proxy.port), table="t")
    mark = look("t", of, OPEN)
    read = proxy.connections
    land("t", of, OPEN, mark)
    assert proxy.connections == read
    base.run("UPDATE t SET g = g")  # other places on disk, another order
    assert look("t", of, OPEN) == mark


def test_content_that_moved_since_the_lock_is_refused(base: Base) -> None:
    base.run("CREATE TABLE t AS SELECT 1 AS g")
    of = source(base.url(), table="t")
    mark = look("t", of, OPEN)
    base.run("INSERT INTO t VALUES (2)")
    look("t", of, OPEN)
    with pytest.raises(DataError, match=r"is not what sources\.lock says"):
        land("t", of, OPEN, mark)
    with pytest.raises(DataError, match=r"is not what sources\.lock says"):
        land("t", source(base.url(), table="t", watermark="g"), OPEN, {})


WATERMARKS = {
    "bigint": "g",
    "date": "'2013-01-01'::date + g",
    "timestamp": "'2013-01-01'::timestamp + g * interval '1 hour 1 microsecond'",
    "timestamptz": "'2013-01-01'::timestamptz + g * interval '1 hour'",
    "numeric": "1234567890123456789.5 + g",
    "float8": "g / 3.0::float8",
    "text": "lpad(g::text, 9, '0')",
}


@pytest.mark.parametrize("kind", WATERMARKS)
def test_only_rows_beyond_the_watermark_are_read(base: Base, proxy: Proxy, kind: str) -> None:
    fill = f"SELECT {WATERMARKS[kind]} AS w, g AS i, repeat('x', 500) AS x FROM generate_series({{}}, {{}}) g"
    base.run(f"CREATE TABLE t AS {fill.format(1, 20_000)}")
    of = source(base.url(proxy.port), table="t", watermark="w")
    mark, table = landed(of)
    assert (mark["rows"], sorted(table["i"])) == (20_000, list(range(1, 20_001)))
    base.run(f"INSERT INTO t {fill.format(20_001, 20_007)}")
    before = proxy.answered
    more, table = landed(of)
    assert proxy.answered - before < 20_000
    assert (more["rows"], sorted(table["i"])) == (20_007, list(range(1, 20_008)))
    assert rows(land("t", of, OPEN, mark))["i"] == list(range(1, 20_001))  # an older lock gives the older rows


def test_rows_that_came_late_or_went_make_all_be_read_again_once(base: Base) -> None:
    base.run("CREATE TABLE t AS SELECT g AS w FROM generate_series(10, 20) g")
    of = source(base.url(), table="t", watermark="w")
    landed(of)
    base.run("INSERT INTO t VALUES (3)")
    total = sum(w * w for w in [3, *range(10, 21)])
    mark, table = landed(of)
    assert without_columns(mark) == {"watermark": "20", "rows": 12, "sum": total}
    assert table == {"w": [3, *range(10, 21)]}
    base.run("DELETE FROM t WHERE w = 15")
    mark, table = landed(of)
    assert table["w"] == [3, *range(10, 15), *range(16, 21)]
    base.run("INSERT INTO t VALUES (4)")
    shutil.rmtree(".cache")  # as in a fresh copy of the workspace
    with pytest.raises(DataError, match=r"not what sources.lock says: found {'watermark': '20', 'rows': 12, 'sum'.*}, locked"):
        land("t", of, OPEN, mark)


@pytest.mark.parametrize("kind", ["bigint", "smallint", "numeric(18)", "date", "timestamp", "timestamptz"])
def test_as_many_rows_that_came_late_as_went_make_all_be_read_again(base: Base, kind: str) -> None:
    number = kind in ("bigint", "smallint", "numeric(18)")
    value = f"({{}})::{kind}" if number else f"('1969-12-30'::timestamptz + ({{}}) * interval '1 day 1 microsecond')::{kind}"
    base.run(f"CREATE TABLE t AS SELECT {value.format('g')} AS w, g AS i FROM generate_series(-5, 20) g")
    of = source(base.url(), table="t", watermark="w")
    first, _ = landed(of)
    assert landed(of)[0] == first
    base.run("DELETE FROM t WHERE i IN (5, 7)", f"INSERT INTO t SELECT {value.format('6')}, 6 FROM generate_series(1, 2)")
    mark, table = landed(of)
    assert mark == {**first, "sum": mark["sum"]} != first
    assert sorted(table["i"]) == [*range(-5, 5), 6, 6, 6, *range(8, 21)]


def test_lock_of_a_watermark_without_a_sum_is_met_as_before(base: Base) -> None:
    base.run("CREATE TABLE t AS SELECT g AS w FROM generate_series(1, 9) g")
    of = source(base.url(), table="t", watermark="w")
    assert rows(land("t", of, OPEN, {"watermark": "9", "rows": 9}))["w"] == list(range(1, 10))


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ("ADD COLUMN z int DEFAULT 7", {"w": [1], "x": [5], "y": ["a"], "z": [7]}),
        ("DROP COLUMN y", {"w": [1], "x": [5]}),
        ("ALTER COLUMN x TYPE text USING 'x' || x", {"w": [1], "x": ["x5"], "y": ["a"]}),
        ("RENAME COLUMN x TO z", {"w": [1], "z": [5], "y": ["a"]}),
    ],
)
@pytest.mark.parametrize("more", [False, True])
def test_column_that_comes_goes_or_changes_makes_all_be_read_again(
    base: Base, caplog: pytest.LogCaptureFixture, change: str, wanted: dict[str, list[Any]], more: bool
) -> None:
    caplog.set_level("INFO")
    base.run("CREATE TABLE t AS SELECT 1 AS w, 5 AS x, 'a' AS y")
    of = source(base.url(), table="t", watermark="w")
    first, _ = landed(of)
    base.run(f"ALTER TABLE t {change}", *(["INSERT INTO t (w) VALUES (2)"] if more else []))
    mark, table = landed(of)
    assert {column: values[:1] for column, values in table.items()} == wanted
    assert len(table["w"]) == 1 + more
    assert mark["columns"] != first["columns"]
    assert "its columns, or their types, are others than those that landed: reads all again" in caplog.text
    base.run("ALTER TABLE t ALTER COLUMN w TYPE bigint")  # the same here
    assert landed(of)[0] == mark


def test_rows_after_the_look_wait_for_the_next(base: Base) -> None:
    base.run("CREATE TABLE t AS SELECT 1 AS w")
    of = source(base.url(), table="t", watermark="w")
    mark = look("t", of, OPEN)
    base.run("INSERT INTO t VALUES (2)")
    assert rows(land("t", of, OPEN, mark)) == {"w": [1]}


# What a user is told


BAD: list[tuple[dict[str, str], str]] = [
    ({"table": "flihgts"}, "relation \"flihgts\" does not exist; the database has the tables ['empty', 'holes', 'odd', 't']"),
    ({"table": "other.t"}, "relation \"other.t\" does not exist; schema 'other' has the tables []"),
    ({"query": "SELECT * FROM nowhere"}, "relation \"nowhere\" does not exist; the database has the tables ['empty',"),
    ({"query": "SELEC w FROM t"}, "postgresql says: syntax error at or near"),
    ({"query": "DELETE FROM t"}, "postgresql says: syntax error"),
    ({"query": "SELECT nextval('s')"}, "cannot execute nextval() in a read-only transaction"),
    ({"query": "SELECT"}, "it has no column; expected at least one"),
    ({"query": "-- nothing\n;"}, "postgresql says: syntax error"),
    ({"query": "SELECT 1; SELECT 2"}, "postgresql says: syntax error"),
    ({"query": "SELECT nothing FROM t"}, 'column "nothing" does not exist'),
    ({"query": "SELECT 1 / (w - w) AS x FROM t"}, "division by zero"),
    ({"query": "SELECT CAST('anna' AS int) AS x"}, "invalid input syntax for type integer"),
    ({"query": "SELECT 1 AS a, 2 AS a"}, "its columns ['a'] share a name"),
    ({"query": 'SELECT 1 AS a, 2 AS "A"'}, "its columns ['A', 'a'] share a name"),
    ({"table": "empty"}, "gives no row; expected at least one"),
    ({"table": "empty", "watermark": "w"}, "gives no row; expected at least one"),
    ({"table": "t", "watermark": "W2"}, "no column 'W2' for its watermark; its columns are ['w', 'x']"),
    ({"table": "holes", "watermark": "w"}, "2 of 3 rows have no 'w', its watermark; give them one"),
    ({"query": "SELECT big FROM odd"}, "column 'big' holds 1 values in 1 rows that are no DOUBLE that fits, for example '1"),
    (
        {"query": "SELECT ever FROM odd"},
        "column 'ever' holds 1 values in 1 rows that are no TIMESTAMP that",
    ),
    (
        {"query": "SELECT old FROM odd"},
        "column 'old' holds 1 values in 1 rows that are no DATE that fits",
    ),
]


@pytest.mark.parametrize(("settings", "words"), BAD, ids=[next(iter(words.values())) for words, _ in BAD])
def test_bad_source_is_told_in_one_line(base: Base, proxy: Proxy, settings: dict[str, str], words: str) -> None:
    base.run(
        "CREATE TABLE t AS SELECT 1 AS w, 'a' AS x",
        "CREATE TABLE empty (w int)",
        "CREATE TABLE holes (w int)",
        "INSERT INTO holes VALUES (1), (NULL), (NULL)",
        "CREATE TABLE odd AS SELECT '1e400'::numeric AS big, 'infinity'::timestamp AS ever, '0044-03-15 BC'::date AS old",
        "CREATE SEQUENCE s",
    )
    said = one_line(refusal(source(base.url(proxy.port), **settings)))
    assert words in said
    assert "anna" not in said
    assert proxy.connections <= 2  # nothing of this is tried again; one more to list the tables


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysterious://h/b", "SQLAlchemy has no dialect 'mysterious'; PostgreSQL is postgresql+psycopg"),
        ("postgresql://h/b", "postgresql needs the package 'psycopg2', which is not installed"),
        ("postgresql+asyncpg://h/b", "asyn"),
        ("nothing at all", "its url is none; expected for example postgresql+psycopg://user@host/base"),
        ("sqlite:///absent.db", "no database 'absent.db'"),
    ],
)
def test_url_that_leads_nowhere_is_refused(url: str, words: str) -> None:
    assert words in one_line(refusal(source(url, table="t")))


def test_wrong_password_is_told_at_once_and_not_shown(base: Base, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "not-the-word-8852")
    said = one_line(refusal(source(base.url(proxy.port), table="t")))
    assert 'password authentication failed for user "tide"' in said
    assert "not-the-word-8852" not in said
    assert proxy.connections == 1
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(ParamsError, match=f"the environment variable {VARIABLE} is not set"):
        look("t", source(base.url(), table="t"), OPEN)


def test_unknown_database_is_told_at_once(base: Base, proxy: Proxy) -> None:
    said = one_line(refusal(source(base.url(proxy.port).replace(base.name, "nobase"), table="t")))
    assert 'database "nobase" does not exist' in said
    assert proxy.connections == 1


def test_statement_that_takes_too_long_is_told(base: Base) -> None:
    of = source(base.url(options="?options=-c%20statement_timeout%3D200"), query="SELECT 1 AS x FROM pg_sleep(9)")
    assert "canceling statement due to statement timeout" in one_line(refusal(of))


def test_server_that_is_down_is_told_after_a_few_attempts(base: Base) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        said = refusal(source(base.url(closed.getsockname()[1]), table="t"))
    assert "the connection to '127.0.0.1' failed" in said
    assert one_line(said).endswith("tried 5 times")


@pytest.mark.slow
def test_server_that_does_not_answer_is_told_in_bounded_time(base: Base) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        said = refusal(source(base.url(silent.getsockname()[1], "?connect_timeout=2"), table="t"))
    assert "timeout" in one_line(said)


# Privacy


def test_personal_column_is_refused_before_a_byte_is_written(base: Base) -> None:
    base.run("CREATE TABLE t AS SELECT 1 AS w, 'anna@example.com' AS contact")
    for settings in ({}, {"watermark": "w"}, {"watermark": "contact"}):
        said = refusal(source(base.url(), table="t", **settings))
        assert "column 'contact': its values look like e-mail addresses" in said
        assert "anna" not in said


def test_dropped_column_lands_nowhere_and_pseudonyms_do(base: Base, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "k" * 40)
    base.run(
        "CREATE TABLE t AS SELECT 1 AS w, 'anna@example.com' AS contact, 'Anna Berg' AS full_name, '1990-05-04'::date AS birthday"
    )
    privacy = Privacy(key="env:KEY", drop=("full_name",), pseudonymise=("contact",), coarsen={"birthday": "year"}, keep=())
    _, table = landed(source(base.url(), table="t", watermark="w"), privacy)
    assert list(table) == ["w", "contact", "birthday"]
    assert table["birthday"] == [date(1990, 1, 1)]
    assert len(table["contact"][0]) == 32
    for path in here.rglob("*"):
        assert not path.is_file() or not any(word in path.read_bytes() for word in (b"anna@", b"Berg", b"1990-05"))
    said = refusal_of_watermark(source(base.url(), table="t", watermark="birthday"), privacy)
    assert "privacy names its watermark 'birthday'" in said


def refusal_of_watermark(of: SqlSource, privacy: Privacy) -> str:
    with pytest.raises(DataError) as refused:
        look("t", of, privacy)
    return str(refused.value)


def test_value_of_a_personal_column_that_does_not_fit_is_not_quoted(base: Base) -> None:
    base.run("CREATE TABLE t AS SELECT 1 AS w, 'infinity'::date AS birthday")
    privacy = Privacy(key=None, drop=(), pseudonymise=(), coarsen={"birthday": "year"}, keep=())
    said = refusal(source(base.url(), table="t"), privacy)
    assert "column 'birthday' holds 1 values" in said
    assert "infinity" not in said


# SQLite


@pytest.fixture
def lite(here: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(here / "t.db", isolation_level=None, check_same_thread=False)) as connection:
        yield connection


def test_sqlite_path_starts_at_the_workspace(
    lite: sqlite3.Connection, here: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lite.execute("CREATE TABLE t AS SELECT 1 AS w")
    of = source("sqlite:///t.db", table="t", watermark="w")
    mark = look("t", of, OPEN)
    (here / "elsewhere").mkdir()
    os.chdir(here / "elsewhere")
    assert look("t", of, OPEN, here) == mark
    assert without_columns(mark) == {"watermark": "1", "rows": 1, "sum": 1}


def test_sqlite_types_are_those_declared_else_those_of_all_values(lite: sqlite3.Connection) -> None:
    lite.execute("CREATE TABLE t (i INTEGER, n DECIMAL(9, 2), d DATE, w DATETIME, y BOOLEAN, b BLOB, bare, hole)")
    lite.execute("INSERT INTO t VALUES (1, 10, '2013-01-01', '2013-01-01T10:00:00+02:00', 1, x'00ff', 1, NULL)")
    lite.execute("INSERT INTO t VALUES (NULL, 10.5, NULL, '2013-01-01 10:00:00.5', 0, NULL, 2.5, NULL)")
    wanted = {
        "i": [1, None],
        "n": [10.0, 10.5],
        "d": [date(2013, 1, 1), None],
        "w": [datetime(2013, 1, 1, 8), datetime(2013, 1, 1, 10, 0, 0, 500000)],
        "y": [True, False],
        "b": ["00FF", None],
        "bare": [1.0, 2.5],
        "hole": [None, None],
    }
    assert landed(source("sqlite:///t.db", table="t"))[1] == wanted
    _, table = landed(source("sqlite:///t.db", query="SELECT t.*, coalesce(i, 0.5) AS c, ':x' AS s, count(*) OVER () AS k FROM t;"))
    assert table == {**wanted, "c": [1.0, 0.5], "s": [":x", ":x"], "k": [2, 2]}


def test_sqlite_batches_are_bounded_in_bytes(lite: sqlite3.Connection) -> None:
    lite.execute("CREATE TABLE t (w INTEGER, x TEXT)")
    widths = [*[10] * 30_000, *[400_000] * 100, *[10] * 1000]
    lite.execute("BEGIN")
    lite.executemany("INSERT INTO t VALUES (?, ?)", [(i, "x" * width) for i, width in enumerate(widths)])
    lite.execute("COMMIT")
    of = source("sqlite:///t.db", table="t", watermark="w")
    with database.connected("t", of, Path()) as connection:
        found = cells.cells_of("t", of, connection)
        batches = list(found.batches(sa.select(sa.column("w"), sa.column("x")).select_from(found.rows)))
    assert [value for batch in batches for value in batch.column("w").to_pylist()] == [str(i) for i in range(len(widths))]
    assert max(batch.num_rows for batch in batches) <= cells.ROWS
    assert max(batch.nbytes for batch in batches) < cells.BYTES + cells.STEP * 400_000 + (1 << 20)
    assert sorted(batch.nbytes for batch in batches)[-2] < cells.BYTES + 500_000 + (1 << 20)
    assert len(batches) < 12
    assert len(landed(of)[1]["w"]) == len(widths)


def test_sqlite_dates_with_a_time_of_day_keep_it(lite: sqlite3.Connection) -> None:
    lite.execute("CREATE TABLE t (w INTEGER, d DATE, m DATE)")
    lite.execute("INSERT INTO t VALUES (1, '2020-01-01', '2020-01-01 00:00:00'), (2, NULL, '2020-01-02T00:00:00.000Z')")
    of = source("sqlite:///t.db", table="t", watermark="w")
    days = [date(2020, 1, 1), date(2020, 1, 2)]
    assert landed(of)[1] == {"w": [1, 2], "d": [days[0], None], "m": days}
    lite.execute("INSERT INTO t VALUES (3, '2020-01-01 23:00:00', '2020-01-03')")
    _, table = landed(of)
    assert table["d"] == [datetime(2020, 1, 1), None, datetime(2020, 1, 1, 23)]
    assert table["m"] == [*days, date(2020, 1, 3)]
    assert landed(source("sqlite:///t.db", query="SELECT d FROM t"))[1]["d"] == table["d"]


def test_sqlite_decimals_that_no_double_keeps_are_told(lite: sqlite3.Connection, caplog: pytest.LogCaptureFixture) -> None:
    lite.execute("CREATE TABLE t (n DECIMAL(20, 0), p DECIMAL(9, 2))")
    lite.execute("INSERT INTO t VALUES (9007199254740993, 0.1 + 0.2)")
    landed(source("sqlite:///t.db", table="t"))
    assert "column 'n' holds decimals of more than 15 digits, for example '9007199254740993'" in caplog.text
    assert "'p'" not in caplog.text


@pytest.mark.parametrize("kind", ["INTEGER", "REAL", "DATETIME", "TEXT"])
def test_sqlite_watermark_lets_only_new_rows_be_read(lite: sqlite3.Connection, kind: str) -> None:
    values = {"INTEGER": "{}", "REAL": "{}.5", "DATETIME": "'2013-01-{} 10:00:00'", "TEXT": "'a{}'"}[kind]
    lite.execute(f"CREATE TABLE t (w {kind}, i INTEGER)")
    of = source("sqlite:///t.db", table="t", watermark="w")
    for first, last in ((10, 14), (14, 18)):
        for i in range(first, last):
            lite.execute(f"INSERT INTO t VALUES ({values.format(i)}, {i})")
        mark = look("t", of, OPEN)
        paths = land("t", of, OPEN, mark)
    assert len(paths) == 2
    assert rows(paths)["i"] == list(range(10, 18))


def test_sqlite_row_that_came_late_for_one_that_went_makes_all_be_read_again(lite: sqlite3.Connection) -> None:
    lite.execute("CREATE TABLE t (w INTEGER)")
    lite.executemany("INSERT INTO t VALUES (?)", [(value,) for value in (-9, 2, 5, 2**62, 2**63 - 1)])
    of = source("sqlite:///t.db", table="t", watermark="w")
    landed(of)
    lite.execute("UPDATE t SET w = 3 WHERE w = 2")
    assert landed(of)[1] == {"w": [-9, 3, 5, 2**62, 2**63 - 1]}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"table": "absent"}, "no such table: absent; the database has the tables ['t']"),
        ({"query": "SELECT * FROM absent"}, "no such table: absent; the database has the tables ['t']"),
        ({"query": "SELEC"}, 'sqlite says: near "SELEC": syntax error'),
        ({"query": "SELECT i FROM t"}, "column 'i' is declared of integers and holds others; CAST it in a query"),
        ({"query": "SELECT d FROM t"}, "column 'd' holds 1 values in 1 rows that are no DATE that fits, for example 'soon'"),
        ({"table": "t", "watermark": "x"}, "no column 'x' for its watermark; its columns are ['i', 'd']"),
    ],
)
def test_bad_sqlite_source_is_told_in_one_line(lite: sqlite3.Connection, settings: dict[str, str], words: str) -> None:
    lite.execute("CREATE TABLE t (i INTEGER, d DATE)")
    lite.execute("INSERT INTO t VALUES (1.5, 'soon')")
    assert words in one_line(refusal(source("sqlite:///t.db", **settings)))


def test_file_that_is_no_sqlite_database_is_told(here: Path) -> None:
    (here / "t.db").write_bytes(b"id,word\n" * 500)
    assert "sqlite says: file is not a database" in one_line(refusal(source("sqlite:///t.db", table="t")))


def test_locked_sqlite_is_waited_for(lite: sqlite3.Connection) -> None:
    lite.execute("CREATE TABLE t AS SELECT 1 AS w")
    of = source("sqlite:///t.db?timeout=0", table="t")
    lite.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(0.3, lite.execute, ["COMMIT"])
    release.start()
    assert landed(of)[1] == {"w": [1]}
    release.join()


def test_sqlite_that_stays_locked_is_told(lite: sqlite3.Connection) -> None:
    lite.execute("CREATE TABLE t AS SELECT 1 AS w")
    lite.execute("BEGIN EXCLUSIVE")
    said = one_line(refusal(source("sqlite:///t.db?timeout=0", table="t")))
    assert "database is locked; tried 5 times" in said

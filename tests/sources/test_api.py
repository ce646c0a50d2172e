"""Rows from an API: what lands of them, what a second look asks for, what a kill costs, and what never touches the disk."""

import hmac
import io
import logging
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks.core.errors import DataError
from tasks.core.privacy import Guard
from tasks.params import ApiSource, Page, Params, Privacy, Since, read_yaml
from tasks.poll import update_lock
from tasks.shards import read_parquet
from tasks.sources import api, fetched, paging, protect, records
from tasks.sources.land import land, look
from tasks.sources.lock import Mark, read_lock
from tasks.sources.store import Store
from tests.conftest import ROOT
from tests.sources.api_server import Api, Asked, Reply, by_cursor, by_number

OPEN = Guard()  # no column is protected
NUMBERED = Page(by="number", parameter="page", size_parameter="size", size=3)
NEW = Since(column="at", parameter="since")
pytestmark = pytest.mark.usefixtures("short_waits")
ROWS: list[dict[str, Any]] = [{"id": i, "word": f"w{i}", "at": f"2024-01-01T10:00:{i:02d}Z"} for i in range(10)]


class Table:
    """What an API tells of: rows by `page`, those from or after `since` if that is given."""

    def __init__(self, rows: list[dict[str, Any]], inclusive: bool = True) -> None:
        self.rows, self.inclusive = list(rows), inclusive

    def __call__(self, asked: Asked) -> Reply:
        since = asked.query.get("since", "")
        rows = [row for row in self.rows if str(row["at"]) > since or (self.inclusive and str(row["at"]) == since)]
        return by_number(rows, 3)(asked)


def source(server: Api, page: Page | None = NUMBERED, **more: Any) -> ApiSource:
    return ApiSource(kind="api", url=server.url, rows="items", page=page, **more)


def store() -> Store:
    return Store(Path("store"))


def stored() -> list[dict[str, Any]]:
    rows = [row for path in store().paths for row in read_parquet(path).to_pylist()]
    return sorted(rows, key=lambda row: str(row.get("id")).zfill(5))


def words(rows: list[dict[str, Any]]) -> list[tuple[int, str]]:
    return sorted((row["id"], row["word"]) for row in rows)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# What lands


@pytest.mark.parametrize("by", ["none", "number", "offset", "cursor", "link", "link in the page"])
def test_every_way_of_paging_lands_every_row_once(server: Api, by: str) -> None:
    def offset(asked: Asked) -> Reply:
        start = int(asked.query.get("from", "0"))
        return Reply({"items": ROWS[start : start + 4]})

    def link(asked: Asked) -> Reply:
        reply = by_number(ROWS, 4)(asked)
        number = int(asked.query.get("page", "1"))
        return Reply(reply.body, headers={"Link": f'</rows?page={number + 1}>; rel="next"'} if number < 3 else {})

    def inside(asked: Asked) -> Reply:
        reply = by_number(ROWS, 4)(asked)
        number = int(asked.query.get("page", "1"))
        return Reply({**reply.body, "next": f"{server.url}?page={number + 1}" if number < 3 else None})

    page, server.answer = {
        "none": (None, lambda asked: Reply({"items": ROWS})),
        "number": (Page(by="number", parameter="page"), by_number(ROWS, 4)),
        "offset": (Page(by="offset", parameter="from"), offset),
        "cursor": (Page(by="cursor", parameter="after", next="meta.next"), by_cursor(ROWS, 4)),
        "link": (Page(by="link"), link),
        "link in the page": (Page(by="link", next="next"), inside),
    }[by]
    mark = api.look("orders", source(server, page, query={"kind": "all"}), OPEN, store())
    assert mark["rows"] == 10
    assert words(stored()) == words(ROWS)
    assert server.queries("kind") == ["all"] * len(server.asked)


def test_answer_that_is_itself_the_list_and_null_for_an_empty_one_are_read(server: Api) -> None:
    server.answer = lambda asked: Reply(ROWS)
    flat = ApiSource(kind="api", url=server.url, rows="")
    assert api.look("orders", flat, OPEN, store())["rows"] == 10
    server.answer = lambda asked: Reply({"data": {"items": ROWS if asked.query["page"] == "1" else None}})
    deep = ApiSource(kind="api", url=server.url, rows="data.items", page=Page(by="number", parameter="page"))
    assert api.look("orders", deep, OPEN, Store(Path("other")))["rows"] == 10


@pytest.mark.parametrize(("header", "name", "value"), [(None, "authorization", "Bearer t0ken"), ("X-Key", "x-key", "t0ken")])
def test_token_is_sent_as_the_source_says(
    server: Api, monkeypatch: pytest.MonkeyPatch, header: str | None, name: str, value: str
) -> None:
    monkeypatch.setenv("API_TOKEN", "t0ken")
    server.answer = by_number(ROWS, 3)
    api.look("orders", source(server, token="env:API_TOKEN", header=header), OPEN, store())
    assert {asked.headers[name] for asked in server.asked} == {value}


def test_values_land_in_the_common_types(server: Api) -> None:
    first = {
        "id": 1,
        "number": 1,
        "big": 2**63 - 1,
        "bigger": 5,
        "day": "2024-01-31",
        "when": "2024-01-31T10:00:00+02:00",
        "mixed": 1,
        "text": "é\u0000\ud800",
        "flag": True,
        "user": {"kind": "a", "more": {"x": [1]}},
        "list": [1, {"a": None}],
        "none": None,
        "gone": "NA",
        "uuid": "6BA7B810-9dad-11d1-80b4-00c04fd430c8",
    }
    second = {
        "id": 2,
        "number": 2.5,
        "big": -5,
        "bigger": 2**70,
        "day": None,
        "when": "2024-01-31T10:00:00Z",
        "mixed": "x",
        "text": "",
        "flag": False,
        "user": None,
        "gone": -1,
        "late": 3,
    }
    server.answer = by_number([first, second], 1)
    api.look("orders", source(server, Page(by="number", parameter="page"), missing=("NA", "-1")), OPEN, store())
    one, two = stored()
    assert one == {
        "id": 1,
        "number": 1.0,
        "big": 2**63 - 1,
        "bigger": "5",
        "day": date(2024, 1, 31),
        "when": datetime(2024, 1, 31, 8),
        "mixed": "1",
        "text": "é\u0000\ufffd",
        "flag": True,
        "user_kind": "a",
        "user_more": '{"x":[1]}',
        "list": '[1,{"a":null}]',
        "none": None,
        "gone": None,
        "uuid": "6BA7B810-9dad-11d1-80b4-00c04fd430c8",
        "late": None,
    }
    assert (two["number"], two["bigger"], two["mixed"], two["text"], two["gone"], two["late"]) == (
        2.5,
        str(2**70),
        "x",
        None,
        None,
        3,
    )


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (["2024-01-31", None], [date(2024, 1, 31), None]),
        (["2024-01-31T10:00:00.25", "2024-01-31 10:00"], [datetime(2024, 1, 31, 10, 0, 0, 250000), datetime(2024, 1, 31, 10)]),
        (["2024-01-31T10:00:00Z", "2024-01-31"], [datetime(2024, 1, 31, 10), datetime(2024, 1, 31)]),
        (["2024-01-31T10:00:00+0200", "2024-01-31T10:00Z"], [datetime(2024, 1, 31, 8), datetime(2024, 1, 31, 10)]),
        *(
            (texts, texts)
            for texts in [
                ["24-01-15", "24-01-16"],
                ["100-10-10", "100-10-11"],
                ["13-02-2013", "14-02-2013"],
                ["13/02/2013", "02/13/2013"],
                ["01.02.2013", "02.02.2013"],
                ["2013-02-30", "2013-02-28"],
                ["2013-02-28", "soon"],
                ["10:00:00", "11:00:00"],
                ["1", "2"],
                ["20240131", "20240201"],
                ["infinity", "epoch"],
            ]
        ),
    ],
    ids=str,
)
def test_text_is_a_date_or_time_only_where_all_of_it_is_iso(server: Api, values: list[Any], wanted: list[Any]) -> None:
    server.answer = lambda asked: Reply({"items": [{"id": i, "d": value} for i, value in enumerate(values)]})
    api.look("orders", source(server, None), OPEN, store())
    assert [row["d"] for row in stored()] == wanted


def test_type_is_read_from_the_last_of_many_pages_too(server: Api) -> None:
    server.answer = by_number([{"id": i, "n": 1 if i < 59 else "far"} for i in range(60)], 1)
    api.look("orders", source(server, Page(by="number", parameter="page")), OPEN, store())
    assert {row["n"] for row in stored()} == {"1", "far"}


def test_folder_whose_name_means_something_to_the_database_is_a_folder(server: Api) -> None:
    server.answer = table = Table(ROWS[:6])
    odd = Path("year=2024/[a]*?'")
    api.look("orders", source(server, watermark=NEW), OPEN, Store(odd))
    table.rows = list(ROWS)
    api.look("orders", source(server, watermark=NEW), OPEN, Store(odd))
    rows = [row for path in Store(odd).paths for row in read_parquet(path).to_pylist()]
    assert words(rows) == words(ROWS)
    assert set(rows[0]) == {"id", "word", "at"}


@pytest.mark.parametrize("rows", [[{"Id": 1, "id": 2}], [{"a_b": 1, "a": {"b": 2}}]])
def test_fields_that_no_table_can_hold_side_by_side_are_refused(server: Api, rows: list[dict[str, Any]]) -> None:
    server.answer = lambda asked: Reply({"items": rows})
    with pytest.raises(DataError, match="fields"):
        api.look("orders", source(server, None), OPEN, store())
    assert store().parts == []


# Looks, marks and the lock


def test_look_without_news_leaves_mark_and_store_as_they_were(server: Api) -> None:
    server.answer = by_number(ROWS, 3)
    mark = api.look("orders", source(server), OPEN, store())
    before = bytes_of(Path("store"))
    server.answer = by_number(list(reversed(ROWS)), 3)
    assert api.look("orders", source(server), OPEN, store()) == mark
    assert bytes_of(Path("store")) == before


def test_look_with_news_replaces_what_landed(server: Api) -> None:
    server.answer = by_number(ROWS, 3)
    mark = api.look("orders", source(server), OPEN, store())
    server.answer = by_number([*ROWS[1:], {**ROWS[0], "word": "changed"}], 3)
    assert api.look("orders", source(server), OPEN, store()) != mark
    assert words(stored()) == words([*ROWS[1:], {**ROWS[0], "word": "changed"}])


def test_landing_what_the_store_holds_asks_for_nothing(server: Api) -> None:
    server.answer = by_number(ROWS, 3)
    mark = api.look("orders", source(server), OPEN, store())
    server.asked.clear()
    api.land("orders", source(server), mark, OPEN, store())
    assert server.asked == []


def test_landing_in_a_fresh_clone_fetches_what_is_locked_or_refuses(server: Api) -> None:
    server.answer = by_number(ROWS, 3)
    mark = api.look("orders", source(server), OPEN, store())
    api.land("orders", source(server), mark, OPEN, Store(Path("clone")))
    assert words([row for path in Store(Path("clone")).paths for row in read_parquet(path).to_pylist()]) == words(ROWS)
    server.answer = by_number(ROWS[1:], 3)
    with pytest.raises(DataError, match="is not what sources"):
        api.land("orders", source(server), mark, OPEN, Store(Path("other")))
    assert Store(Path("other")).parts == []
    with pytest.raises(DataError, match="locked None"):
        api.land("orders", source(server), {}, OPEN, Store(Path("third")))


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("key", ["id", None])
def test_watermark_asks_for_what_is_new_and_appends_it_once(server: Api, inclusive: bool, key: str | None) -> None:
    server.answer = table = Table(ROWS[:6], inclusive)
    of = source(server, key=key, watermark=NEW)
    first = api.look("orders", of, OPEN, store())
    assert first["watermark"] == "2024-01-01T10:00:05Z"
    before = bytes_of(Path("store"))
    assert api.look("orders", of, OPEN, store()) == first
    assert bytes_of(Path("store")) == before

    table.rows = list(ROWS)
    server.asked.clear()
    second = api.look("orders", of, OPEN, store())
    assert set(server.queries("since")) == {"2024-01-01T10:00:05Z"}
    assert (second["rows"], second["watermark"], len(store().parts)) == (10, "2024-01-01T10:00:09Z", 2)
    assert words(stored()) == words(ROWS)
    assert api.look("orders", of, OPEN, store()) == second
    assert len(store().parts) == 2


@pytest.mark.parametrize("key", ["id", None])
def test_new_rows_with_the_last_watermark_are_not_lost(server: Api, key: str | None) -> None:
    server.answer = table = Table(ROWS[:6])
    of = source(server, key=key, watermark=NEW)
    api.look("orders", of, OPEN, store())
    table.rows = [*ROWS[:6], {"id": 77, "word": "same moment", "at": ROWS[5]["at"]}]
    assert api.look("orders", of, OPEN, store())["rows"] == 7
    assert words(stored()) == words(table.rows)
    assert api.look("orders", of, OPEN, store())["rows"] == 7


def test_rows_before_the_last_watermark_are_dropped_when_the_server_sends_them(server: Api) -> None:
    server.answer = table = Table(ROWS[:6])
    of = source(server, watermark=NEW)
    mark = api.look("orders", of, OPEN, store())
    server.answer = by_number([*table.rows, {"id": 50, "word": "late", "at": "2024-01-01T09:00:00Z"}], 3)
    assert api.look("orders", of, OPEN, store()) == mark
    assert words(stored()) == words(ROWS[:6])


def test_row_that_comes_again_with_a_later_watermark_replaces_the_one_before(server: Api) -> None:
    server.answer = table = Table(ROWS)
    of = source(server, key="id", watermark=NEW)
    api.look("orders", of, OPEN, store())
    table.rows = [
        *ROWS[1:],
        {"id": 0, "word": "changed", "at": "2024-01-01T11:00:00Z"},
        {"id": 10, "word": "x", "at": "2024-01-01T11:00:00Z"},
    ]
    mark = api.look("orders", of, OPEN, store())
    assert mark["rows"] == 11
    assert words(stored()) == words(table.rows)
    api.land("orders", of, mark, OPEN, Store(Path("clone")))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"x": 1}, {"x": 2.5}),
        ({"x": 1.5}, {"x": 2}),
        ({"x": None}, {"x": 2}),
        ({"x": None}, {"x": "a"}),
        ({"x": 1}, {"x": None}),
        ({"x": 1}, {"y": 2}),
        ({"x": 1}, {}),
        ({"x": "a"}, {"x": "2024-01-01"}),
        ({"x": "a"}, {"x": 1}),
        ({"x": "2024-01-01"}, {"x": "a"}),
        ({"x": "2024-01-01T00:00:00Z"}, {"x": "a"}),
        ({"x": True}, {"x": 1}),
        ({"x": "2024-01-01"}, {"x": "2024-01-01T10:00:00"}),
        ({"x": "2024-01-01T10:00:00"}, {"x": "2024-01-01"}),
        ({"x": "2024-01-01T10:00:00+02:00"}, {"x": "2024-01-01T10:00:00"}),
        ({"x": "24-01-15"}, {"x": "2024-01-15"}),
        ({"x": "2024-01-15"}, {"x": "24-01-15"}),
    ],
)
def test_parts_that_land_one_by_one_equal_what_lands_at_once(server: Api, old: dict[str, Any], new: dict[str, Any]) -> None:
    rows = [{**row, **(old if row["id"] < 6 else new)} for row in ROWS]
    server.answer = table = Table(rows[:6])
    of = source(server, watermark=NEW)
    api.look("orders", of, OPEN, store())
    table.rows = rows
    mark = api.look("orders", of, OPEN, store())
    assert api.look("orders", of, OPEN, Store(Path("fresh"))) == mark
    fresh = [row for path in Store(Path("fresh")).paths for row in read_parquet(path).to_pylist()]
    assert stored() == sorted(fresh, key=lambda row: row["id"])
    api.land("orders", of, mark, OPEN, Store(Path("clone")))


def test_landing_an_earlier_lock_drops_what_came_later_and_a_fresh_clone_stops_at_its_watermark(server: Api) -> None:
    server.answer = table = Table(ROWS[:6])
    of = source(server, watermark=NEW)
    first = api.look("orders", of, OPEN, store())
    table.rows = list(ROWS)
    api.look("orders", of, OPEN, store())
    api.land("orders", of, first, OPEN, store())
    assert words(stored()) == words(ROWS[:6])
    api.land("orders", of, first, OPEN, Store(Path("clone")))
    assert Store(Path("clone")).rows == 6


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ("9", "10"),
        ("-2", "1.5"),
        ("2024-01-01T23:30:00+02:00", "2024-01-01T22:00:00Z"),
        ("2024-01-01", "2024-01-01T00:00:01"),
        ("a", "b"),
    ],
)
def test_watermarks_are_ordered_as_numbers_instants_or_letters(small: str, large: str) -> None:
    assert records.is_after("orders", large, small)
    assert not records.is_after("orders", small, large)
    assert not records.is_after("orders", small, small)


@pytest.mark.parametrize(("value", "said"), [(None, "a row has no value in 'at', its watermark"), (5, "a number in one row")])
def test_watermark_that_orders_no_rows_is_refused(server: Api, value: Any, said: str) -> None:
    server.answer = lambda asked: Reply({"items": [ROWS[0], {"id": 1, "at": value}]})
    with pytest.raises(DataError, match=said):
        api.look("orders", source(server, None, watermark=NEW), OPEN, store())


# Kills

CHILD = """
import os, sys
from pathlib import Path
from tasks.core.privacy import Guard
from tasks.params import ApiSource
from tasks.sources import api
from tasks.sources.store import Store
renames, rename = 0, Path.replace
def dying(self, target):
    global renames
    renames += 1
    if renames == int(sys.argv[2]):
        os.kill(os.getpid(), 9)
    return rename(self, target)
Path.replace = dying
guard = Guard(drop=frozenset({"name"}), pseudonymise=frozenset({"mail"}), key=b"key")
api.look("orders", ApiSource.model_validate_json(sys.argv[1]), guard, Store(Path("store")))
"""
GUARD = Guard(drop=frozenset({"name"}), pseudonymise=frozenset({"mail"}), key=b"key")


def look_and_die(of: ApiSource, rename: int = 0) -> subprocess.Popen[bytes]:
    """A process that looks, and kills itself in place of its so-manieth rename."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", CHILD, of.model_dump_json(), str(rename)], env=environment)


def people(count: int) -> list[dict[str, Any]]:
    return [{**row, "name": f"Ann Smith-{row['id']}", "mail": f"ann{row['id']}@example.org"} for row in ROWS[:count]]


def no_original_is_on_disk(folder: Path) -> bool:
    return not any(b"Ann Smith" in content or b"@example.org" in content for content in bytes_of(folder).values())


@pytest.mark.parametrize("page", ["1", "3", "4"])
def test_run_killed_between_pages_goes_on_after_the_last_whole_one(server: Api, page: str, tmp_path: Path) -> None:
    child: list[subprocess.Popen[bytes]] = []
    good = by_number(people(10), 3)

    def killing(asked: Asked) -> Reply:
        if asked.query["page"] == page:
            child[0].send_signal(signal.SIGKILL)
        return good(asked)

    server.answer = killing
    child.append(look_and_die(source(server)))
    assert child[0].wait(timeout=60) == -signal.SIGKILL
    assert no_original_is_on_disk(tmp_path)
    server.answer = good
    assert api.look("orders", source(server), GUARD, store())["rows"] == 10
    assert server.queries("page") == sorted([*"12344556", page])
    assert words(stored()) == words(ROWS)
    assert no_original_is_on_disk(tmp_path)


@pytest.mark.parametrize("rename", [1, 2, 3, 7, 8, 9, 10, 11])
def test_run_killed_before_any_rename_ends_as_if_it_had_not_been(server: Api, rename: int, tmp_path: Path) -> None:
    server.answer = table = Table(people(6))
    of = source(server, key="id", watermark=NEW)
    api.look("orders", of, GUARD, store())
    # Ten new rows of four pages, of which one replaces a row: the store's one part gives way to another.
    table.rows = [*people(10)[1:], {**people(1)[0], "word": "changed", "at": "2024-01-01T11:00:00Z"}]
    killed = look_and_die(of, rename).wait(timeout=60) == -signal.SIGKILL
    assert killed
    assert no_original_is_on_disk(tmp_path)
    mark = api.look("orders", of, GUARD, store())
    assert words(stored()) == words(table.rows)
    assert api.look("orders", of, GUARD, Store(Path("fresh"))) == mark


def test_part_that_a_kill_left_beside_the_one_that_replaces_it_is_gone(server: Api) -> None:
    server.answer = by_number(ROWS, 3)
    api.look("orders", source(server), OPEN, store())
    left = store()
    with left.adding('{"content": "of another time", "rows": 10}') as aside:
        aside.write_bytes(left.paths[0].read_bytes())
    assert len(store().parts) == 2
    api.look("orders", source(server), OPEN, store())
    assert len(store().parts) == 1
    assert words(stored()) == words(ROWS)


def test_pages_of_an_hour_ago_or_of_another_question_are_not_gone_on_from(server: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    good = by_number(ROWS, 3)
    server.answer = lambda asked: Reply(status=400) if asked.query["page"] == "3" else good(asked)
    for since in (3600.0, 0.0):
        monkeypatch.setattr(fetched, "FRESH_SECONDS", since)
        server.asked.clear()
        with pytest.raises(DataError):
            api.look("orders", source(server), OPEN, store())
        assert server.queries("page") == ["1", "2", "3"]


def test_pages_of_another_span_are_not_gone_on_from() -> None:
    sheet = paging.Sheet(place=1, next=2, is_last=False, digest="", count=1)
    fetched.Fetched(Path("pages"), fetched.Span()).add(sheet, [{"id": 1}], None)
    assert fetched.Fetched(Path("pages"), fetched.Span()).rows == 1
    assert fetched.Fetched(Path("pages"), fetched.Span(since="2024")).rows == 0


# Personal columns


def test_protected_columns_never_touch_the_disk_and_equal_those_of_other_sources(server: Api, tmp_path: Path) -> None:
    rows = [
        {**row, "phone": 15551230000 + row["id"], "share": row["id"] / 4, "born": f"19{50 + row['id']}-07-15", "zip": "8000123"}
        for row in people(10)
    ]
    guard = Guard(
        drop=frozenset({"name"}),
        pseudonymise=frozenset({"mail", "phone", "share"}),
        coarsen=(("born", "year"), ("zip", 2)),
        key=b"k" * 80,
    )
    server.answer = by_number(rows, 3)
    api.look("orders", source(server, key="mail"), guard, store())
    found = [row for path in store().paths for row in read_parquet(path).to_pylist()]

    with api.engine.connect() as db:
        values = ", ".join(
            f"({r['id']}, '{r['word']}', TIMESTAMP '{r['at']}', '{r['name']}', '{r['mail']}', "
            f"{r['phone']}, CAST({r['share']} AS DOUBLE), DATE '{r['born']}', '{r['zip']}')"
            for r in rows
        )
        relation = db.sql(f'FROM (VALUES {values}) t(id, word, "at", name, mail, phone, share, born, zip)')
        protect.write(db, relation, Path("other.parquet"), guard)
    other = read_parquet(Path("other.parquet"))
    assert sorted(found, key=lambda row: row["id"]) == other.to_pylist()
    assert found[0]["mail"] in {hmac.new(b"k" * 80, row["mail"].encode(), "sha256").hexdigest()[:32] for row in rows}
    assert no_original_is_on_disk(tmp_path)


@pytest.mark.parametrize("value", [1.0, 0.1, -0.0, 1e16, 1e-7, 123456789.125, 5e-324, 7, -3, True, False])
def test_text_of_a_value_is_that_of_the_database(value: Any) -> None:
    with api.engine.connect() as db:
        assert db.execute("SELECT CAST(? AS VARCHAR)", [value]).fetchall() == [(records.text_of(value),)]


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"mail": "ann@example.org"}, "mail"),
        ({"customer_name": "x"}, "customer_name"),
        ({"user": {"contact": "ann@example.org"}}, "user_contact"),
        ({"user": {"more": {"contacts": [{"is": "ann@example.org"}]}}}, "user_more"),
        ({"seen_from": ["10.0.0.1", "10.0.0.2"]}, "seen_from"),
    ],
)
def test_personal_columns_stop_the_first_page_before_it_is_written(
    server: Api, tmp_path: Path, row: dict[str, Any], column: str
) -> None:
    server.answer = by_number([row] * 10, 3)
    with pytest.raises(DataError, match=rf"look personal(.|\n)*column '{column}'"):
        api.look("orders", source(server), OPEN, store())
    assert len(server.asked) == 1
    assert not any(b"example" in content or b"10.0" in content for content in bytes_of(tmp_path).values())


def test_personal_columns_of_a_later_page_stop_there(server: Api, tmp_path: Path) -> None:
    server.answer = by_number([*ROWS[:3], *({**row, "word": f"ann{row['id']}@example.org"} for row in ROWS[3:])], 3)
    with pytest.raises(DataError, match="column 'word': its values look like e-mail addresses"):
        api.look("orders", source(server), OPEN, store())
    assert no_original_is_on_disk(tmp_path)


def test_object_is_dropped_or_pseudonymised_whole_under_its_own_name(server: Api, tmp_path: Path) -> None:
    server.answer = lambda asked: Reply({"items": [{"id": 1, "user": {"name": "Ann Smith"}, "buyer": {"mail": "a@example.org"}}]})
    api.look("orders", source(server, None), Guard(drop=frozenset({"user"}), pseudonymise=frozenset({"buyer"}), key=b"k"), store())
    expected = hmac.new(b"k", b'{"mail":"a@example.org"}', "sha256").hexdigest()[:32]
    assert stored() == [{"id": 1, "buyer": expected}]
    assert no_original_is_on_disk(tmp_path)


def test_date_to_coarsen_that_is_none_is_refused_without_its_value(server: Api) -> None:
    server.answer = lambda asked: Reply({"items": [{"id": 1, "born": "last summer"}]})
    with pytest.raises(DataError, match="holds what is no date") as refused:
        api.look("orders", source(server, None), Guard(coarsen=(("born", "year"),)), store())
    assert "summer" not in str(refused.value)


def test_privacy_that_takes_key_or_watermark_away_is_refused_before_the_first_request(server: Api) -> None:
    with pytest.raises(DataError, match="takes away its key 'id'"):
        api.look("orders", source(server, key="id"), Guard(drop=frozenset({"id"})), store())
    with pytest.raises(DataError, match="takes away its watermark 'at'"):
        api.look("orders", source(server, watermark=NEW), Guard(pseudonymise=frozenset({"at"}), key=b"k"), store())
    assert server.asked == []


def test_source_read_in_another_way_lands_anew(server: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSEUDONYMS", "key")
    server.answer = by_number(people(10), 3)
    dropped = Privacy(key=None, drop=("name", "mail"), pseudonymise=(), coarsen={}, keep=())
    hashed = Privacy(key="env:PSEUDONYMS", drop=("name",), pseudonymise=("orders.mail",), coarsen={}, keep=())
    first = look("orders", source(server), dropped)
    second = look("orders", source(server), hashed)
    assert first != second
    (path,) = land("orders", source(server), hashed, second)
    assert set(read_parquet(path).column_names) == {"id", "word", "at", "mail"}


# The poll and the stage


def workspace(server: Api, path: Path) -> None:
    """A workspace whose table is the API's rows."""
    content = read_yaml((ROOT / "params.yaml").read_text())
    content["sources"] = {
        "orders": {
            "kind": "api",
            "url": server.url,
            "rows": "items",
            "page": {"by": "number", "parameter": "page"},
            "key": "id",
            "watermark": {"column": "at", "parameter": "since"},
        }
    }
    content["table"] |= {"query": 'SELECT "at" AS time, id % 2 AS late, * FROM orders', "numbers": ["id"], "categories": ["word"]}
    content["table"] |= {"slices": [], "outcomes": [], "time": "time", "target": "late", "classes": [0, 1]}
    content["validate"] |= {"rules": []}
    text = io.StringIO()
    YAML().dump(content, text)
    (path / "params.yaml").write_text(text.getvalue())
    Params.load(path / "params.yaml")


def ingest(path: Path) -> tuple[subprocess.CompletedProcess[str], dict[str, Mark]]:
    command = [
        "-m",
        "tasks.ingest",
        "--lock",
        "sources.lock",
        "--raw",
        "data/raw",
        "--sets",
        "data/sets",
        "--snapshot",
        "data/s.json",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *command], cwd=path, env=environment, capture_output=True, text=True, timeout=120)
    return done, read_lock(path / "sources.lock")


def test_poll_and_ingest_append_new_rows_exactly_once(server: Api, tmp_path: Path) -> None:
    server.answer = table = Table(ROWS[:6])
    workspace(server, tmp_path)
    assert update_lock(tmp_path, logging.getLogger("tests")) == ["source 'orders' is new"]
    locked = (tmp_path / "sources.lock").read_bytes()
    assert update_lock(tmp_path, logging.getLogger("tests")) == []
    assert (tmp_path / "sources.lock").read_bytes() == locked
    server.asked.clear()
    done, _ = ingest(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "orders: 6 rows" in done.stdout
    assert server.asked == []

    table.rows = list(ROWS)
    (moved,) = update_lock(tmp_path, logging.getLogger("tests"))
    assert "rows 6 -> 10" in moved
    done, lock = ingest(tmp_path)
    assert done.returncode == 0, done.stderr
    assert lock["orders"]["rows"] == 10
    rows = [row for path in sorted((tmp_path / "data/raw").glob("*.parquet")) for row in read_parquet(path).to_pylist()]
    assert words(rows) == words(ROWS)
    # A fresh clone: nothing but what git keeps, and the API.
    raw = bytes_of(tmp_path / "data/raw")
    fresh = tmp_path / "clone"
    fresh.mkdir()
    for name in ("params.yaml", "sources.lock"):
        (fresh / name).write_bytes((tmp_path / name).read_bytes())
    table.rows = [*ROWS, {"id": 99, "word": "later", "at": "2025-01-01T00:00:00Z"}]
    done, _ = ingest(fresh)
    assert done.returncode == 0, done.stderr
    assert list(bytes_of(fresh / "data/raw").values()) == list(raw.values())


def test_two_ingests_at_once_both_give_the_whole_table(server: Api, tmp_path: Path) -> None:
    server.answer = table = Table(ROWS)
    workspace(server, tmp_path)
    update_lock(tmp_path, logging.getLogger("tests"))
    shutil.rmtree(tmp_path / ".cache")
    server.answer = lambda asked: replace(table(asked), delay=0.2)
    with ThreadPoolExecutor(2) as pool:
        done = [future.result()[0] for future in [pool.submit(ingest, tmp_path) for _ in range(2)]]
    assert [(one.returncode, one.stderr) for one in done] == [(0, "")] * 2
    assert sum("another process lands this workspace's sources: waits for it" in one.stdout for one in done) == 1
    rows = [row for path in sorted((tmp_path / "data/raw").glob("*.parquet")) for row in read_parquet(path).to_pylist()]
    assert words(rows) == words(ROWS)


def test_ingest_says_in_one_line_that_the_api_gives_something_else(server: Api, tmp_path: Path) -> None:
    server.answer = table = Table(ROWS[:6])
    workspace(server, tmp_path)
    update_lock(tmp_path, logging.getLogger("tests"))
    table.rows = ROWS[1:6]
    fresh = tmp_path / "clone"
    fresh.mkdir()
    for name in ("params.yaml", "sources.lock"):
        (fresh / name).write_bytes((tmp_path / name).read_bytes())
    done, _ = ingest(fresh)
    assert done.returncode == 3
    assert done.stderr.startswith("error: ingest: source 'orders' is not what sources.lock says")
    assert "(below its watermark '2024-01-01T10:00:05Z' rows came late, changed or went); `python -m flows.train`" in done.stderr
    assert "Traceback" not in done.stderr

"""An API that misbehaves: in the end every row stands once, or one line says what came, and what to do."""

import json
import re
import shutil
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tasks.core.errors import DataError, ParamsError, TidemillError
from tasks.core.privacy import Guard
from tasks.params import ApiSource, Page, Since
from tasks.shards import read_parquet
from tasks.sources import api, paging, request
from tasks.sources.store import Store
from tests.sources.api_server import Api, Asked, Reply, by_cursor, by_number, first_then, serving

pytestmark = pytest.mark.usefixtures("short_waits")
ROWS: list[dict[str, Any]] = [{"id": i, "word": f"w{i}"} for i in range(10)]
OPEN = Guard()  # no column is protected
NUMBERED = Page(by="number", parameter="page", size_parameter="size", size=3)
END = ["4", "4", "5", "5", "6"]  # the last page is short, the one after it empty, each twice, and so is the one after that
BY_CURSOR = Page(by="cursor", parameter="after", next="meta.next")


def source(server: Api, page: Page | None = NUMBERED, **more: Any) -> ApiSource:
    return ApiSource(kind="api", url=server.url, rows="items", page=page, **more)


def landed(of: ApiSource, guard: Guard = OPEN) -> list[dict[str, Any]]:
    """What lands of it, in order of the ids."""
    store = Store(Path("store"))
    mark = api.look("orders", of, guard, store)
    rows = [row for path in store.paths for row in read_parquet(path).to_pylist()]
    assert mark["rows"] == len(rows)
    return sorted(rows, key=lambda row: str(row.get("id")).zfill(5))


def refusal(of: ApiSource, guard: Guard = OPEN, kind: type[TidemillError] = DataError) -> str:
    """The one line that is said; nothing landed."""
    with pytest.raises(kind) as refused:
        landed(of, guard)
    assert "\n" not in str(refused.value)
    assert Store(Path("store")).parts == []
    return str(refused.value)


def garbage(body: bytes) -> Reply:
    return Reply(body, headers={"Content-Type": "text/html"})


PASSING = {
    "429": Reply(status=429),
    "429 with seconds": Reply(status=429, headers={"Retry-After": "0"}),
    "429 with a date that has passed": Reply(status=429, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    "429 with nonsense": Reply(status=429, headers={"Retry-After": "soon"}),
    "500": Reply(b"oops", status=500),
    "503": Reply(status=503, headers={"Retry-After": "0"}),
    "reset": Reply({"items": ROWS}, cut=True),
    "HTML": garbage(b"<html><body>Please log in</body></html>"),
    "half JSON": Reply(b'{"items": [{"id": 1}, {"id"'),
    "empty body": Reply(b""),
    "bytes": Reply(bytes(range(256))),
    "wrong shape": Reply({"error": "busy"}),
    "no list": Reply({"items": {"id": 1}}),
    "a list of numbers": Reply({"items": [1, 2]}),
    "infinity": Reply(b'{"items": [{"id": Infinity}]}'),
    "brackets without end": Reply(b"[" * 100_000),
}


@pytest.mark.parametrize("fault", PASSING)
def test_passing_fault_costs_a_retry_and_no_row(server: Api, fault: str) -> None:
    good = by_number(ROWS, 3)
    waiting = [PASSING[fault]]
    server.answer = lambda asked: waiting.pop() if waiting and asked.query["page"] == "2" else good(asked)
    assert landed(source(server)) == ROWS
    assert server.queries("page") == ["1", "2", "2", "3", *END]


def test_two_faults_after_each_other_cost_two_retries(server: Api) -> None:
    server.answer = first_then([Reply(status=500), Reply(status=502)], by_number(ROWS, 3))
    assert landed(source(server)) == ROWS


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_pause_that_the_server_asks_for_is_kept(server: Api, form: str) -> None:
    wanted = "1" if form == "seconds" else format_datetime(datetime.now(UTC) + timedelta(seconds=2.5), usegmt=True)
    server.answer = first_then([Reply(status=429, headers={"Retry-After": wanted})], by_number(ROWS, 3))
    started = time.monotonic()
    assert landed(source(server)) == ROWS
    assert 0.9 < time.monotonic() - started < 10


def test_pause_beyond_minutes_ends_the_run_at_once(server: Api) -> None:
    server.answer = lambda asked: Reply(status=429, headers={"Retry-After": "86400"})
    assert "the server asks to wait 86,400 s; run again after that" in refusal(source(server))
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("reply", "attempts", "words"),
    [
        (Reply(b"oops", status=500), 6, "status 500: 'oops' (asked 6 times)"),
        (Reply(status=429), 6, "status 429"),
        (Reply({"items": ROWS}, cut=True), 6, "the connection failed"),
        (garbage(b"<html>no</html>"), 3, "expected JSON, found 15 bytes that are none: '<html>no</html>' (asked 3 times)"),
        (Reply({"data": []}), 3, "expected a list of objects at 'items', found nothing; the answer is an object with ['data']"),
        (Reply([1]), 3, "found nothing; the answer is a list with a number in it"),
        (Reply({"items": ["a"]}), 3, "found a list with a text in it"),
    ],
)
def test_fault_that_does_not_pass_ends_the_run_with_its_words(server: Api, reply: Reply, attempts: int, words: str) -> None:
    server.answer = lambda asked: reply
    said = refusal(source(server))
    assert words in said
    assert said.startswith(f"source 'orders': {server.url}, page 1: ")
    assert len(server.asked) == attempts


@pytest.mark.parametrize("status", [400, 404, 410, 304])
def test_status_that_no_retry_can_change_is_told_at_once(server: Api, status: int) -> None:
    server.answer = lambda asked: Reply(b"" if status == 304 else b"no such thing", status=status)
    assert f"status {status}" in refusal(source(server))
    assert len(server.asked) == 1


def test_slow_answers_are_given_up_and_asked_for_again(server: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "READ_SECONDS", 0.2)
    server.answer = first_then([Reply({}, delay=0.6)], by_number(ROWS, 3))
    assert landed(source(server)) == ROWS


def test_answer_that_drips_is_given_up_after_its_whole_time(server: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(request, "ATTEMPTS", 2)
    server.answer = lambda asked: Reply({"items": ROWS}, drip=0.02)
    assert "not all of the answer within 0.2 s (asked 2 times)" in refusal(source(server))


def test_server_that_is_not_there_is_told(server: Api) -> None:
    absent = source(server).model_copy(update={"url": "http://127.0.0.1:1/rows"})
    assert re.search(r"127\.0\.0\.1:1/rows, page 1: the connection failed: .*refused", refusal(absent))


def test_huge_page_is_refused_before_it_is_whole(server: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "MAX_BYTES", 10_000)
    server.answer = lambda asked: Reply({"items": [{"id": i} for i in range(10_000)]})
    assert "more than 10,000 bytes; ask for smaller pages" in refusal(source(server))
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://2852039166/",
        "http://0xA9FEA9FE/",
        "http://[::ffff:169.254.169.254]/",
        "http://[fe80::1]/",
        "http://metadata.google.internal/",
    ],
)
def test_redirect_to_a_link_local_address_is_refused(server: Api, target: str) -> None:
    server.answer = lambda asked: Reply(status=302, headers={"Location": target})
    assert "a link-local address" in refusal(source(server))
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_to_another_host_is_refused_and_nothing_is_sent_there(
    server: Api, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKEN", "s3cret-token")
    with serving() as other:
        server.answer = lambda asked: Reply(status=status, headers={"Location": other.url})
        assert "refused to follow it" in refusal(source(server, token="env:API_TOKEN"))
        assert other.asked == []


def test_next_page_on_another_host_is_refused_and_nothing_is_sent_there(server: Api) -> None:
    with serving() as other:
        server.answer = lambda asked: Reply({"items": ROWS, "next": other.url})
        assert "refused to follow it" in refusal(source(server, Page(by="link", next="next")))
        assert other.asked == []


@pytest.mark.parametrize("following", ["http://h:port/", "http://[::1/", "http://a\nb/"])
def test_next_page_whose_url_is_none_is_refused(server: Api, following: str) -> None:
    server.answer = lambda asked: Reply({"items": ROWS, "next": following})
    assert "page 1: its URL is none" in refusal(source(server, Page(by="link", next="next")))


def test_url_that_no_client_takes_is_told(server: Api) -> None:
    odd = source(server).model_copy(update={"url": "http://a\u2024\u2024b.example:1/rows"})
    assert "source 'orders': page 1:" in refusal(odd)


def test_redirect_on_the_same_host_is_followed(server: Api) -> None:
    good = by_number(ROWS, 3)
    server.answer = lambda asked: (
        good(asked)
        if asked.path == "/moved"
        else Reply(status=308, headers={"Location": f"/moved?page={asked.query['page']}&size=3"})
    )
    assert landed(source(server)) == ROWS


def test_redirects_in_a_circle_end(server: Api) -> None:
    server.answer = lambda asked: Reply(status=302, headers={"Location": "/rows"})
    assert "redirected more than 5 times" in refusal(source(server))


def test_page_sent_twice_by_a_glitch_is_asked_for_again(server: Api) -> None:
    good = by_number(ROWS, 3)
    glitches = [Asked("/rows", {"page": "1"}, {})]
    server.answer = lambda asked: good(glitches.pop()) if glitches and asked.query["page"] == "2" else good(asked)
    assert landed(source(server)) == ROWS


def test_same_page_over_and_over_is_an_error(server: Api) -> None:
    server.answer = lambda asked: Reply({"items": ROWS[:3]})
    assert "page 2: it brings the same 3 rows as a page before" in refusal(source(server))
    assert len(server.asked) == 4


def test_same_cursor_for_ever_is_an_error(server: Api) -> None:
    def stuck(asked: Asked) -> Reply:
        return Reply({"items": [{"id": len(server.asked)}], "meta": {"next": "c1"}})

    server.answer = stuck
    assert "the next page that it names came before" in refusal(source(server, BY_CURSOR))


def test_cursors_that_never_end_are_an_error(server: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "MAX_PAGES", 20)
    server.answer = lambda asked: Reply({"items": [{"id": len(server.asked)}], "meta": {"next": f"c{len(server.asked)}"}})
    assert "the pages do not end after 20" in refusal(source(server, BY_CURSOR))
    assert len(server.asked) == 20


def test_cursor_that_is_none_is_an_error(server: Api) -> None:
    server.answer = lambda asked: Reply({"items": ROWS, "meta": {"next": ["c1"]}})
    assert "expected a text or a number at page.next 'meta.next', found a list" in refusal(source(server, BY_CURSOR))


def test_cursor_in_an_answer_that_is_a_list_is_an_error(server: Api) -> None:
    server.answer = lambda asked: Reply(ROWS)
    flat = source(server, BY_CURSOR).model_copy(update={"rows": ""})
    assert "found none: the answer is a list of objects" in refusal(flat)


@pytest.mark.parametrize("end", [None, "", False])
def test_empty_pages_between_full_ones_do_not_end_what_a_cursor_leads_through(server: Api, end: Any) -> None:
    pages = {"": (ROWS[:4], "b"), "b": ([], "c"), "c": (ROWS[4:], end)}

    def answer(asked: Asked) -> Reply:
        rows, following = pages[asked.query.get("after", "")]
        return Reply({"items": rows, "meta": {"next": following}})

    server.answer = answer
    assert landed(source(server, BY_CURSOR)) == ROWS


def test_empty_page_that_names_itself_the_next_one_ends(server: Api) -> None:
    server.answer = lambda asked: Reply({"items": ROWS if len(server.asked) == 1 else [], "meta": {"next": "same"}})
    assert landed(source(server, BY_CURSOR)) == ROWS
    assert len(server.asked) == 3


def test_many_empty_pages_with_a_cursor_are_followed_and_those_without_end_are_an_error(
    server: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paging, "MAX_EMPTY", 30)

    def answer(asked: Asked) -> Reply:
        n = int(asked.query.get("after", "0"))
        return Reply({"items": [ROWS[n // 29]] if n % 29 == 0 else [], "meta": {"next": str(n + 1) if n < 261 else None}})

    server.answer = answer
    assert landed(source(server, BY_CURSOR)) == ROWS
    server.answer = lambda asked: Reply({"items": [], "meta": {"next": len(server.asked)}})
    with pytest.raises(DataError, match="the 30 pages before it have no row and each names a next one"):
        landed(source(server, BY_CURSOR))


@pytest.mark.parametrize(("by", "left"), [("number", 0), ("number", 4), ("offset", 0), ("offset", 4), ("cursor", 0), ("link", 0)])
@pytest.mark.parametrize("at", [1, 3, 10])
@pytest.mark.parametrize("size", [10, None])
def test_page_that_lacks_rows_once_costs_no_row(server: Api, by: str, left: int, at: int, size: int | None) -> None:
    rows = [{"id": i} for i in range(95)]
    faults = [left]
    size_parameter = {"size_parameter": "size", "size": size} if size else {}
    pages = {
        "number": Page(by="number", parameter="page", **size_parameter),
        "offset": Page(by="offset", parameter="page", start=0, **size_parameter),
        "cursor": Page(by="cursor", parameter="page", next="next", **size_parameter),
        "link": Page(by="link", next="next", **size_parameter),
    }

    def answer(asked: Asked) -> Reply:
        place = int(asked.query.get("page", "0" if by == "offset" else "1"))
        start = place if by == "offset" else (place - 1) * 10
        following = place + 1 if start + 10 < len(rows) else None
        link = f"{server.url}?page={following}" if following else None
        found = rows[start : start + 10]
        if start == (at - 1) * 10 and faults:
            return Reply({"items": found[: faults.pop()]})
        return Reply({"items": found, "next": following if by == "cursor" else link})

    server.answer = answer
    assert landed(source(server, pages[by])) == rows
    assert not faults


@pytest.mark.parametrize("status", [200, 404])
def test_pages_that_the_server_leaves_rows_out_of_do_not_end_the_list(server: Api, status: int) -> None:
    rows = [{"id": i} for i in range(69) if i not in (25, 28) and not 40 <= i < 50]

    def answer(asked: Asked) -> Reply:
        number = int(asked.query["page"])
        return Reply({"items": [row for row in rows if row["id"] // 10 == number - 1]}, status=status if number > 7 else 200)

    server.answer = answer
    assert landed(source(server, Page(by="number", parameter="page"))) == rows
    shutil.rmtree("store")
    server.answer = lambda asked: Reply({"items": [row for row in rows if 0 <= row["id"] - int(asked.query["from"]) < 10]})
    assert landed(source(server, Page(by="offset", parameter="from", size_parameter="n", size=10), key="id")) == rows


def test_rows_that_overlap_between_pages_count_once_by_their_key(server: Api) -> None:
    overlapping = [*ROWS[:3], *ROWS[2:5], *ROWS[4:7], *ROWS[6:]]
    server.answer = by_number(overlapping, 3)
    assert landed(source(server, key="id")) == ROWS


def test_row_that_changes_between_pages_counts_as_it_came_last(server: Api) -> None:
    server.answer = by_number([*ROWS[:3], {"id": 0, "word": "new"}, *ROWS[3:]], 3)
    assert landed(source(server, key="id")) == [{"id": 0, "word": "new"}, *ROWS[1:]]


@pytest.mark.parametrize("size", [1, 2, 3, 10])
@pytest.mark.parametrize("at", [["9", "10", "2"], [9, 10, 2], ["2024-01-01T01:00:00+02:00", "2024-01-01T00:00:00Z", "2023-12-31"]])
def test_newest_row_of_a_key_counts_wherever_pages_are_cut(
    server: Api, caplog: pytest.LogCaptureFixture, size: int, at: list[Any]
) -> None:
    rows = [{"id": 1, "word": "a", "at": at[0]}, {"id": 1, "word": "b", "at": at[1]}, {"id": 1, "word": "c", "at": at[2]}]
    server.answer = by_number([*rows, {"id": 2, "word": "d", "at": at[0]}], size)
    page = Page(by="number", parameter="page")
    assert [row["word"] for row in landed(source(server, page, key="id"))] == ["c", "d"]
    assert "4 different rows have 2 different values of 'id', its key: of each only the newest row counts" in caplog.text
    shutil.rmtree("store")
    of = source(server, page, key="id", watermark=Since(column="at", parameter="since"))
    assert [row["word"] for row in landed(of)] == ["b", "d"]


@pytest.mark.parametrize("body", [b'{"items": [{"id": 1, "x": 1, "x": 2}]}', b'{"items": [{"id": 1, "u": {"x": 1, "x": 1}}]}'])
def test_key_that_an_object_has_twice_is_refused(server: Api, body: bytes) -> None:
    server.answer = lambda asked: Reply(body)
    assert "an object in the answer has the key 'x' twice; expected each once" in refusal(source(server, None))
    assert len(server.asked) == 1


def test_row_without_its_key_is_refused(server: Api) -> None:
    server.answer = lambda asked: Reply({"items": [{"word": "a"}]})
    assert "a row has no value in 'id', its key" in refusal(source(server, None, key="id"))


def test_data_that_grows_between_pages_lands_once(server: Api) -> None:
    growing: list[dict[str, Any]] = list(ROWS)

    def answer(asked: Asked) -> Reply:
        reply = by_number(growing, 3)(asked)
        if asked.query["page"] in ("1", "2"):
            growing.insert(0, {"id": 100 + len(growing), "word": "newer"})  # every row moves on by one
        return reply

    server.answer = answer
    assert landed(source(server, key="id"))[:10] == ROWS


def test_api_without_a_row_is_refused(server: Api) -> None:
    server.answer = lambda asked: Reply({"items": []})
    assert "gives no row; expected at least one" in refusal(source(server))


@pytest.mark.parametrize("status", [401, 403])
def test_refused_token_is_told_by_its_name_alone(server: Api, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "s3cret-token")
    server.answer = lambda asked: Reply(f"no: {asked.headers['authorization']}".encode(), status=status)
    said = refusal(source(server, token="env:API_TOKEN"))
    assert f"status {status}; it refuses the token of env:API_TOKEN; renew it" in said
    assert "s3cret" not in said
    assert len(server.asked) == 1


def test_token_that_is_not_set_or_cannot_be_sent_ends_before_the_first_request(
    server: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanting = source(server, token="env:API_TOKEN")
    monkeypatch.delenv("API_TOKEN", raising=False)
    assert "the environment variable API_TOKEN is not set" in refusal(wanting, kind=ParamsError)
    monkeypatch.setenv("API_TOKEN", "s3cret\nX-Other: 1")
    assert "s3cret" not in refusal(wanting, kind=ParamsError)
    assert server.asked == []


def test_no_message_tells_a_secret_that_the_server_repeats(
    server: Api, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("API_TOKEN", "s3cret-token")
    monkeypatch.setattr(request, "EXCERPT", 1000)
    server.answer = lambda asked: Reply(
        json.dumps([asked.headers["authorization"], asked.query, "ann@example.org", "+1 555 123 4567"]).encode(), 400
    )
    said = refusal(source(server, token="env:API_TOKEN", query={"from": "k3y-of-the-query"}))
    assert 'status 400: \'["Bearer ***", ' in said
    written = "".join(path.read_text(errors="replace") for path in Path().rglob("*") if path.is_file())
    for secret in ("s3cret", "k3y-of", "ann@", "4567"):
        assert secret not in said + written + "".join(capfd.readouterr())


@pytest.mark.parametrize("by", ["number", "link", "link in the page"])
def test_token_in_the_query_is_sent_with_every_page_and_stands_nowhere(
    server: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, by: str
) -> None:
    secret = "s3cr/t+tok=n&x"
    spelt = ("s3cr", "%2Ft", "tok=", "tok%3D")
    caplog.set_level("DEBUG")
    monkeypatch.setenv("API_TOKEN", secret)
    pages = {"number": NUMBERED, "link": Page(by="link"), "link in the page": Page(by="link", next="next")}
    of = source(server, pages[by], token="env:API_TOKEN", parameter="api_key", query={"kind": "all"})
    status = [200]

    def answer(asked: Asked) -> Reply:
        number = int(asked.query.get("page", "1"))
        following = f"{server.url}?{urlencode({'page': number + 1, 'api_key': asked.query['api_key']})}" if number < 4 else None
        body = {"items": ROWS[3 * number - 3 : 3 * number], "next": following, "asked": asked.query}
        if asked.path == "/rows" and number == 2:
            return Reply(status=307, headers={"Location": f"/moved?{urlencode(asked.query)}"})
        fault = number == 3 and status[0] != 200
        return Reply({"asked": asked.query} if fault else body, status[0] if fault else 200,
                     headers={"Link": f'<{following}>; rel="next"'} if following else {})  # fmt: skip

    server.answer = answer
    for status[0] in (400, 401, 503):
        monkeypatch.setattr(request, "ATTEMPTS", 1)
        said = refusal(of)
        assert not any(word in said for word in spelt), said
    written = "".join(path.read_text(errors="replace") for path in Path("store").rglob("*") if path.is_file())
    assert "w2" in written
    status[0] = 200
    assert landed(of) == ROWS
    assert {asked.query["api_key"] for asked in server.asked} == {secret}
    assert {asked.query["kind"] for asked in server.asked} == {"all"}
    assert not any("authorization" in asked.headers for asked in server.asked)
    written += "".join(path.read_text(errors="replace") for path in Path().rglob("*") if path.is_file())
    assert not any(word in written + caplog.text for word in spelt)


def test_next_page_that_holds_the_token_in_its_path_is_refused(server: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "s3cret-token")
    server.answer = lambda asked: Reply({"items": ROWS, "next": "/s3cret-token/2"})
    said = refusal(source(server, Page(by="link", next="next"), token="env:API_TOKEN", parameter="key"))
    assert "holds the token outside of its parameter" in said
    assert "s3cret" not in said


def test_what_came_instead_of_a_page_is_not_shown_when_columns_are_protected(server: Api) -> None:
    server.answer = lambda asked: garbage(b"<html>Ann Smith</html>")
    assert "Ann" in refusal(source(server))
    assert "Ann" not in refusal(source(server), Guard(drop=frozenset({"name"})))


def test_pages_before_a_fault_are_not_asked_for_again(server: Api) -> None:
    good = by_number(ROWS, 3)
    server.answer = lambda asked: Reply(status=400) if asked.query["page"] == "3" else good(asked)
    refusal(source(server))
    server.answer = good
    assert landed(source(server)) == ROWS
    assert server.queries("page") == ["1", "2", "3", "3", *END]


def test_server_that_gives_smaller_pages_than_asked_loses_no_row(server: Api) -> None:
    server.answer = by_number(ROWS, 3)
    assert landed(source(server, Page(by="number", parameter="page", size_parameter="size", size=100))) == ROWS


def test_end_is_asked_for_a_few_times_and_404_ends_after_a_short_page(server: Api) -> None:
    server.answer = by_number(ROWS, 3)
    landed(source(server))
    assert server.queries("page") == ["1", "2", "3", *END]

    good = by_number(ROWS, 4)
    server.answer = lambda asked: Reply(status=404) if int(asked.query["page"]) > 3 else good(asked)
    assert landed(source(server, Page(by="number", parameter="page"))) == ROWS


def test_404_after_a_full_page_is_no_end(server: Api) -> None:
    good = by_number(ROWS, 5)
    server.answer = lambda asked: Reply(status=404) if int(asked.query["page"]) > 1 else good(asked)
    assert "page 2: status 404" in refusal(source(server, Page(by="number", parameter="page")))


def test_cursor_pages_with_every_fault_on_the_way_land_once(server: Api) -> None:
    good = by_cursor(ROWS, 3)
    faults = [PASSING[name] for name in ("500", "HTML", "reset", "429", "half JSON")]

    def answer(asked: Asked) -> Reply:
        return faults.pop() if faults and len(server.asked) % 2 == 0 else good(asked)

    server.answer = answer
    assert landed(source(server, BY_CURSOR, key="id")) == ROWS

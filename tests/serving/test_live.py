"""The last hour of the service and the history of its releases, as it tells them to programs and draws them for people."""

import http.client
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil
import pytest
from playwright.sync_api import Browser, Page

from serving.bundle import BundleError, load_bundle
from serving.doors import make_key, save_keys
from serving.live import quantile, tell
from serving.metrics import SECONDS
from tasks.cloud.storage import open_storage
from tasks.core.expected import Expected, expect
from tasks.releases import Channel, Releases
from tests.serving.stores import FREE, ROWS, make_bundle, network, promote, seal
from tests.serving.test_bundle import sigmoid
from tests.serving.test_follow import ask, serving, total, until

pytestmark = pytest.mark.slow
PREDICT, LIVE, HISTORY = "/v1/models/flights:predict", "/v1/models/flights/live", "/v1/models/flights/history"
GOOD = json.dumps({"instances": [*ROWS, {"distance": 3, "carrier": "ZZ"}]}).encode()
BAD = b'{"instances": [{"distance": "far"}]}'
ANSWERED, REFUSED = 40, 3


def expected() -> Expected:
    """As if the test part were 1,000 rows whose answers lie low, and training had no row that lacks anything."""
    scores = np.random.default_rng(0).random(1000) / 2
    rows = FREE.encode(FREE.columns([{"distance": 3.0, "carrier": "AA"}] * 10))
    return expect(FREE, scores, [rows])


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two bundles, of which the first knows what to expect."""
    home = tmp_path_factory.mktemp("bundles")
    for name, bias in (("first", 0.0), ("second", 0.125)):
        made = network(home / f"{name}_saved", bias)
        make_bundle(home / name, made, lambda row, bias=bias: sigmoid(total(row) + bias))
    (home / "first/expected.json").write_text(json.dumps(expected().to_json()))
    seal(home / "first")
    return {name: home / name for name in ("first", "second")}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, bundles: dict[str, Path]) -> Path:
    """The first bundle in production, the second as its canary for half of the requests, and three moves before."""
    place = tmp_path_factory.mktemp("store") / "releases"
    releases = Releases(open_storage(place))
    first, second = (releases.put(bundles[name]) for name in ("first", "second"))
    for version in (first, second, first):
        promote(place, version)
    trial = Channel(name="flights", version=second, chosen="student", share=0.5, by="mia", why="smaller <b>and</b> as good?")
    releases.move("canary", trial, None)
    return place


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "log"


@pytest.fixture(scope="module")
def port(store: Path, log: Path) -> Iterator[int]:
    """Two workers, which answered ANSWERED requests of five rows and refused REFUSED, and took a sample since."""
    with serving(log, "--store", str(store), "--workers", "2", "--follow-only") as (port, _):
        told = ask(port, "GET", LIVE)[2]
        assert (told["totals"]["requests"], told["totals"]["p95"], told["scores"]["live"]) == (0, None, None)
        with workers(port) as each:
            until(lambda: all("canary" in get(one, HISTORY)["channels"] for one in each.values()), log)
        for _ in range(ANSWERED):
            assert ask(port, "POST", PREDICT, GOOD)[0] == 200
        for _ in range(REFUSED):
            assert ask(port, "POST", PREDICT, BAD)[0] == 422
        sent = time.time()
        until(lambda: bool(ask(port, "GET", LIVE)[2]["until"] > sent + 0.2), log)
        yield port


@contextmanager
def workers(port: int) -> Iterator[dict[int, http.client.HTTPConnection]]:
    """A connection to each worker, by its process id."""
    found: dict[int, http.client.HTTPConnection] = {}
    deadline = time.monotonic() + 20
    with ExitStack() as opened:
        while len(found) < 2:
            assert time.monotonic() < deadline
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            opened.callback(connection.close)
            assert get(connection, "/healthz")["status"] == "ok"
            own = connection.sock.getsockname()[1]
            for one in psutil.net_connections("tcp4"):
                if one.raddr and one.raddr.port == own and one.laddr.port == port and one.pid:
                    found.setdefault(one.pid, connection)
        yield found


def get(connection: http.client.HTTPConnection, path: str) -> Any:
    connection.request("GET", path)
    return json.loads(connection.getresponse().read())


def test_counts_are_those_of_the_requests_that_were_sent(port: int, bundles: dict[str, Path]) -> None:
    told = ask(port, "GET", LIVE)[2]
    totals, series = told["totals"], told["series"]
    assert (totals["requests"], totals["refused"], totals["failed"]) == (ANSWERED + REFUSED, REFUSED, 0)
    assert totals["rows"] == 5 * ANSWERED
    assert 0 < totals["p50"] <= totals["p95"] <= totals["p99"] < 1
    spans = np.diff([told["since"], *series["time"]])
    assert np.dot(series["requests"], spans) == pytest.approx(ANSWERED + REFUSED, rel=0.05)  # times are told to a tenth
    assert len({len(some) for some in series.values()}) == 1

    own = told["scores"]["rows"]  # of the version in production; the canary answered the others
    assert told["version"] == json.loads((bundles["first"] / "manifest.json").read_text())["version"]
    assert own % 5 == 0
    assert 0 < own < 5 * ANSWERED
    # The five rows are answered by sigmoids of 4, 2, 3, 1 and 0.6: 0.98, 0.88, 0.95, 0.73 and 0.65.
    assert told["scores"]["live"][""] == pytest.approx([0, 0, 0, 0, 0, 0, 0.2, 0.2, 0.2, 0.4])
    columns = {one["column"]: one for one in told["columns"]}
    assert columns["distance"] == {"column": "distance", "missing": {"live": 0.4, "expected": 0.0}, "unknown": None}
    assert columns["carrier"]["missing"] == {"live": 0.2, "expected": 0.0}
    assert columns["carrier"]["unknown"] == {"live": 0.2, "expected": 0.0}
    assert told["scores"]["distance"] == pytest.approx(1.0)
    assert told["scores"]["chance"] < 0.5


def test_workers_agree_and_one_that_was_killed_knows_the_hour_again(port: int) -> None:
    with workers(port) as before:
        one, other = (get(connection, LIVE) for connection in before.values())
        if one["until"] != other["until"]:  # a sample came between the two
            one, other = (get(connection, LIVE) for connection in before.values())
        assert one == other
        killed = next(iter(before))
    os.kill(killed, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while True:
        with workers(port) as after:
            if killed not in after:
                break
        assert time.monotonic() < deadline
    with workers(port) as after:
        assert [get(one, LIVE)["totals"]["requests"] for one in after.values()] == [ANSWERED + REFUSED] * 2


def test_history_names_channels_trials_and_moves_and_says_when_the_store_is_silent(port: int, store: Path) -> None:
    deadline = time.monotonic() + 20
    with workers(port) as each:  # of which one may have been started just now
        while any("canary" not in (told := get(one, HISTORY))["channels"] for one in each.values()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert (told["followed"], told["error"]) == (True, None)
    assert [move["channel"] for move in told["moves"]] == ["canary", *3 * ["production"]]
    assert (told["moves"][0]["by"], told["moves"][0]["why"]) == ("mia", "smaller <b>and</b> as good?")
    assert told["channels"]["canary"]["share"] == 0.5
    assert 0 < told["trials"]["canary"]["requests"] < ANSWERED
    aside = store.with_name("aside")
    store.rename(aside)
    store.write_text("no folder")
    try:
        deadline = time.monotonic() + 25
        while (silent := ask(port, "GET", HISTORY)[2])["error"] is None:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert silent["moves"] in (told["moves"], [])  # what this worker knew before
        assert ask(port, "POST", PREDICT, GOOD)[0] == 200
    finally:
        store.unlink()
        aside.rename(store)


def open_page(browser: Browser, port: int, **options: Any) -> tuple[Page, list[str]]:
    """The page of the service, and the list that grows with each complaint of the browser and each request elsewhere."""
    page = browser.new_context(base_url=f"http://127.0.0.1:{port}", **options).new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda one: None if one.url.startswith((f"http://127.0.0.1:{port}/", "data:")) else wrong.append(one.url))
    page.goto("/")
    return page, wrong


def test_page_draws_the_hour_and_its_numbers_can_be_read_by_keyboard(port: int, log: Path, browser: Browser) -> None:
    page, wrong = open_page(browser, port, color_scheme="dark", viewport={"width": 1280, "height": 900})
    page.wait_for_selector("#live .line.one[d^=M]", state="attached")
    assert page.locator("#live svg.plot").count() == 5
    assert page.locator("#live .plot .bar").count() == 10
    assert page.locator("#live .plot .wanted").count() == 10

    def drawn() -> bool:  # what another test asks meanwhile counts too
        requests = ask(port, "GET", LIVE)[2]["totals"]["requests"]
        assert requests >= ANSWERED + REFUSED
        text = f"{requests} requests, {REFUSED} errors ({100 * REFUSED / requests:.2g}%)"
        return text in (page.text_content("#told") or "")

    until(drawn, log)
    assert "\u25b2 20%" in (page.text_content("#columns") or "")
    assert "smaller <b>and</b> as good?" in (page.text_content("#moves") or "")
    assert page.locator("#channels tr").count() == 2

    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.closest('figure')?.dataset.chart"))
        if "scores" in reached:
            break
    assert {"f-1c", "f-1n", "tables", "pause", "requests", "latency", "drift", "scores"} <= reached
    page.keyboard.press("ArrowLeft")
    assert page.text_content("figure[data-chart=scores] .at") == "above 90%"
    assert "live 40%" in (page.get_attribute("figure[data-chart=scores] svg.plot", "aria-label") or "")
    page.get_by_role("button", name="Tables").press("Enter")
    assert page.locator("#numbers tr").count() >= 12
    assert page.locator("#charts").is_hidden()
    page.get_by_role("button", name="Pause").press("Space")
    assert page.get_attribute("#pause", "aria-pressed") == "true"
    assert not wrong
    page.context.close()


def test_page_fits_a_phone(port: int, browser: Browser) -> None:
    page, wrong = open_page(browser, port, viewport={"width": 390, "height": 844})
    page.wait_for_selector("#live .line.one[d^=M]", state="attached")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("[...document.querySelectorAll('svg.plot')].every(one => one.getBoundingClientRect().right <= 390)")
    assert not wrong
    page.context.close()


def test_several_models_of_a_locked_service_without_traffic_or_expectation(
    bundles: dict[str, Path], tmp_path: Path, browser: Browser
) -> None:
    other = tmp_path / "other"
    shutil.copytree(bundles["second"], other)
    seal(other, "trains")
    secret, key = make_key("mia", ("predict", "metrics"), None, 0)
    partial, half = make_key("shop", ("predict",), None, 0)
    save_keys(tmp_path / "keys.json", [key, half])
    flags = ("--bundle", str(bundles["second"]), "--bundle", str(other), "--keys", str(tmp_path / "keys.json"))
    with serving(tmp_path / "log", *flags) as (port, _):
        assert ask(port, "GET", LIVE)[0] == 401
        assert ask(port, "GET", LIVE, headers={"x-api-key": partial})[0] == 403
        assert ask(port, "GET", HISTORY, headers={"x-api-key": partial})[0] == 403
        assert ask(port, "GET", "/v1/models/ships/live", headers={"x-api-key": secret})[0] == 404
        told = ask(port, "GET", LIVE, headers={"x-api-key": secret})[2]
        assert (told["totals"]["requests"], told["scores"]["expected"], told["scores"]["distance"]) == (0, None, None)
        assert ask(port, "GET", HISTORY, headers={"x-api-key": secret})[2]["followed"] is False

        page, wrong = open_page(browser, port, http_credentials={"username": "", "password": secret})
        page.wait_for_selector("text=no expectation recorded >> nth=1")
        page.get_by_role("link", name="trains").click()
        page.wait_for_selector("text=No request for predictions in the last")
        page.wait_for_selector("text=This bundle was given by name")
        page.get_by_role("button", name="Predict").click()
        page.wait_for_selector(".score")
        page.wait_for_selector("text=1 request to all models of this service", timeout=20_000)
        page.context.close()
        page, _ = open_page(browser, port, http_credentials={"username": "", "password": partial})
        page.wait_for_selector("text=No live figures: this key may predict; >> nth=0")
        page.context.close()
    assert not [one for one in wrong if "401" not in one]  # which is how the browser learns that it is to ask


def test_expectation_that_does_not_fit_is_refused(bundles: dict[str, Path], tmp_path: Path) -> None:
    assert load_bundle(bundles["first"]).expected == expected()
    assert load_bundle(bundles["second"]).expected is None
    folder = tmp_path / "bundle"
    shutil.copytree(bundles["first"], folder)
    for content in ({**expected().to_json(), "missing": {}}, [], {}):
        (folder / "expected.json").write_text(json.dumps(content))
        seal(folder)
        with pytest.raises(BundleError, match="is no bundle of this format"):
            load_bundle(folder)


def test_quantile_is_on_a_line_within_its_bucket() -> None:
    counts = [0.0] * 3 + [10.0] * (len(SECONDS) - 2)  # all between 0.001 and 0.002 s
    assert quantile(counts, 0.5) == pytest.approx(0.0015)
    assert quantile([0.0] * len(SECONDS) + [4.0], 0.99) == SECONDS[-1]
    assert quantile([0.0] * (len(SECONDS) + 1), 0.5) is None


def test_release_that_is_new_has_no_past_and_a_gap_is_no_peak() -> None:
    def sample(at: float, requests: float, versions: dict[str, int]) -> bytes:
        told = {
            version: {"scores": {"": [0] * 4 + [rows] * 6}, "missing": {"distance": rows / 2}, "unknown": {}}
            for version, rows in versions.items()
        }
        seconds = [0.0] * (len(SECONDS) + 1)
        return orjson.dumps({"at": at, "answers": [requests, 0, 0], "seconds": seconds, "models": {"flights": told}, "trials": {}})

    samples = [
        sample(1000, 0, {"old": 0}),
        sample(1010, 100, {"old": 100}),
        sample(1050, 500, {"old": 500}),  # three samples are missing
        sample(1060, 600, {"old": 500, "new": 100, "shadow": 100}),
        sample(1400, 600, {"old": 500, "new": 100, "shadow": 100}),
    ]
    told = tell(samples, "flights", "new", "shadow", FREE, expected())
    assert told["series"]["requests"] == [10, 10, 10, 0]
    assert told["series"]["rows"] == [10, 10, 10, 0]
    assert [one is None for one in told["series"]["distance"]] == [True, True, False, True]  # nobody asked for five minutes
    assert told["scores"]["rows"] == 100
    assert told["columns"][0]["missing"]["live"] == 0.5
    assert told["scores"]["distance"] == pytest.approx(0.8, abs=0.03)

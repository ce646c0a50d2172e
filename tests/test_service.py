"""The real service, as a client and as a person in a browser meet it."""

import http.client
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.conftest import Workspace, free_port

pytestmark = pytest.mark.slow
PATH = "/v1/models/flights:predict"
EXPLAIN = "/v1/models/flights:explain"


@contextmanager
def serving(workspace: Workspace) -> Iterator[tuple[int, float]]:
    """The service's port, and the seconds until it answered."""
    port, started = free_port(), time.monotonic()
    command = [sys.executable, "-m", "serving", "--port", str(port)]
    with subprocess.Popen(
        command, cwd=workspace.path, env=workspace.environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as process:
        try:
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).close()
                    break
                except OSError:
                    assert process.poll() is None
                    assert time.monotonic() - started < 30
                    time.sleep(0.02)
            yield port, time.monotonic() - started
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def port(trained: Workspace) -> Iterator[int]:
    with serving(trained) as (port, _):
        yield port


@pytest.fixture(scope="module")
def golden(trained: Workspace) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((trained.path / "models/release/golden.json").read_text())
    return document


def post(port: int, body: bytes, path: str = PATH) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def row(golden: dict[str, Any], **changes: Any) -> bytes:
    values = {**golden["instances"][0], **changes}
    return json.dumps({"instances": [{name: value for name, value in values.items() if value is not ...}]}).encode()


def test_service_is_up_in_two_seconds(trained: Workspace) -> None:
    best = 10.0  # of three starts: another process may have the machine during one of them
    for _ in range(3):
        with serving(trained) as (_, seconds):
            best = min(best, seconds)
    assert best < 2


def test_golden_rows_are_answered_as_recorded(port: int, golden: dict[str, Any]) -> None:
    status, answer = post(port, json.dumps({"instances": golden["instances"]}).encode())
    assert status == 200
    assert answer["predictions"] == pytest.approx(golden["predictions"], abs=1e-3)


def test_decisions_stand_beside_the_predictions_and_follow_the_threshold(
    port: int, trained: Workspace, golden: dict[str, Any]
) -> None:
    target = json.loads((trained.path / "models/release/encoder.json").read_text())["target"]
    _, answer = post(port, json.dumps({"instances": golden["instances"]}).encode())
    assert answer["decisions"] == [int(score >= target["decision"]["threshold"]) for score in answer["predictions"]]


def test_explanation_adds_up_to_the_prediction(port: int, golden: dict[str, Any]) -> None:
    body = json.dumps({"instances": golden["instances"][:2]}).encode()
    status, answer = post(port, body, EXPLAIN)
    assert status == 200
    told = post(port, body)[1]["predictions"]
    for one, prediction in zip(answer["explanations"], told, strict=True):
        assert one["class"] == 1
        assert one["answer"] == pytest.approx(prediction, abs=1e-6)
        assert one["base"] + sum(one["contributions"].values()) == pytest.approx(one["answer"], abs=1e-9)
        assert {"carrier", "departure_minute", "temp"} <= set(one["contributions"])
    assert post(port, body, EXPLAIN)[1] == answer
    assert 0.1 < answer["explanations"][0]["base"] < 0.5  # near the share of late flights


def test_explanation_of_a_wrong_row_or_of_too_many_is_refused(port: int, golden: dict[str, Any]) -> None:
    assert post(port, row(golden, distance="far"), EXPLAIN)[0] == 422
    status, answer = post(port, json.dumps({"instances": golden["instances"][:1] * 17}).encode(), EXPLAIN)
    assert status == 422
    assert answer["detail"].startswith("17 rows to explain; at most 16")
    assert post(port, b"{", EXPLAIN)[0] == 400


def test_api_document_describes_decisions_and_explanations(port: int) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/openapi.json", timeout=5) as found:
        document = json.loads(found.read())
    assert EXPLAIN in document["paths"]
    schemas = document["components"]["schemas"]
    assert schemas["Response"]["oneOf"][0]["properties"]["decisions"]["items"]["enum"] == [0, 1]
    assert set(schemas["Explanations"]["properties"]["explanations"]["items"]["required"]) == {
        "base",
        "answer",
        "contributions",
        "class",
    }


def test_unknown_carrier_and_missing_weather_are_answered(port: int, golden: dict[str, Any]) -> None:
    weather = dict.fromkeys(("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"), ...)
    for body in (row(golden, carrier="ZZ"), row(golden, **weather), row(golden, temp=None)):
        status, answer = post(port, body)
        assert status == 200
        assert 0 < answer["predictions"][0] < 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"distance": "far"}, "distance"), ({"origin": ...}, "origin"), ({"surprise": 1}, "surprise"), ({"carrier": 5}, "carrier")],
)
def test_wrong_field_is_refused_by_name_and_the_service_lives_on(
    port: int, golden: dict[str, Any], changes: dict[str, Any], field: str
) -> None:
    status, answer = post(port, row(golden, **changes))
    assert status == 422
    assert answer["errors"][0]["field"] == f"instances[0].{field}"
    assert post(port, row(golden))[0] == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b'{"instances": []}', 400),
        (b"[" * 50_000, 400),
        (b'{"instances": [{"temp": NaN}]}', 400),
        (b"x" * 10_000_000, 413),
    ],
    ids=["cut", "list", "no-row", "deep", "nan", "10-MB"],
)
def test_body_that_is_no_request_is_refused_and_the_service_lives_on(
    port: int, golden: dict[str, Any], body: bytes, status: int
) -> None:
    try:
        found, answer = post(port, body)
    except (BrokenPipeError, ConnectionResetError):  # refused before all of it was sent
        assert status == 413
    else:
        assert found == answer["status"] == status
        assert answer["detail"]
    assert post(port, row(golden))[0] == 200


def test_other_model_and_other_path_are_not_found(port: int) -> None:
    assert post(port, b"{}", "/v1/models/trains:predict")[0] == 404
    assert post(port, b"{}", "/nowhere")[0] == 404


@pytest.mark.parametrize("pointer", ["[]", "3", "", '{"version": "../elsewhere"}', '{"version": 3}', '{"version": "0123"}'])
def test_pointer_that_names_no_release_is_refused_in_one_line(pointer: str, tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "releases/channels").mkdir(parents=True)
    (tmp_path / "releases/channels/production.json").write_text(pointer)
    done = Workspace(tmp_path, environment).run("-m", "serving")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_taken_port_and_flags_out_of_bounds_are_refused(port: int, trained: Workspace) -> None:
    taken = trained.run("-m", "serving", "--port", str(port))
    assert taken.returncode == 1
    assert f"error: cannot listen on 127.0.0.1, port {port}: " in taken.stderr
    assert taken.stdout == ""
    for flag, value in (("--port", "99999999"), ("--port", "-1"), ("--max-body", "-5"), ("--max-body", "many")):
        done = trained.run("-m", "serving", flag, value)
        assert done.returncode == 2
        assert f"argument {flag}: invalid" in done.stderr


def test_service_stopped_by_ctrl_c_or_sigterm_says_nothing(trained: Workspace) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        with trained.start("-m", "serving", "--port", "0") as process:
            assert process.stdout is not None
            while " at http://" not in process.stdout.readline():
                assert process.poll() is None
            time.sleep(1)
            process.send_signal(number)
            assert "Traceback" not in process.stdout.read()


def test_predict_by_another_method_is_told_the_right_one(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for method in ("GET", "PUT"):
        connection.request(method, PATH, b"{}")
        answer = connection.getresponse()
        assert (answer.status, answer.headers["allow"]) == (405, "POST")
        assert json.loads(answer.read())["title"] == "Method Not Allowed"
    connection.close()


@pytest.fixture(scope="module")
def page(port: int, browser: Browser) -> Page:
    return browser.new_page(base_url=f"http://127.0.0.1:{port}")


def test_person_makes_a_prediction_on_the_page(page: Page, golden: dict[str, Any]) -> None:
    strangers: list[str] = []
    page.on("request", lambda request: strangers.append(request.url) if "127.0.0.1" not in request.url else None)
    page.goto("/")
    page.get_by_role("button", name="Predict").click()
    page.wait_for_selector(".score")
    assert page.text_content(".score") == f"{100 * golden['predictions'][0]:.1f}%"
    assert (page.text_content(".decision") or "").startswith("to act on")
    page.wait_for_selector(".why td >> text=on the mean")
    assert page.locator(".why tr").count() == 10  # the base, the eight foremost columns, and all others
    page.fill("input[name=distance]", "far")
    page.get_by_role("button", name="Predict").click()
    page.wait_for_selector(".problem")
    assert "distance: expected a number" in (page.text_content("#result") or "")
    assert page.get_attribute("input[name=distance]", "aria-invalid") == "true"
    assert "Weakest slices" in page.content()
    assert not [url for url in strangers if not url.startswith("data:")]


def test_api_documents_open_offline(page: Page) -> None:
    page.goto("/docs")
    page.wait_for_selector(".opblock-post")
    assert "flights:predict" in page.content()

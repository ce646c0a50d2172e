"""What stands around the services in deployments/: a real nginx, a real Prometheus, each query of the dashboard."""

import json
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.exported import write_run
from tasks.stage import replacing
from tests.conftest import ROOT, free_port
from tests.serving.test_bundle import model  # noqa: F401  the fixture
from tests.serving.test_server import PATH, ROW, ask, bundle, command, serving  # noqa: F401  the fixture
from tests.sinks import webhook

DEPLOYMENTS = ROOT / "deployments"
DASHBOARD = json.loads((DEPLOYMENTS / "grafana/dashboards/serving.json").read_text())
# Of what a service of one binary model, which follows no channel and refuses nothing, has nothing to tell.
WITHOUT_DATA = {"Numbers", "Releases refused", "Age of the release"}


@contextmanager
def process(*words: str, log: Path, cwd: Path = ROOT) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as said, subprocess.Popen(words, cwd=cwd, stdout=said, stderr=said) as started:
        try:
            yield started
        finally:
            started.terminate()


def wait_for(port: int, path: str, log: Path) -> None:
    deadline = time.monotonic() + 30
    while ask(port, "GET", path)[0] != 200:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def configure(folder: Path, listens: int, *services: int) -> Path:
    """nginx's configuration as it stands in the repository, but for addresses and the folder that it writes to."""
    text = (DEPLOYMENTS / "nginx.conf").read_text()
    for i, port in enumerate(services, 1):
        text = text.replace(f"serving-{i}:8080", f"127.0.0.1:{port}")
    text = text.replace("listen 8080;", f"listen 127.0.0.1:{listens};")
    text = text.replace("/dev/stdout", f"{folder}/access.log").replace("/dev/stderr", f"{folder}/error.log")
    file = folder / "nginx.conf"
    file.write_text(text)
    return file


@contextmanager
def nginx(folder: Path, *services: int) -> Iterator[int]:
    port = free_port()
    file = configure(folder, port, *services)
    log = folder / "start.log"
    with process("nginx", "-p", str(folder), "-c", str(file), "-e", str(log), "-g", "user root; daemon off;", log=log):
        wait_for(port, "/nginx/healthz", log)
        yield port


def test_nginx_takes_its_configuration_and_refuses_one_with_a_typo(tmp_path: Path) -> None:
    file = configure(tmp_path, free_port(), free_port(), free_port())
    check = ["nginx", "-t", "-p", str(tmp_path), "-c", str(file), "-e", "stderr"]
    done = subprocess.run(check, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr
    file.write_text(file.read_text().replace("keepalive 64;", "keepalife 64;"))
    assert "keepalife" in subprocess.run(check, capture_output=True, text=True, timeout=30).stderr


def test_no_request_fails_while_a_service_is_killed_and_comes_back(bundle: Path, tmp_path: Path) -> None:  # noqa: F811
    first, statuses, over = free_port(), Counter[int](), threading.Event()

    def load(port: int) -> None:
        while not over.is_set():
            statuses[ask(port, "POST", PATH, ROW)[0]] += 1

    with ExitStack() as stack:
        second = stack.enter_context(serving(bundle, tmp_path / "second.log"))
        doomed = stack.enter_context(process(*command(bundle, first), log=tmp_path / "first.log"))
        wait_for(first, "/readyz", tmp_path / "first.log")
        port = stack.enter_context(nginx(tmp_path, first, second))
        clients = [threading.Thread(target=load, args=(port,)) for _ in range(4)]
        for client in clients:
            client.start()
        time.sleep(1)
        doomed.kill()
        doomed.wait()
        time.sleep(2)
        stack.enter_context(process(*command(bundle, first), log=tmp_path / "first.log"))
        wait_for(first, "/readyz", tmp_path / "first.log")
        time.sleep(6)  # fail_timeout, and then some
        over.set()
        for client in clients:
            client.join()
        assert set(statuses) == {200}
        assert statuses[200] > 100
        assert ask(port, "GET", "/metrics")[0] == 404
        assert ask(port, "POST", PATH + "?key=tm_secret", ROW, x_request_id="order-66")[0] == 200
    lines = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
    asked = Counter(line["upstream"].split(", ")[-1] for line in lines if line["path"] == PATH)
    assert min(asked[f"127.0.0.1:{first}"], asked[f"127.0.0.1:{second}"]) > 20
    assert lines[-1]["upstream"].startswith("127.0.0.1:")
    back = [line for line in lines[len(lines) // 2 :] if line["upstream"] == f"127.0.0.1:{first}"]
    assert back, "the service that came back was not asked again"
    assert lines[-1]["version"] == "1"
    assert "tm_secret" not in (tmp_path / "access.log").read_text()


def test_nginx_refuses_a_body_beyond_its_limit_and_keeps_probes_of_the_services(bundle: Path, tmp_path: Path) -> None:  # noqa: F811
    with serving(bundle, tmp_path / "log") as service, nginx(tmp_path, service, service) as port:
        assert ask(port, "GET", "/readyz")[0] == 200
        assert ask(port, "POST", PATH, b" " * 105_000_000)[0] in (0, 413)  # closed while the client still sends
        assert ask(port, "POST", PATH, b" " * 2_000_000)[0] == 413  # the service's own
        assert ask(port, "POST", PATH, ROW)[0] == 200


@contextmanager
def prometheus(folder: Path, services: list[int], key: str, exporter: int, alertmanager: int = 9) -> Iterator[int]:
    """Prometheus with the repository's configuration, but for addresses, the place of the key and shorter times."""
    port = free_port()
    (folder / "prometheus.key").write_text(key)
    (folder / "alerts.yml").write_text(re.sub(r"for: \d+[mh]", "for: 1s", (DEPLOYMENTS / "alerts.yml").read_text()))
    text = (DEPLOYMENTS / "prometheus.yml").read_text().replace("/run/secrets", str(folder)).replace("15s", "1s")
    for i, service in enumerate(services, 1):
        text = text.replace(f"serving-{i}:8080", f"127.0.0.1:{service}")
    text = text.replace("node-exporter:9100", f"127.0.0.1:{exporter}").replace("alertmanager:9093", f"127.0.0.1:{alertmanager}")
    (folder / "prometheus.yml").write_text(text)
    words = ["--config.file", folder / "prometheus.yml", "--storage.tsdb.path", folder / "tsdb"]
    with process("prometheus", *map(str, words), f"--web.listen-address=127.0.0.1:{port}", log=folder / "prometheus.log"):
        wait_for(port, "/-/ready", folder / "prometheus.log")
        yield port


@contextmanager
def node_exporter(reports: Path, log: Path) -> Iterator[int]:
    """Prometheus' node exporter, which tells what the *.prom in that folder say and nothing else."""
    port = free_port()
    flags = ["--collector.disable-defaults", "--collector.textfile", f"--collector.textfile.directory={reports}"]
    with process("prometheus-node-exporter", *flags, f"--web.listen-address=127.0.0.1:{port}", log=log):
        wait_for(port, "/metrics", log)
        yield port


@contextmanager
def alertmanager(folder: Path, webhook: str) -> Iterator[int]:
    """Alertmanager with the repository's configuration, but for the webhook's address and shorter times."""
    port, log = free_port(), folder / "alertmanager.log"
    text = (DEPLOYMENTS / "alertmanager.yml").read_text().replace("https://ops.example.com/hooks/alertmanager", webhook)
    (folder / "alertmanager.yml").write_text(re.sub(r"(group_wait|group_interval): \d+[sm]", r"\1: 1s", text))
    words = ["--config.file", folder / "alertmanager.yml", "--storage.path", folder / "alertmanager"]
    listens = [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]
    with process("prometheus-alertmanager", *map(str, words), *listens, log=log):
        wait_for(port, "/-/ready", log)
        yield port


def write_figures(reports: Path, drift: int) -> None:
    """What monitor and retrain leave for Prometheus, by their own code where it is small."""
    look, now = 'model="flights",look="rows"', time.time()
    lines = [
        f"tidemill_monitor_drift{{{look}}} {drift}",
        f"tidemill_monitor_unknown{{{look}}} 0",
        f"tidemill_monitor_last_window_timestamp_seconds{{{look}}} {now - 3600:.0f}",
        f"tidemill_monitor_last_judged_timestamp_seconds{{{look}}} {now:.0f}",
        f"tidemill_monitor_drift_since_timestamp_seconds{{{look}}} {drift * (now - 86400):.0f}",
    ]
    with replacing(reports / "monitor.prom") as aside:
        aside.write_text("\n".join([*lines, ""]))
    write_run(reports.parent, "flights", "retrain", failed=False)


def test_stopped_service_and_drift_are_raised_by_prometheus_and_delivered_by_alertmanager(bundle: Path, tmp_path: Path) -> None:  # noqa: F811
    reports = tmp_path / "reports"
    write_figures(reports, drift=0)
    assert "tidemill_run_failed{" in (reports / "runs.prom").read_text()

    def of(name: str, status: str) -> Callable[[Any], bool]:
        return lambda body: any((one["labels"]["alertname"], one["status"]) == (name, status) for one in body["alerts"])

    with ExitStack() as stack:
        hook = stack.enter_context(webhook())
        exporter = stack.enter_context(node_exporter(reports, tmp_path / "exporter.log"))
        manager = stack.enter_context(alertmanager(tmp_path, hook.url))
        first = stack.enter_context(serving(bundle, tmp_path / "first.log"))
        second, log = free_port(), tmp_path / "second.log"
        doomed = stack.enter_context(process(*command(bundle, second), log=log))
        wait_for(second, "/readyz", log)
        watching = stack.enter_context(prometheus(tmp_path, [first, second], "none", exporter, manager))
        deadline = time.monotonic() + 40
        while not query(watching, "count(up == 1) == 3 and on () count(tidemill_monitor_drift) == 1"):
            assert time.monotonic() < deadline, (tmp_path / "prometheus.log").read_text()
            time.sleep(0.2)
        assert query(watching, 'ALERTS{alertstate="firing"}') == []
        doomed.terminate()
        write_figures(reports, drift=1)
        down = hook.wait(of("ServiceDown", "firing"), 60)
        assert down["alerts"][0]["annotations"]["summary"] == f"127.0.0.1:{second} does not answer"
        assert down["alerts"][0]["labels"]["severity"] == "critical"
        drift = hook.wait(of("Drift", "firing"), 60)
        assert drift["alerts"][0]["annotations"]["summary"].startswith("the last window of flights drifted, by its rows")
        stack.enter_context(process(*command(bundle, second), log=log))
        write_figures(reports, drift=0)
        hook.wait(of("ServiceDown", "resolved"), 60)
        hook.wait(of("Drift", "resolved"), 60)
    fired = {one["labels"]["alertname"] for body in hook.bodies for one in body["alerts"]}
    assert fired == {"ServiceDown", "Drift"}


def query(port: int, expression: str) -> list[dict[str, Any]]:
    """What Prometheus answers now; an error of its own is an AssertionError with its words."""
    address = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{expression}: {error.read().decode()}") from error
    return found


def filled(expression: str) -> str:
    """As Grafana fills in the variables when all is chosen."""
    return expression.replace("$__rate_interval", "20s").replace("$instance", ".*").replace("$model", ".*")


@pytest.fixture(scope="module")
def watched(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:  # noqa: F811
    """The port of a Prometheus that saw two services, behind keys, under some load."""
    folder = tmp_path_factory.mktemp("watched")
    keys = ["--keys", str(folder / "keys.json")]
    made = {
        scope: subprocess.run(
            [sys.executable, "-m", "serving.keys", *keys, "add", scope, "--scope", scope],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for scope in ("predict", "metrics")
    }
    with ExitStack() as stack:
        services = [stack.enter_context(serving(bundle, folder / f"{i}.log", *keys)) for i in range(2)]
        write_figures(folder / "reports", drift=1)
        exporter = stack.enter_context(node_exporter(folder / "reports", folder / "exporter.log"))
        port = stack.enter_context(prometheus(folder, services, made["metrics"], exporter))
        rows = [{"distance": 1.0, "carrier": "ZZ"}, {"carrier": "AA"}, {"distance": 2.0}]
        body, key = json.dumps({"instances": rows}).encode(), made["predict"].strip()
        deadline = time.monotonic() + 40
        while not query(port, "sum(rate(tidemill_requests_total[5s])) > 0 and on () count(up == 1) == 3"):
            assert time.monotonic() < deadline, (folder / "prometheus.log").read_text()
            for service in services:
                assert ask(service, "POST", PATH, body, x_api_key=key)[0] == 200
                assert ask(service, "POST", PATH, b"{", x_api_key=key)[0] == 400
            time.sleep(0.2)
        yield port


def expressions() -> list[tuple[str, str]]:
    """(title, expression) of everything that the dashboard asks."""
    panels = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return panels + [(f"annotation {one['name']}", one["expr"]) for one in DASHBOARD["annotations"]["list"]]


def test_every_query_of_the_dashboard_is_answered(watched: int) -> None:
    assert len(expressions()) > 15
    for title, expression in expressions():
        found = query(watched, filled(expression))
        if title not in WITHOUT_DATA and not title.startswith("annotation"):
            assert found, f"{title} shows nothing: {expression}"
            assert not any(one["value"][1] == "NaN" for one in found), title
    rows = query(watched, filled(next(text for title, text in expressions() if title.startswith("Words"))))
    assert [(one["metric"]["column"], float(one["value"][1])) for one in rows] == [("carrier", pytest.approx(1 / 3, abs=0.01))]
    with pytest.raises(AssertionError, match="parse error"):
        query(watched, "sum(rate(tidemill_requests_total[1m])")


def test_variables_of_the_dashboard_list_what_there_is(watched: int) -> None:
    for variable, wanted in (("model", {"flights"}), ("instance", 2)):
        text = next(one["query"]["query"] for one in DASHBOARD["templating"]["list"] if one["name"] == variable)
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", text)
        assert found
        asked = urllib.parse.urlencode({"match[]": found[1]})
        with urllib.request.urlopen(f"http://127.0.0.1:{watched}/api/v1/label/{found[2]}/values?{asked}", timeout=30) as answer:
            values = set(json.load(answer)["data"])
        assert wanted in (values, len(values))


def test_panels_lie_side_by_side_and_name_the_provisioned_source() -> None:
    source = yaml.safe_load((DEPLOYMENTS / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"][0]
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells), panel["title"]
        taken |= cells
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {source["uid"]}
        assert panel["description"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_alerts_fire_when_they_should_and_not_before(tmp_path: Path) -> None:
    (tmp_path / "prometheus.key").write_text("key")
    for name in ("alerts.yml", "alerts_test.yml", "prometheus.yml"):
        (tmp_path / name).write_text((DEPLOYMENTS / name).read_text().replace("/run/secrets", str(tmp_path)))

    def promtool(*words: str) -> tuple[int, str]:
        done = subprocess.run(["promtool", *words], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    for words in (["check", "config", "prometheus.yml"], ["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        code, said = promtool(*words)
        assert code == 0, said
    rules = yaml.safe_load((tmp_path / "alerts.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
    tried = yaml.safe_load((tmp_path / "alerts_test.yml").read_text())["tests"]
    assert {one["alertname"] for test in tried for one in test["alert_rule_test"] if one["exp_alerts"]} == alerts
    (tmp_path / "alerts.yml").write_text((tmp_path / "alerts.yml").read_text().replace("ratio5m > 0.01", "ratio5m > 0.5"))
    assert promtool("test", "rules", "alerts_test.yml")[0]  # a rule that sleeps is found
    (tmp_path / "prometheus.yml").write_text((tmp_path / "prometheus.yml").read_text().replace("scrape_configs", "scrape_config"))
    assert promtool("check", "config", "prometheus.yml")[0]

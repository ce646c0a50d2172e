"""The README's commands, typed as they stand there, on a fresh clone with little data."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.params import with_values
from tests.conftest import ROOT, SMALL, states, write_sources
from tests.conftest import free_port as port

pytestmark = pytest.mark.slow
README = (ROOT / "README.md").read_text()
# Containers are built and asked in test_container.py, which has a daemon of its own; test_up.py starts and ends server and worker.
HERE = re.sub(r"^## (In a container|On a schedule)\n.*?(?=^## )", "", README, flags=re.DOTALL | re.MULTILINE)
BLOCKS = re.findall(r"```sh\n(.*?)```", HERE, re.DOTALL)


def commands() -> list[str]:
    """Every shell command, comments off, in the README's order."""
    whole = "\n".join(BLOCKS)
    return [line.split("  #")[0].strip() for line in re.split(r"\n(?![ \]])", whole) if line.strip()]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git holds of this checkout, on the small sources."""
    path = tmp_path_factory.mktemp("clone") / "tidemill"
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in files.stdout.splitlines():
        if (ROOT / name).is_file() and name != "dvc.lock":
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, path / name)
    subprocess.run("git init -q && git add -A", shell=True, cwd=path, check=True)
    write_sources(path / "sources")
    (path / "params.yaml").write_text(with_values((path / "params.yaml").read_text(), SMALL))
    return path


def write_rows(path: Path, releases: Path) -> None:
    """A release's golden rows as a user's file."""
    golden = json.loads(next(releases.glob("*/golden.json")).read_text())["instances"]
    names = sorted({name for row in golden for name in row})
    pq.write_table(pa.table({name: [row.get(name) for row in golden] for name in names}), path)


def write_customers(path: Path) -> None:
    """A user's table: who left, from what was known of them."""
    draw = np.random.default_rng(0)
    rows = 1500
    months, plan, calls = draw.integers(1, 72, rows), draw.choice(["basic", "plus", "family"], rows), draw.poisson(2, rows)
    gone = draw.random(rows) < 1 / (1 + np.exp(months / 12 - calls + (plan == "family")))
    lines = [
        f"{i},{m},{p},{c},{'yes' if g else 'no'}" for i, (m, p, c, g) in enumerate(zip(months, plan, calls, gone, strict=True))
    ]
    path.write_text("\n".join(["customer,months,plan,calls,churned", *lines]) + "\n")


def test_readme_has_the_commands_that_are_tested() -> None:
    assert [command.split(" -d ")[0] for command in commands()] == [
        "make train",
        "make test",
        "python -m flows.train",
        "python -m flows.train --set train.epochs=3",
        "python -m flows.train --offline",
        "dvc repro",
        "python -m flows.new ../churn --data customers.csv --target churned",
        "python -m flows.train --workspace ../churn",
        "python -m flows.doctor --workspace ../churn",
        "python -m flows.schema --workspace ../churn",
        "python -m flows.rollout list",
        "python -m flows.rollout rollback",
        "python -m flows.rollout history",
        "python -m serving",
        "curl -s http://127.0.0.1:8080/v1/models/flights:predict",
        "curl -s http://127.0.0.1:8080/v1/models/flights:predict --data-binary @rows.parquet -o answers.parquet \\\n"
        "  -H 'content-type: application/vnd.apache.parquet'",
        "python -m serving.batch rows.parquet answers.parquet",
        "python -m serving --log predictions",
        "curl -s http://127.0.0.1:8080/v1/models/flights:feedback",
        "python -m serving.keys add shop --scope predict --days 90 --per-second 100",
        "python -m serving --host 0.0.0.0 --keys keys.json",
        "python -m serving --host 0.0.0.0 --jwks https://id.example.com/jwks.json --audience flights --issuer https://id.example.com",
        "python -m flows.monitor",
        "python -m flows.monitor --table rows.parquet",
        "python -m flows.alert list",
        "python -m flows.retrain",
    ]


@pytest.mark.timeout(2400)  # several whole runs: 9 minutes alone, over 15 where the machine is shared
def test_readme_commands_work_on_a_fresh_clone(clone: Path, environment: dict[str, str]) -> None:
    fresh = {key: value for key, value in environment.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def shell(command: str) -> str:
        activated = command if command.startswith("make") else f". .venv/bin/activate && {command}"
        done = subprocess.run(activated, shell=True, cwd=clone, env=fresh, capture_output=True, text=True, timeout=850)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    train, _, again, changed, offline, repro, new, learn, doctor, schema, *rest = commands()
    listing, rollback, history, serve, curl, send_file, score_file, keep_log, feedback, *doors = rest
    add_key, serve_keys, serve_tokens, monitor, table, alerts, retrain = doors
    assert set(states(shell(train)).values()) == {"Completed"}
    assert set(states(shell(again)).values()) == {"Cached"}
    assert "train.epochs 2 -> 3" in shell(changed)
    assert set(states(shell(offline)).values()) == {"Cached"}
    assert "up to date" in shell(repro)

    write_customers(clone / "customers.csv")
    assert "binary target 'churned'" in shell(new)
    assert set(states(shell(learn)).values()) == {"Completed"}
    assert ", 0 faults" in shell(doctor)
    assert "nothing to do" in shell(schema)

    assert "2 versions in " in shell(listing)
    assert "production serves flights " in shell(rollback)
    assert "rolled back by hand" in shell(history)

    def ask(start: str, *flags: str) -> dict[str, Any]:
        """What the README's curl gets of the service, started so, on this machine alone."""
        answer: dict[str, Any] = json.loads(answered(start, curl, *flags))
        return answer

    def answered(start: str, command: str, *flags: str) -> str:
        """What the command prints while the service is up."""
        number = str(port())
        run = f". .venv/bin/activate && exec {start.replace('0.0.0.0', '127.0.0.1')} --port {number}"
        with subprocess.Popen(run, shell=True, cwd=clone, env=fresh) as service:
            try:
                shell(f"curl -s --retry 30 --retry-delay 1 --retry-connrefused http://127.0.0.1:{number}/healthz")
                return shell(" ".join([command.replace("8080", number), *flags]))
            finally:
                service.terminate()

    assert 0 < ask(serve)["predictions"][0] < 1
    write_rows(clone / "rows.parquet", clone / "releases")
    answered(serve, send_file)
    by_service = pq.read_table(clone / "answers.parquet").to_pydict()
    assert "rows scored, answers.parquet" in shell(score_file)
    assert pq.read_table(clone / "answers.parquet").to_pydict() == by_service
    assert 0 < ask(keep_log)["predictions"][0] < 1
    assert json.loads(answered(keep_log, feedback)) == {"accepted": 1}
    assert len(list((clone / "predictions/flights/feedback").rglob("*.parquet"))) == 1
    key = shell(add_key).strip()
    assert ask(serve_keys)["status"] == 401
    assert 0 < ask(serve_keys, "-H", f"'Authorization: Bearer {key}'")["predictions"][0] < 1
    refused = subprocess.run(
        f". .venv/bin/activate && {serve_tokens}", shell=True, cwd=clone, env=fresh, capture_output=True, text=True, timeout=60
    )
    assert (refused.returncode, "no keys at https://id.example.com/jwks.json" in refused.stderr) == (
        1,
        True,
    )  # there is no such host
    assert "nothing is due" in shell(monitor)
    assert "too few rows: 16" in shell(table)
    assert "0 open" in shell(alerts)
    assert "came out again, which was rolled back before" in shell(retrain)

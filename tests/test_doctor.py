"""The doctor: what it says of a machine and a workspace that are well, and of each thing that is not."""

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest

from flows.doctor import main
from flows.new import main as new
from tasks.claim import claim_lock
from tasks.health import check_packages, check_port
from tasks.params import change_params
from tasks.releases import open_releases
from tasks.stage import content_hash
from tests.conftest import ROOT, free_port

Said = Callable[..., tuple[int, dict[str, str]]]


@pytest.fixture
def workspace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A new workspace for a small table."""
    with (tmp_path / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["x", "y"], *([i % 37, "up" if i % 3 else "down"] for i in range(100))])
    assert new([str(tmp_path / "work"), "--data", str(tmp_path / "table.csv"), "--target", "y"]) == 0
    capsys.readouterr()
    return tmp_path / "work"


@pytest.fixture
def said(workspace: Path, capsys: pytest.CaptureFixture[str]) -> Said:
    """The exit code, and the doctor's lines by what they are on."""

    def ask() -> tuple[int, dict[str, str]]:
        code = main(["--workspace", str(workspace)])
        captured = capsys.readouterr()
        lines = [line.split(": ", 2) for line in captured.out.splitlines()[:-1]]
        return code, {what: f"{state}: {found}" for state, what, found in lines}

    return ask


def release(workspace: Path) -> Path:
    """A release of one file, as publish leaves it."""
    home, releases = workspace / "releases/abc", open_releases(workspace)
    home.mkdir(parents=True)
    (home / "model.tflite").write_bytes(b"weights")
    files = {"model.tflite": {"sha256": content_hash(home / "model.tflite")}}
    (home / "manifest.json").write_text(json.dumps({"name": "work", "version": "abc", "chosen": "student", "files": files}))
    releases.promote("abc", None, now=None, by="a test", why="")
    return home


def test_new_workspace_has_no_fault_and_is_left_as_it_was(workspace: Path, said: Said) -> None:
    def files() -> dict[str, int]:
        return {str(path): path.lstat().st_mtime_ns for path in workspace.rglob("*")}

    before = files()
    code, lines = said()
    assert code == 0, lines
    assert lines["params"].startswith("ok: ")
    assert lines["source data"].startswith("ok: 1 file at ")
    assert {what for what, line in lines.items() if line.startswith("warning")} >= {"sources.lock", "schema", "remote", "release"}
    assert files() == before


def test_doctor_runs_as_a_command_within_seconds(workspace: Path) -> None:
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "flows.doctor", "--workspace", str(workspace)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith(" 0 faults")
    assert time.monotonic() - started < 30  # 3 s on an idle machine


def test_folder_without_workspace_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--workspace", str(tmp_path)]) == 1
    assert "fault: params: " in capsys.readouterr().out


def test_value_that_is_not_allowed_is_a_fault(workspace: Path, said: Said) -> None:
    path = workspace / "params.yaml"
    path.write_text(path.read_text().replace("patience:", "patienc:"))
    code, lines = said()
    assert code == 1
    assert "did you mean 'patience'?" in lines["params"]


def test_source_that_is_gone_is_a_fault(workspace: Path, said: Said) -> None:
    (workspace.parent / "table.csv").unlink()
    code, lines = said()
    assert (code, lines["source data"].split(" ")[0]) == (1, "fault:")


@pytest.mark.parametrize(
    "source",
    [
        "{kind: api, url: 'http://127.0.0.1:PORT/rows', rows: ''}",
        "{kind: sql, url: 'postgresql://127.0.0.1:PORT/shop', table: t}",
        "{kind: file, file: 'http://127.0.0.1:PORT/a.csv'}",
    ],
)
def test_source_on_another_machine_is_knocked_at(workspace: Path, said: Said, source: str) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        change_params(workspace, [f"sources.data={source.replace('PORT', str(port))}"])
        assert said()[1]["source data"] == f"ok: 127.0.0.1:{port} answers"
    code, lines = said()
    assert (code, "does not answer" in lines["source data"]) == (1, True)


def test_secret_is_asked_for_by_name_and_never_shown(
    workspace: Path, said: Said, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change_params(workspace, ["sources.data={kind: sql, url: 'sqlite:///a.db', table: t, password: 'env:SHOP_PASSWORD'}"])
    monkeypatch.delenv("SHOP_PASSWORD", raising=False)
    assert "SHOP_PASSWORD is not set" in said()[1]["secret"]
    monkeypatch.setenv("SHOP_PASSWORD", "hunter2")
    lines = said()[1]
    assert lines["secret"] == "ok: env:SHOP_PASSWORD is set"
    assert "hunter2" not in str(lines)


def test_code_that_is_not_linked_is_a_fault_with_the_command(workspace: Path, said: Said) -> None:
    (workspace / "tasks").unlink()
    code, lines = said()
    assert code == 1
    assert f"ln -sfn {ROOT / 'tasks'} {workspace / 'tasks'}" in lines["graph"]


def test_workspace_that_a_run_has_is_told(workspace: Path, said: Said) -> None:
    with claim_lock(workspace):
        assert "is in use by run" in said()[1]["run"]
    assert said()[1]["run"] == "ok: nobody has the workspace"


def test_lock_that_is_broken_is_a_fault(workspace: Path, said: Said) -> None:
    (workspace / "sources.lock").write_text("<<<<<<< HEAD\n")
    assert said()[1]["sources.lock"].startswith("fault: ")
    (workspace / "sources.lock").write_text("other: {sha256: a}\n")
    assert said()[1]["sources.lock"].startswith("warning: ")


def test_release_that_was_touched_is_a_fault(workspace: Path, said: Said) -> None:
    home = release(workspace)
    assert said()[1]["release"] == "ok: abc, 1 files as its manifest says"
    (home / "model.tflite").write_bytes(b"weighty")
    assert "model.tflite has changed" in said()[1]["release"]
    shutil.rmtree(home)
    assert "holds no version abc" in said()[1]["release"]


def remote(workspace: Path, url: str, **settings: str) -> None:
    lines = "".join(f"    {key} = {value}\n" for key, value in settings.items())
    (workspace / ".dvc/config").write_text(f"[core]\n    remote = far\n['remote \"far\"']\n    url = {url}\n{lines}")


def test_folder_as_remote_is_looked_for(workspace: Path, said: Said) -> None:
    remote(workspace, "../../store")
    assert said()[1]["remote far"].startswith("warning: no folder")
    (workspace.parent / "store").mkdir()
    assert said()[1]["remote far"].startswith("ok: ")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """An S3 service on loopback with the bucket `mill`."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 60
            while check_port(port, "S3").state == "ok":
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
            client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **keys)
            client.create_bucket(Bucket="mill")
            client.close()
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def test_bucket_as_remote_is_asked_for(workspace: Path, said: Said, s3: str) -> None:
    keys = {"endpointurl": s3, "region": "us-east-1", "access_key_id": "a", "secret_access_key": "hunter2"}
    remote(workspace, "s3://mill/dvc", **keys)
    assert said()[1]["remote far"] == "ok: s3://mill answers"
    remote(workspace, "s3://other/dvc", **keys)
    assert "there is no such bucket" in said()[1]["remote far"]
    remote(workspace, "s3://mill/dvc", **{**keys, "endpointurl": f"http://127.0.0.1:{free_port()}"})
    code, lines = said()
    assert (code, lines["remote far"].startswith("fault: s3://mill: EndpointConnectionError")) == (1, True)
    assert "hunter2" not in str(lines)


def test_port_that_is_taken_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert check_port(taken.getsockname()[1], "serving").state == "warning"
    assert check_port(free_port(), "serving").state == "ok"


def test_packages_of_this_environment_are_within_bounds() -> None:
    assert check_packages()[0].state == "ok", check_packages()

"""kill -9 at any moment: one plain rerun gives what an undisturbed run gives, and goes on from where it was."""

import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.context import refresh_global_settings_context

from tasks import claim
from tasks.child import CHILD
from tasks.core.errors import TidemillError
from tasks.reproduce import LOCK_COPY, heal
from tests.conftest import ROOT, Workspace, free_port, hashes, states
from tests.light import make_light, production

pytestmark = pytest.mark.slow


def stage_process(workspace: Workspace, module: str) -> psutil.Process | None:
    """The process that runs the stage in this workspace: other tests run theirs beside it."""
    for process in psutil.process_iter(["cmdline", "cwd"]):
        command = process.info["cmdline"] or []
        if module in command and "-m" in command and process.info["cwd"] == str(workspace.path.resolve()):
            return process
    return None


def kill_stage_after(workspace: Workspace, module: str, line: str, *flags: str) -> str:
    """Run the flow, kill -9 the stage's process as soon as it says the line; returns what was said."""
    said = []
    with workspace.start("-m", "flows.train", *flags) as run:
        assert run.stdout is not None
        for text in run.stdout:
            said.append(text)
            if line in text:
                process = stage_process(workspace, module)
                assert process is not None
                process.send_signal(signal.SIGKILL)
                break
        said.append(run.stdout.read())
    assert run.returncode == 1, "".join(said)
    return "".join(said)


def test_killed_tune_goes_on_after_its_finished_trials(workspace: Workspace) -> None:
    flags = ["--set", "tune.rows=9000", "--set", "tune.parallel=1"]  # of other rows no trial is known
    said = kill_stage_after(workspace, "tasks.tune", "trial 1 of 3: validation", *flags)
    assert "tune was killed" in said
    assert "Traceback" not in said
    assert not (workspace.path / "models/hparams.json").exists()
    again = workspace.run("-m", "dvc", "repro", "--single-item", "tune")
    assert "going on after 1 finished trials" in again.stdout
    resumed = (workspace.path / "reports/trials.csv").read_text()
    undisturbed = workspace.run("-m", "dvc", "repro", "--single-item", "--force", "tune")
    assert "trial 1 of 3" not in undisturbed.stdout  # the journal of equal inputs serves it too
    (workspace.path / ".cache/tune").rename(workspace.path / "old")
    workspace.run("-m", "dvc", "repro", "--single-item", "--force", "--no-run-cache", "tune")
    assert (workspace.path / "reports/trials.csv").read_text() == resumed


def test_killed_train_goes_on_from_its_checkpoint_to_the_same_weights(workspace: Workspace) -> None:
    kill_stage_after(workspace, "tasks.train", ", epoch 2 of 4: train loss", "--set", "train.epochs=4")
    assert not (workspace.path / "models/teacher").exists()
    again = workspace.run("-m", "dvc", "repro", "--single-item", "train")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "going on after epoch 2" in again.stdout
    assert not re.search("network 1, .*, epoch 1 of 4", again.stdout)
    resumed = (workspace.path / "models/teacher/network/weights.npz").read_bytes()
    (workspace.path / ".cache/train").rename(workspace.path / "old")
    fresh = workspace.run("-m", "dvc", "repro", "--single-item", "--force", "--no-run-cache", "train")
    assert re.search("network 1, .*, epoch 1 of 4", fresh.stdout)
    assert (workspace.path / "models/teacher/network/weights.npz").read_bytes() == resumed


def test_whole_run_killed_at_random_moments_then_rerun_equals_undisturbed(workspace: Workspace) -> None:
    wanted = hashes(workspace.path)
    for path in (
        "dvc.lock",
        ".dvc/cache",
        ".cache",
        "models",
        "reports",
        "data/raw",
        "data/valid",
        "data/quarantine",
        "data/features",
    ):
        (workspace.path / path).rename(workspace.path / f"old_{path.replace('/', '_').lstrip('.')}")
    chance = random.Random(5)
    for _ in range(int(os.environ.get("KILLS", "4"))):
        with workspace.start("-m", "flows.train") as run:
            time.sleep(chance.uniform(2.5, 16))
            run.kill()
    done = workspace.train()
    assert done.returncode == 0, done.stdout + done.stderr
    made = hashes(workspace.path)
    assert {path for path in wanted if made[path] != wanted[path]} == set()
    assert set(states(workspace.train().stdout).values()) == {"Cached"}
    assert unfinished_runs(workspace) == []


def unfinished_runs(workspace: Workspace) -> list[str]:
    """Runs that the server still takes for running in this workspace."""
    before = os.environ.copy()
    os.environ.update({key: workspace.environment[key] for key in ("PREFECT_API_URL", "PREFECT_HOME")})
    refresh_global_settings_context()
    try:
        with get_client(sync_client=True) as client:
            runs = client.read_flow_runs()
    finally:
        os.environ.clear()
        os.environ.update(before)
        refresh_global_settings_context()
    mine = [run for run in runs if run.parameters.get("workspace") == str(workspace.path.resolve())]
    assert mine
    return [run.name for run in mine if run.state is None or not run.state.is_final()]


def test_terminated_run_exits_143_and_is_cancelled(workspace: Workspace) -> None:
    with workspace.start("-m", "flows.train", "--set", "train.epochs=1") as run:
        assert run.stdout is not None
        for line in run.stdout:
            if line.startswith("train: runs"):
                break
        run.terminate()
        rest = run.stdout.read()
    assert run.returncode == 143
    assert "stopped; the next run goes on from here" in rest
    assert unfinished_runs(workspace) == []
    assert stage_process(workspace, "tasks.train") is None


def test_reader_that_goes_away_costs_the_rest_of_the_output_and_not_the_run(tmp_path: Path, environment: dict[str, str]) -> None:
    make_light(tmp_path / "light")
    with Workspace(tmp_path / "light", environment).start("-m", "flows.train") as run:
        assert run.stdout is not None
        assert run.stdout.readline()
        run.stdout.close()  # as `head -1` does
    assert run.returncode == 0
    assert production(tmp_path / "light")


def test_output_is_not_held_back_where_it_was_not() -> None:
    code = "import sys; from pathlib import Path; from tasks.told import Told; Told.of('train', Path()); print('here'); "
    code += "sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-u", "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 60)[0]
        assert process.stdout.readline() == b"here\n"


def test_stop_that_a_destructor_swallows_is_asked_for_again() -> None:
    class Swallows:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    def work() -> None:
        Swallows()
        time.sleep(5)

    with pytest.raises(claim.Terminated), claim.terminable():
        work()


@pytest.mark.parametrize("content", ["3", "[]", '{"pid": 1, "run": "x"}', '{"pid": 1', '{"pid": "x", "started": 1}', ""])
def test_records_of_a_killed_run_that_are_none_are_passed_over(tmp_path: Path, content: str) -> None:
    for path in (claim.HOLDER, CHILD):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(content)
    with claim.claim(tmp_path) as dead:
        assert dead == []
    assert not (tmp_path / CHILD).exists()


def test_run_whose_server_is_lost_says_so_and_the_next_goes_on(workspace: Workspace, tmp_path: Path) -> None:
    home = tmp_path / "prefect"
    alone = {
        **workspace.environment,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api",
        "PREFECT_CLIENT_MAX_RETRIES": "0",  # Prefect's own patience of two minutes, for a server that comes back
    }
    with Workspace(workspace.path, alone).start("-m", "flows.train", "--set", "train.epochs=1") as run:
        assert run.stdout is not None
        for line in run.stdout:
            if line.startswith("train: runs"):
                break
        psutil.Process(int((home / "server.pid").read_text())).kill()
        rest = run.stdout.read()
    assert run.returncode == 1
    assert f"error: the Prefect server at {alone['PREFECT_API_URL']} went away" in rest
    assert "Traceback" not in rest
    done = workspace.train()
    assert done.returncode == 0
    assert states(done.stdout)["tune"] == "Cached"


def test_heal_puts_back_files_that_dvc_was_writing(tmp_path: Path) -> None:
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    whole = "schema: '2.0'\nstages:\n  ingest:\n    cmd: python\n"
    (tmp_path / LOCK_COPY).write_text(whole)
    (tmp_path / "dvc.lock").write_text(whole[:20])
    (tmp_path / ".dvc/tmp/rwlock").write_text('{"read": {')
    heal(tmp_path)
    assert (tmp_path / "dvc.lock").read_text() == whole
    assert not (tmp_path / ".dvc/tmp/rwlock").exists()


def test_replacing_leaves_the_old_file_when_the_new_one_fails(tmp_path: Path) -> None:
    from tasks.stage import replacing

    path = tmp_path / "model.json"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as aside:
            aside.write_text("half")
            raise TidemillError("no more")

    with pytest.raises(TidemillError):
        write_half()
    assert path.read_text() == "old"
    assert [child.name for child in tmp_path.iterdir()] == ["model.json"]

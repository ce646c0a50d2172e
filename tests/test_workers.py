"""Several processes train one network: to the weights of one process, whatever is killed or hangs meanwhile."""

import dataclasses
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from tasks.cluster import Cluster, find_cluster, free_addresses
from tasks.core.errors import DivergedError, ParamsError, TidemillError
from tasks.core.models import NetworkSpec
from tasks.core.training import Schedule
from tasks.features import ArrayWriter
from tasks.fit import Fitted, Job
from tasks.params import Compute
from tasks.supervise import fit_network
from tests.conftest import running

pytestmark = pytest.mark.slow

SPEC = NetworkSpec(
    numbers=2, flags=0, categories=(3,), texts=(), bins=2, embedding=2, hidden=(8,), members=2, dropout=0.0, embedding_dropout=0.0
)
PAIR = Cluster(2, (0, 1), ())


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows whose target follows from the first number and the category."""
    folder = tmp_path_factory.mktemp("rows") / "features"
    arrays: dict[str, tuple[tuple[int, ...], type]]
    arrays = {"num": ((2,), np.float32), "cat": ((1,), np.int32), "target": ((), np.float32)}
    draw = np.random.default_rng(1)
    with ArrayWriter(folder, {"train": (2100, arrays), "validation": (301, arrays)}) as writer:
        for part, count in (("train", 2100), ("validation", 301)):
            num = draw.uniform(-1, 1, (count, 2)).astype(np.float32)
            cat = draw.integers(0, 3, (count, 1)).astype(np.int32)
            target = (num[:, 0] + 0.5 * (cat[:, 0] - 1) > 0).astype(np.float32)
            writer.write(part, {"num": num, "cat": cat, "target": target})
    return folder


def job(features: Path, *, epochs: int = 3, dropout: float = 0.0, learning_rate: float = 0.01) -> Job:
    schedule = Schedule(epochs, 64, learning_rate, 0.01, 5, patience=epochs)
    return Job("train", dataclasses.replace(SPEC, dropout=dropout, embedding_dropout=dropout), "binary", schedule, features)


def farthest(ours: Fitted, theirs: Fitted) -> float:
    """The largest difference of a weight, as a share of the largest weight of its array."""
    pairs = zip(ours.weights, theirs.weights, strict=True)
    return max(float(np.abs(one - other).max() / np.abs(other).max()) for one, other in pairs)


def assert_same(ours: list[NDArray[Any]], theirs: list[NDArray[Any]]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def meanwhile(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


def test_two_workers_come_to_the_weights_of_one_process(features: Path, tmp_path: Path) -> None:
    alone = fit_network(job(features), tmp_path / "alone", None, restarts=0)
    together = fit_network(job(features), tmp_path / "together", PAIR, restarts=0)
    assert farthest(together, alone) < 1e-5
    losses = [[(epoch.train_loss, epoch.validation_loss) for epoch in fitted.epochs] for fitted in (alone, together)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    assert alone.epochs[-1].validation_loss < alone.epochs[0].validation_loss
    assert not running("tasks.worker")


def test_machines_that_supervise_a_worker_each_come_to_the_same_weights(features: Path, tmp_path: Path) -> None:
    addresses = free_addresses(2)

    def fit(machine: int) -> Fitted:
        return fit_network(job(features), tmp_path / str(machine), Cluster(2, (machine,), addresses), restarts=2)

    with ThreadPoolExecutor(2) as machines:
        one, other = machines.map(fit, range(2))
    assert_same(one.weights, other.weights)
    assert len(one.epochs) == len(other.epochs) == 3
    assert not running("tasks.worker")


def test_killed_worker_costs_no_bit_of_the_weights(features: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = job(features, epochs=40, dropout=0.2)
    undisturbed = fit_network(asked, tmp_path / "undisturbed", PAIR, restarts=0)
    draw = random.Random(int(os.environ.get("KILLS_SEED", "3")))
    for kill in range(int(os.environ.get("KILLS", "1"))):
        folder = tmp_path / str(kill)
        chosen, delay = draw.randrange(2), draw.uniform(0, 0.6)

        def strike(folder: Path = folder, chosen: int = chosen, delay: float = delay) -> None:
            wait_for((folder / "checkpoint.npz").exists)
            time.sleep(delay)
            running("tasks.worker")[chosen].kill()

        thread = meanwhile(strike)
        disturbed = fit_network(asked, folder, PAIR, restarts=2)
        thread.join()
        assert f"worker {chosen} was killed by SIGKILL; all go on from the last checkpoint, restart 1 of 2" in caplog.text
        caplog.clear()
        assert_same(disturbed.weights, undisturbed.weights)
        assert [epoch.train_loss for epoch in disturbed.epochs] == [epoch.train_loss for epoch in undisturbed.epochs]


def test_stopped_worker_is_noticed_within_a_minute(features: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stopped = []

    def strike() -> None:
        wait_for((tmp_path / "checkpoint.npz").exists)
        stopped.append(time.time())
        running("tasks.worker")[1].send_signal(signal.SIGSTOP)

    thread = meanwhile(strike)
    fit_network(job(features, epochs=60), tmp_path, PAIR, restarts=1)
    thread.join()
    # By its silence, or by the other one, which TensorFlow told that it cannot be reached.
    noticed = next(record.created for record in caplog.records if "all go on from the last checkpoint" in record.message)
    assert 0 < noticed - stopped[0] < 60
    print(f"noticed after {noticed - stopped[0]:.0f} s")


def test_worker_that_always_dies_ends_in_one_error(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "none")  # this process has its Keras, the workers will find none
    with pytest.raises(TidemillError, match=r"train: worker \d ended with exit code 1, after 1 restarts \(compute.restarts\)"):
        fit_network(job(features), tmp_path, PAIR, restarts=1)
    assert "restart 1 of 1" in caplog.text
    assert not running("tasks.worker")


def test_error_that_a_worker_tells_is_the_run_s_error_at_once(features: Path, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"the loss became \S+ in epoch \d; lower the learning rate"):
        fit_network(job(features, learning_rate=1e20), tmp_path, PAIR, restarts=3)
    assert not running("tasks.worker")


def test_workers_die_with_their_supervisor(features: Path, tmp_path: Path) -> None:
    pid = os.fork()
    if not pid:
        try:
            fit_network(job(features, epochs=5000), tmp_path, PAIR, restarts=0)
        finally:
            os._exit(1)
    wait_for((tmp_path / "checkpoint.npz").exists)
    children = running("tasks.worker", pid)
    assert len(children) == 2
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]


def compute(**values: Any) -> Compute:
    return Compute.model_validate_json(json.dumps({"workers": 1, "hosts": [], "restarts": 1, **values}))


def test_cluster_is_what_the_environment_or_params_say(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_cluster(compute()) is None
    assert find_cluster(compute(workers=3)) == Cluster(3, (0, 1, 2), ())
    elsewhere = "192.0.2.1:7000"  # TEST-NET-1, RFC 5737: nobody's
    assert find_cluster(compute(workers=2, hosts=[elsewhere, "127.0.0.1:7000"])) == Cluster(2, (1,), (elsewhere, "127.0.0.1:7000"))
    with pytest.raises(ParamsError, match="name no address of this machine"):
        find_cluster(compute(hosts=[elsewhere]))
    named = {"cluster": {"chief": ["a:1"], "worker": ["b:1", "c:1"]}, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(named))
    assert find_cluster(compute()) == Cluster(3, (2,), ("a:1", "b:1", "c:1"))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}'])
def test_tf_config_that_names_no_worker_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ParamsError, match="TF_CONFIG names no worker"):
        find_cluster(compute())

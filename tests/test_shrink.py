"""Every candidate that compress can make, of a small network: bits, zeros and distinct values on disk, and alike answers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from tasks.core.encoder import Encoder
from tasks.core.models import NetworkSpec, build
from tasks.core.rows import Rows
from tasks.core.runtime import Network
from tasks.core.target import Target
from tasks.core.training import predict
from tasks.networks import load_network, save_network
from tasks.params import with_values
from tasks.teacher import save_opinion
from tests.conftest import ROOT

SPEC = NetworkSpec(numbers=6, flags=1, categories=(300, 40), texts=(), bins=8, embedding=4, hidden=(48, 32))
TABLE, FIRST = (340, 4), (48, 6 * 8 + 1 + 2 * 4)  # shapes of the vectors and of the first dense layer, as LiteRT holds them
CLUSTERS, SPARSITY = 16, 0.6
ALL = [
    "student",
    "student int8 weights",
    "student int8",
    "student aware int8",
    "student pruned int8",
    "student clustered int8",
    "student pruned clustered int8",
    "student pruned aware int8",
    "student clustered aware int8",
    "student pruned clustered aware int8",
    "large",
]
SETTINGS = [
    f"compress.candidates={json.dumps(ALL)}",
    f"compress.clusters={CLUSTERS}",
    f"compress.sparsity={SPARSITY}",
    "compress.epochs=4",
    "compress.batch=64",
    "compress.learning_rate=0.001",
    "compress.calibration_rows=200",
]


@pytest.fixture(scope="module")
def lesson() -> Rows:
    """Rows with what a network says of them."""
    random = np.random.default_rng(0)
    num = random.uniform(-1, 1, (4000, 7)).astype(np.float32)
    cat = np.column_stack([random.integers(0, size, 4000) for size in SPEC.categories]).astype(np.int32)
    rows = Rows({"num": num, "cat": cat}, np.zeros(4000, np.float32))
    return rows.taught(predict(network(), "binary", rows))


def network() -> Any:
    keras.utils.set_random_seed(1)
    model = build(keras, SPEC)
    model.get_layer("categories").table.assign(keras.random.normal(TABLE, seed=1))
    return model


def compress(home: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """The stage, as DVC runs it."""
    (home / "params.yaml").write_text(with_values((ROOT / "params.yaml").read_text(), [*SETTINGS, *settings]))
    flags = {"features": "features", "teacher": "teacher", "student": "student", "student-alone": "alone"}
    flags |= {"candidates": "candidates", "compression": "compression.json"}
    command = [sys.executable, "-m", "tasks.compress", *(word for flag in flags.items() for word in (f"--{flag[0]}", flag[1]))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def made(lesson: Rows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the stage made every candidate."""
    home = tmp_path_factory.mktemp("compress")
    weights = network().get_weights()
    for name in ("student", "alone"):
        save_network(home / name, SPEC, weights)
    save_opinion(home / "teacher", [], {"train": lesson.target, "made": lesson.target[:0]}, lesson.head(0))
    save_network(home / "teacher/network", SPEC, weights)
    (home / "features/train").mkdir(parents=True)
    (home / "features/encoder.json").write_text(json.dumps(Encoder((), (), (), (), Target("binary", "y", (0, 1))).to_json()))
    for name, array in {**lesson.inputs, "target": np.round(lesson.target)}.items():
        np.save(home / f"features/train/{name}.npy", array)
    done = compress(home)
    assert done.returncode == 0, done.stdout + done.stderr
    return home


def constants(content: bytes) -> dict[tuple[int, ...], NDArray[Any]]:
    """What the file holds, by shape."""
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    wanted = {TABLE, FIRST}
    details = [one for one in interpreter.get_tensor_details() if tuple(one["shape"]) in wanted]
    return {tuple(one["shape"]): interpreter.get_tensor(one["index"]) for one in details}


@pytest.mark.parametrize("name", ALL)
def test_candidate_on_disk_is_what_its_name_says_and_answers_as_the_student(name: str, made: Path, lesson: Rows) -> None:
    home = made / "candidates" / name.replace(" ", "_")
    content = (home / "model.tflite").read_bytes()
    said = Network(content)(lesson.inputs)
    pruned, clustered = "pruned" in name, "clustered" in name
    assert np.abs(said - lesson.target).mean() < (0.05 if pruned else 0.02)
    _, twin = load_network(keras, home)  # the float network behind it, which the SavedModel answers by
    assert np.abs(predict(twin, "binary", lesson) - said).mean() < 0.015

    found, about = constants(content), json.loads((made / "compression.json").read_text())[name]
    assert set(found) == {TABLE, FIRST}
    assert {array.dtype for array in found.values()} == {np.dtype(np.int8 if "int8" in name else np.float32)}
    assert about["bytes"] == len(content)
    if pruned:
        assert about["zeros"] == pytest.approx(SPARSITY, abs=0.03)
        assert (found[FIRST] == 0).mean() > SPARSITY - 0.05
    else:
        assert about["zeros"] < 0.01
    if clustered:
        assert about["distinct"] <= CLUSTERS
        assert len(np.unique(found[FIRST])) <= CLUSTERS
        assert about["packed_bytes"] < 0.8 * len(content)
    elif "aware" not in name:
        assert about["distinct"] > 2 * CLUSTERS


def test_candidates_are_listed_in_their_order_and_eight_bits_take_under_half_of_the_bytes(made: Path) -> None:
    listing = json.loads((made / "candidates/candidates.json").read_text())
    assert [one["name"] for one in listing] == ALL
    sizes = {one["name"]: one["bytes"] for one in listing}
    assert all(size < sizes["student"] / 2 for name, size in sizes.items() if "int8" in name)


def test_batch_that_the_rows_do_not_fill_is_refused_and_what_was_there_stays(made: Path) -> None:
    before = (made / "candidates/candidates.json").read_bytes()
    done = compress(made, "compress.batch=5000")
    assert done.returncode == 3
    assert "4,000 training rows do not fill one batch of 5,000; lower compress.batch" in done.stderr
    assert "Traceback" not in done.stderr
    assert (made / "candidates/candidates.json").read_bytes() == before

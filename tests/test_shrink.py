"""Every candidate that compress can make, of a small network: bits, zeros and distinct values on disk, and alike answers."""

from typing import Any

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from tasks.compress import Made, describe, list_ways
from tasks.core.models import NetworkSpec, build
from tasks.core.rows import Rows
from tasks.core.runtime import Network
from tasks.core.training import predict
from tasks.lite import to_tflite
from tasks.networks import save_network
from tasks.params import Candidate, Compress, Params, with_values
from tasks.shrink import FineTuning
from tests.conftest import ROOT

SPEC = NetworkSpec(numbers=6, flags=1, categories=(300, 40), texts=(), bins=8, embedding=4, hidden=(48, 32))
TABLE, FIRST = (340, 4), (48, 6 * 8 + 1 + 2 * 4)  # shapes of the vectors and of the first dense layer, as LiteRT holds them
CLUSTERS, SPARSITY = 16, 0.6


@pytest.fixture(scope="module")
def lesson() -> tuple[Any, Rows]:
    """A network, and rows with what it says of them."""
    keras.utils.set_random_seed(1)
    model = build(keras, SPEC)
    model.get_layer("categories").table.assign(keras.random.normal(TABLE, seed=1))
    random = np.random.default_rng(0)
    num = random.uniform(-1, 1, (4000, 7)).astype(np.float32)
    cat = np.column_stack([random.integers(0, size, 4000) for size in SPEC.categories]).astype(np.int32)
    rows = Rows({"num": num, "cat": cat}, np.zeros(4000, np.float32))
    return model, rows.taught(predict(model, "binary", rows))


@pytest.fixture(scope="module")
def ways(lesson: tuple[Any, Rows], tmp_path_factory: pytest.TempPathFactory) -> dict[Candidate, Any]:
    model, rows = lesson
    home = tmp_path_factory.mktemp("networks")
    for name in ("student", "alone", "teacher/network"):
        (home / name).parent.mkdir(exist_ok=True)
        save_network(home / name, SPEC, model.get_weights())
    settings = [f"compress.clusters={CLUSTERS}", f"compress.sparsity={SPARSITY}"]
    compress: Compress = Params.parse(with_values((ROOT / "params.yaml").read_text(), settings), "params.yaml").compress
    how = FineTuning("binary", rows, epochs=4, batch=64, learning_rate=0.001, seed=0)
    return list_ways(compress, home / "teacher", home / "student", home / "alone", how, rows.head(200))


def constants(content: bytes) -> dict[tuple[int, ...], NDArray[Any]]:
    """What the file holds, by shape."""
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    wanted = {TABLE, FIRST}
    details = [one for one in interpreter.get_tensor_details() if tuple(one["shape"]) in wanted]
    return {tuple(one["shape"]): interpreter.get_tensor(one["index"]) for one in details}


@pytest.mark.parametrize(
    "name",
    [
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
    ],
)
def test_candidate_on_disk_is_what_its_name_says_and_answers_as_the_student(
    name: Candidate, ways: dict[Candidate, Any], lesson: tuple[Any, Rows]
) -> None:
    _, rows = lesson
    made: Made = ways[name]()
    content = to_tflite(made.model, "binary", made.bits, made.representative)
    said = Network(content)(rows.inputs)
    pruned, clustered = "pruned" in name, "clustered" in name
    assert np.abs(said - rows.target).mean() < (0.05 if pruned else 0.02)
    twin = build(keras, made.spec)  # the float network behind it, which the SavedModel answers by
    twin.set_weights(made.weights)
    assert np.abs(predict(twin, "binary", rows) - said).mean() < 0.015

    found = constants(content)
    eight = "int8" in name
    assert {array.dtype for array in found.values()} == {np.dtype(np.int8 if eight else np.float32)}
    assert set(found) == {TABLE, FIRST}
    about = describe(made)
    assert about["zeros"] == pytest.approx(SPARSITY, abs=0.03) if pruned else about["zeros"] < 0.01
    assert (found[FIRST] == 0).mean() > (SPARSITY - 0.05 if pruned else -1)
    if clustered:
        assert about["distinct"] <= CLUSTERS
        assert len(np.unique(found[FIRST])) <= CLUSTERS
    else:
        assert len(np.unique(found[FIRST])) > 2 * CLUSTERS


def test_eight_bits_take_under_half_of_the_bytes(ways: dict[Candidate, Any]) -> None:
    sizes = {}
    for name in ("student", "student int8 weights", "student int8"):
        made: Made = ways[name]()  # type: ignore[index]
        sizes[name] = len(to_tflite(made.model, "binary", made.bits, made.representative))
    assert sizes["student int8 weights"] < sizes["student"] / 2
    assert sizes["student int8"] < sizes["student"] / 2

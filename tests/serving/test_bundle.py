"""The bundle: a good one answers, and one that is not what its manifest says is refused."""

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from serving.bundle import BundleError, load_bundle
from tasks.core.calibration import Calibration
from tasks.core.decision import Decision
from tasks.core.encoder import CategoryColumn, Encoder, NumberColumn
from tasks.core.target import Target

ENCODER = Encoder(
    numbers=(NumberColumn("distance", True, True, (0.0, 10.0)),),
    dates=(),
    categories=(CategoryColumn("carrier", False, ("AA", "UA")),),
    texts=(),
    target=Target("binary", "late", (0, 1)),
)
GOLDEN = [{"distance": 10, "carrier": "UA"}, {"distance": 5}, {"carrier": "AA"}, {"distance": -3, "carrier": None}]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


BACKGROUND = {"num": [[-1.0, 0.0], [1.0, 0.0]], "cat": [[2], [0]]}
WANTED = [sigmoid(1 + 3), sigmoid(0), sigmoid(1 + 2), sigmoid(-1)]  # of the sum of positions, flags and codes


class Sum(tf.Module):  # type: ignore[misc]
    """The smallest network there is: the sigmoid of the sum of its inputs."""

    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.float32, name="num"), tf.TensorSpec((None, 1), tf.int32, name="cat")])
    def serve(self, num: Any, cat: Any) -> dict[str, Any]:
        total = tf.reduce_sum(num, axis=1, keepdims=True) + tf.cast(cat, tf.float32)
        return {"score": tf.sigmoid(total)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder, network = str(tmp_path_factory.mktemp("model")), Sum()
    tf.saved_model.save(network, folder, signatures={"serve": network.serve})
    return bytes(tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serve"]).convert())


def seal(folder: Path) -> None:
    """The manifest names every file as it is now."""
    files = {
        path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(folder.iterdir())
        if path.name != "manifest.json"
    }
    facts = {"name": "flights", "version": "1", "target": "late", "chosen": "student", "files": files}
    (folder / "manifest.json").write_text(json.dumps(facts))


def record(folder: Path, instances: list[dict[str, Any]], predictions: list[float]) -> None:
    (folder / "golden.json").write_text(json.dumps({"instances": instances, "predictions": predictions}))
    seal(folder)


@pytest.fixture
def folder(tmp_path: Path, model: bytes) -> Path:
    (tmp_path / "model.tflite").write_bytes(model)
    (tmp_path / "encoder.json").write_text(json.dumps(ENCODER.to_json()))
    (tmp_path / "model_card.md").write_text("# flights")
    (tmp_path / "background.json").write_text(json.dumps(BACKGROUND))
    record(tmp_path, GOLDEN, WANTED)
    return tmp_path


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as refused:
        load_bundle(folder)
    return str(refused.value)


def test_good_bundle_answers(folder: Path) -> None:
    bundle = load_bundle(folder)
    assert (bundle.name, bundle.version, bundle.chosen, bundle.card) == (
        "flights",
        "1",
        "student",
        "# flights",
    )
    assert bundle.encoder == ENCODER
    assert bundle.predict(GOLDEN) == pytest.approx(WANTED, abs=1e-6)
    assert bundle.predict([{"distance": 1e9, "carrier": "never seen"}]) == pytest.approx([sigmoid(1 + 1)], abs=1e-6)


def test_bundle_answers_any_number_of_rows_at_once(folder: Path) -> None:
    bundle = load_bundle(folder)
    for copies in (1, 3, 1200, 1):  # 4800 rows are more than the network takes at once
        assert bundle.predict(GOLDEN * copies) == pytest.approx(WANTED * copies, abs=1e-6)


@pytest.mark.parametrize("name", ["model.tflite", "encoder.json", "golden.json", "model_card.md"])
def test_flipped_bit_is_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(bytes(content))
    assert f"{name} has changed: sha256 " in refusal(folder)


def test_truncated_model_is_refused_before_it_is_loaded(folder: Path) -> None:
    (folder / "model.tflite").write_bytes((folder / "model.tflite").read_bytes()[:100])
    assert "model.tflite has changed" in refusal(folder)


@pytest.mark.parametrize("name", ["model.tflite", "encoder.json", "golden.json", "model_card.md"])
def test_missing_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert refusal(folder) == f"{folder / name} is missing; copy the whole bundle"


def test_folder_without_a_manifest_is_refused(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    assert "manifest.json" in refusal(folder)
    shutil.rmtree(folder)
    assert "`python -m flows.train` makes a release" in refusal(folder)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"files": {}, "name": "x"}',
        pytest.param('{"files": 3}'),
        pytest.param('{"files": []}'),
    ],
)
def test_manifest_that_is_none_is_refused(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    assert str(folder) in refusal(folder)


def test_answer_other_than_the_recorded_one_is_refused(folder: Path) -> None:
    record(folder, GOLDEN, [*WANTED[:-1], WANTED[-1] + 0.01])
    assert refusal(folder) == f"{folder} answers its golden rows 0.01 apart from what it recorded; it is not served"


def test_answer_that_differs_in_rounding_alone_is_served(folder: Path) -> None:
    record(folder, GOLDEN, [score + 1e-4 for score in WANTED])
    load_bundle(folder)


@pytest.mark.parametrize("row", [0, *range(1, len(GOLDEN))])
def test_golden_answer_that_is_no_number_is_refused(folder: Path, row: int) -> None:
    record(folder, GOLDEN, [math.nan if i == row else score for i, score in enumerate(WANTED)])
    assert "it is not served" in refusal(folder)


def test_explanation_adds_up_to_the_answer_and_names_every_column(folder: Path) -> None:
    bundle = load_bundle(folder)
    for row, wanted in zip(GOLDEN, WANTED, strict=True):
        label, found = bundle.explain(row)
        assert label == 1
        assert found.answer == pytest.approx(wanted, abs=1e-6)
        assert set(found.contributions) == {"distance", "carrier"}
        assert found.base + sum(found.contributions.values()) == pytest.approx(found.answer, abs=1e-9)
    assert bundle.explain(GOLDEN[0]) == bundle.explain(GOLDEN[0])
    far = bundle.explain({"distance": 10, "carrier": "UA"})[1].contributions
    assert far["distance"] > 0
    assert far["carrier"] > 0


def test_calibrated_bundle_with_costs_answers_and_decides_by_what_its_target_says(folder: Path) -> None:
    fitted = replace(ENCODER.target, calibration=Calibration(2.0, (-1.0,)), decision=Decision(((0.0, 1.0), (3.0, 0.0)), 0.9))
    (folder / "encoder.json").write_text(json.dumps(replace(ENCODER, target=fitted).to_json()))
    wanted = [sigmoid(2 * 4 - 1), sigmoid(-1), sigmoid(2 * 3 - 1), sigmoid(-2 - 1)]
    record(folder, GOLDEN, wanted)
    bundle = load_bundle(folder)
    found = bundle.respond(bundle.network(bundle.encode(GOLDEN)))
    assert found["predictions"] == pytest.approx(wanted, abs=1e-4)
    assert found["decisions"] == [1, 0, 1, 0]
    record(folder, GOLDEN, WANTED)  # what an uncalibrated model would say
    assert "it is not served" in refusal(folder)


Damage = Callable[[Path], object]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda folder: record(folder, GOLDEN, WANTED[:-1]), id="a golden answer too few"),
        pytest.param(lambda folder: record(folder, [], []), id="no golden row"),
        pytest.param(lambda folder: (folder / "encoder.json").write_text("{}"), id="no encoder"),
        pytest.param(lambda folder: (folder / "background.json").write_text('{"num": [], "cat": []}'), id="no background"),
        pytest.param(
            lambda folder: (folder / "background.json").write_text('{"num": [[0]], "cat": [[0]]}'), id="narrow background"
        ),
        pytest.param(lambda folder: (folder / "background.json").write_text('{"num": [[0, 0]]}'), id="half a background"),
        pytest.param(lambda folder: (folder / "background.json").write_text('{"num": "x", "cat": 3}'), id="no numbers"),
    ],
)
def test_bundle_of_the_wrong_content_under_the_right_hashes_is_refused(folder: Path, damage: Damage) -> None:
    damage(folder)
    seal(folder)
    refusal(folder)


def test_model_that_the_manifest_does_not_name_is_not_loaded(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["model.tflite"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refusal(folder)

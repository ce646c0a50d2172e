"""A teacher that starts from what another network saw."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tasks.backbone import build_teacher, fetch, load_backbone, load_body
from tasks.core.errors import DataError
from tasks.core.images import PixelScale
from tasks.core.models import NetworkSpec, build
from tasks.core.rows import Rows
from tasks.core.training import Schedule, Training
from tasks.core.trunk import TrunkSpec, scale_pixels
from tasks.fit import Job
from tasks.networks import save_network
from tasks.params import Backbone
from tasks.stage import content_hash
from tests.core.test_images import SPEC, bars

TRUNK = TrunkSpec((4, 8), 0, False)


def network(folder: Path, trunk: TrunkSpec = TRUNK) -> Path:
    """A saved network of other outputs than the teacher that starts from it."""
    keras.utils.set_random_seed(9)
    spec = replace(SPEC, hidden=(5,), outputs=3, trunk=trunk)
    save_network(folder, spec, build(keras, spec).get_weights())
    return folder


def backbone(folder: Path, **changes: Any) -> Backbone:
    return Backbone(**{"path": str(folder), "sha256": content_hash(folder), "frozen": True, **changes})


def convolutions(model: Any) -> list[Any]:
    return [weight for layer in model.layers if layer.name.startswith("image0") for weight in layer.get_weights()]


def learned(spec: NetworkSpec, start: Backbone) -> tuple[list[Any], list[Any]]:
    """The convolutions before and after an epoch."""
    keras.utils.set_random_seed(1)
    model = build_teacher(spec, start)
    before, head = convolutions(model), model.get_layer("logits").get_weights()[0]
    rows = bars(64, 1)
    list(Training(model, "binary", Schedule(1, 16, 0.01, 0.01, 1, 1), 64).epochs(rows, rows, lambda done, total: None))
    assert not np.array_equal(head, model.get_layer("logits").get_weights()[0])
    return before, convolutions(model)


def test_frozen_backbone_stays_and_another_one_learns_on(tmp_path: Path) -> None:
    folder = network(tmp_path / "teacher")
    given = [array for name, array in np.load(folder / "weights.npz").items()]
    before, after = learned(SPEC, backbone(folder))
    assert all(any(np.array_equal(weight, one) for one in given) for weight in before)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    before, after = learned(SPEC, backbone(folder, frozen=False))
    assert all(any(np.array_equal(weight, one) for one in given) for weight in before)
    assert not any(np.array_equal(old, new) for old, new in zip(before, after, strict=True))


def test_backbone_that_is_another_one_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = network(tmp_path / "teacher")
    with pytest.raises(DataError, match=f"has sha256 {content_hash(folder)}, params.yaml says 0000"):
        build_teacher(SPEC, backbone(folder, sha256="0" * 64))
    with pytest.raises(DataError, match="is not there; expected a network"):
        build_teacher(SPEC, Backbone(path=str(tmp_path / "none"), sha256="0" * 64, frozen=True))
    wider = network(tmp_path / "wider", TrunkSpec((4, 16), 0, False))
    with pytest.raises(DataError, match=r"does not fit network.images and preprocess.images: its layers \['image0_1'"):
        build_teacher(SPEC, backbone(wider))
    (folder / "weights.npz").write_bytes(b"cut short")
    with pytest.raises(DataError, match="holds no whole network"):
        build_teacher(SPEC, backbone(folder))


def test_job_of_a_worker_keeps_its_backbone(tmp_path: Path) -> None:
    schedule = Schedule(1, 16, 0.01, 0.01, 1, 1)
    for start in (None, Backbone(path="../other", sha256="0" * 64, frozen=True)):
        job = Job("network 1", SPEC, "binary", schedule, tmp_path, start)
        again = Job.from_json(json.loads(json.dumps(job.to_json())))
        assert (again.spec, again.backbone, again.features) == (job.spec, start, tmp_path)


SHAPE = (32, 32, 3)
PHOTOS = np.random.default_rng(5).integers(0, 256, (7, *SHAPE), np.uint8)


def from_anywhere(path: Path, **changes: Any) -> Backbone:
    return Backbone(**{"path": str(path), "sha256": content_hash(path), "frozen": True, "pixels": "unit", **changes})


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    """A network as others hand it on, whole and as a SavedModel, and one of keras.applications, each with its file."""
    folder = tmp_path_factory.mktemp("outside")
    keras.utils.set_random_seed(3)
    small = keras.Sequential([keras.layers.Input(SHAPE), keras.layers.Conv2D(5, 3, 2, activation="relu")])
    small.save(folder / "small.keras")
    small.export(str(folder / "saved"), verbose=False)
    known = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=SHAPE)
    known.save_weights(folder / "known.weights.h5")
    return {
        "keras": (small, folder / "small.keras"),
        "saved": (small, folder / "saved"),
        "architecture": (known, folder / "known.weights.h5"),
    }


@pytest.mark.parametrize("kind", ["keras", "saved", "architecture"])
def test_features_are_what_the_network_makes_of_its_own_pixels(outside: dict[str, tuple[Any, Path]], kind: str) -> None:
    network, path = outside[kind]
    named = {"architecture": "MobileNetV2", "pixels": "signed"} if kind == "architecture" else {}
    see, width = load_backbone(from_anywhere(path, **named), SHAPE, "preprocess.backbone")
    pixels = PHOTOS / 127.5 - 1 if kind == "architecture" else PHOTOS / 255
    wanted = np.asarray(network(pixels.astype(np.float32), training=False)).mean(axis=(1, 2))
    assert wanted.shape == (7, width)
    assert wanted.std() > 0
    np.testing.assert_allclose(see(PHOTOS), wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("how", "module"), [("caffe", "vgg16"), ("torch", "densenet"), ("signed", "mobilenet_v2")])
def test_pixels_are_scaled_as_keras_itself_scales_them(how: PixelScale, module: str) -> None:
    own = getattr(keras.applications, module).preprocess_input(PHOTOS.astype(np.float32))
    pixels = keras.Input(SHAPE, dtype="uint8")
    ours = keras.Model(pixels, scale_pixels(keras, pixels, how, "scale"))(PHOTOS)
    np.testing.assert_allclose(ours, own, atol=1e-3)


def test_network_from_anywhere_learns_on_inside_the_teacher(outside: dict[str, tuple[Any, Path]]) -> None:
    network, path = outside["keras"]
    start = from_anywhere(path, frozen=False)
    spec = replace(SPEC, images=(SHAPE,), trunk=TrunkSpec((4, 8), 1, False, network.to_json(), "unit"))
    keras.utils.set_random_seed(2)
    model = build_teacher(spec, start)
    before = model.get_layer("image0_backbone").get_weights()
    np.testing.assert_array_equal(before[0], network.get_weights()[0])
    nothing = {"num": np.zeros((64, 0), np.float32), "cat": np.zeros((64, 0), np.int32)}
    bright = np.arange(64) % 2
    pixels = np.broadcast_to((60 + 120 * bright)[:, None, None, None], (64, *SHAPE)).astype(np.uint8)
    rows = Rows({**nothing, "image0": pixels}, bright.astype(np.float32))
    epochs = list(Training(model, "binary", Schedule(40, 16, 0.01, 0.01, 1, 40), 64).epochs(rows, rows, lambda done, total: None))
    assert epochs[-1].validation_loss < 0.5 * epochs[0].validation_loss
    assert not np.array_equal(before[0], model.get_layer("image0_backbone").get_weights()[0])
    again = build(keras, NetworkSpec.from_json(json.loads(json.dumps(spec.to_json()))))
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(rows.inputs, training=False), model(rows.inputs, training=False))


def test_backbone_behind_a_url_is_fetched_once_and_a_changed_one_refused(
    outside: dict[str, tuple[Any, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, path = outside["keras"]
    moved = tmp_path / "net.keras?key=secret"
    moved.write_bytes(path.read_bytes())
    start = from_anywhere(moved).model_copy(update={"path": f"file://{moved}"})
    with pytest.raises(DataError) as refused:
        fetch(start.model_copy(update={"sha256": "0" * 64}), "preprocess.backbone")
    assert "params.yaml says 000" in str(refused.value)
    assert "secret" not in str(refused.value)
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and file != moved]
    fetched = fetch(start, "preprocess.backbone")
    fetched.write_bytes(b"cut short")
    assert fetch(start, "preprocess.backbone").read_bytes() == path.read_bytes()
    moved.unlink()
    assert fetch(start, "preprocess.backbone") == fetched
    assert content_hash(fetched) == start.sha256


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("keras", {"architecture": "VGG61"}, "keras.applications has no 'VGG61'"),
        ("keras", {"architecture": "VGG16"}, "cannot be read for these images"),
        ("architecture", {}, "need architecture: VGG16 or the like"),
        ("saved", {"frozen": False}, "a SavedModel cannot learn on"),
    ],
)
def test_backbone_that_is_none_is_refused_in_a_line(
    outside: dict[str, tuple[Any, Path]], kind: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError) as refused:
        load_body(from_anywhere(outside[kind][1], **changes), SHAPE, "network.backbone")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_backbone_of_images_of_another_size_is_refused(outside: dict[str, tuple[Any, Path]]) -> None:
    with pytest.raises(DataError, match=r"takes \(None, 32, 32, 3\), preprocess.images makes \(None, 28, 28, 1\)"):
        load_body(from_anywhere(outside["keras"][1]), (28, 28, 1), "network.backbone")


def test_weights_behind_a_url_are_read_by_the_end_of_their_name(
    outside: dict[str, tuple[Any, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, path = outside["architecture"]
    start = from_anywhere(path, architecture="MobileNetV2", frozen=False).model_copy(update={"path": f"file://{path}"})
    body = load_body(start, SHAPE, "network.backbone")
    np.testing.assert_array_equal(body.get_weights()[0], outside["architecture"][0].get_weights()[0])

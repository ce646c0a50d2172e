"""Bundles and stores of a smallest model, made for the tests of the service."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import tensorflow as tf

from tasks.cloud.storage import open_storage
from tasks.releases import Releases
from tests.serving.test_bundle import BACKGROUND, ENCODER

ROWS = [{"distance": 10.0, "carrier": "UA"}, {"distance": 5.0, "carrier": "AA"}, {"carrier": "AA"}, {}]
FREE = replace(ENCODER, numbers=(replace(ENCODER.numbers[0], required=False),))


class Plus(tf.Module):  # type: ignore[misc]
    """The sigmoid of the sum of its inputs and `bias`; no number for a distance in its upper half, when it is `brittle`."""

    def __init__(self, bias: float, width: int, brittle: bool) -> None:
        super().__init__()
        self.bias, self.brittle = bias, brittle
        self.serve = tf.function(
            self._serve,
            input_signature=[
                tf.TensorSpec((None, width), tf.float32, name="num"),
                tf.TensorSpec((None, 1), tf.int32, name="cat"),
            ],
        )

    def _serve(self, num: Any, cat: Any) -> dict[str, Any]:
        total = tf.reduce_sum(num, axis=1, keepdims=True) + tf.cast(cat, tf.float32) + self.bias
        return {"score": tf.sqrt(0.5 - num[:, :1]) if self.brittle else tf.sigmoid(total)}


def network(folder: Path, bias: float = 0.0, width: int = 2, brittle: bool = False) -> bytes:
    """The bytes of a .tflite file of Plus."""
    module = Plus(bias, width, brittle)
    tf.saved_model.save(module, str(folder), signatures={"serve": module.serve.get_concrete_function()})
    return bytes(tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=["serve"]).convert())


def make_bundle(folder: Path, model: bytes, answer: Callable[[dict[str, Any]], float], name: str = "flights") -> str:
    """A whole bundle whose golden rows are answered so; returns its version."""
    folder.mkdir(parents=True)
    (folder / "model.tflite").write_bytes(model)
    (folder / "encoder.json").write_text(json.dumps(FREE.to_json()))
    (folder / "model_card.md").write_text(f"# {name}")
    (folder / "background.json").write_text(json.dumps(BACKGROUND))
    golden = {"instances": ROWS, "predictions": [answer(row) for row in ROWS]}
    (folder / "golden.json").write_text(json.dumps(golden))
    return seal(folder, name)


def seal(folder: Path, name: str = "flights") -> str:
    """The manifest says what the folder holds now, under a version of its own."""
    (folder / "manifest.json").unlink(missing_ok=True)
    files = {
        path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
    }
    version = hashlib.sha256(json.dumps([name, files]).encode()).hexdigest()[:12]
    facts = {"name": name, "version": version, "chosen": "student", "format": 3, "files": files}
    (folder / "manifest.json").write_text(json.dumps(facts))
    return version


def promote(store: Path | str, version: str) -> None:
    """Production names the version."""
    releases = Releases(open_storage(store))
    now, tag = releases.channel("production") or (None, None)
    releases.promote(version, tag, now=now, by="test", why="")

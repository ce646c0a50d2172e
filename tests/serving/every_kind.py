"""A bundle with a column of every kind and a network that adds up its inputs, and rows for it."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from serving.bundle import load_bundle
from tasks.core.encoder import CategoryColumn, DateColumn, Encoder, ImageColumn, NumberColumn, TextColumn
from tasks.core.runtime import Network
from tasks.core.target import Target
from tests.serving.test_bundle import record

NUMBERS = (NumberColumn("distance", True, True, (0.0, 10.0, 30.0)), NumberColumn("seats", False, True, (0.0, 400.0), 150.0, 40.0))
EVERY_KIND = Encoder(
    numbers=NUMBERS,
    dates=(DateColumn("day", False, True, (1.36e9, 1.37e9, 1.39e9), (15890,)),),
    categories=(CategoryColumn("carrier", False, ("AA", "UA")), CategoryColumn("model", True, ("A320", "B737"))),
    texts=(TextColumn("note", False, 3, ("late", "ok")),),
    target=Target("binary", "late", (0, 1)),
    images=(ImageColumn("photo", 4, 4, 1),),
)


def make_network(encoder: Encoder) -> bytes:
    """A .tflite of the encoder's inputs: one linear output, or one for each of several classes, and a sigmoid behind it."""

    class Sum(tf.Module):  # type: ignore[misc]
        @tf.function
        def serve(self, **inputs: Any) -> dict[str, Any]:
            total = tf.zeros_like(inputs["num"][:, :1])
            for name, array in sorted(inputs.items()):
                flat = tf.reshape(tf.cast(array, tf.float32), (tf.shape(array)[0], -1))
                weights = np.linspace(-0.7, 0.9, int(np.prod(array.shape[1:]))).astype(np.float32)[:, None]
                total += tf.matmul(flat, weights) / (255.0 if name.startswith("image") else 1.0)
            outputs = encoder.target.outputs
            return {"score": tf.sigmoid(total * tf.constant(np.linspace(0.2, 1.0, outputs)[None, :], tf.float32))}

    network = Sum()
    signature = {
        "num": tf.TensorSpec((None, encoder.width), tf.float32, name="num"),
        "cat": tf.TensorSpec((None, encoder.codes), tf.int32, name="cat"),
        **{
            f"image{i}": tf.TensorSpec((None, image.height, image.width, image.channels), tf.uint8, name=f"image{i}")
            for i, image in enumerate(encoder.images)
        },
    }
    function = network.serve.get_concrete_function(**signature)
    return bytes(tf.lite.TFLiteConverter.from_concrete_functions([function], network).convert())


def write_bundle(folder: Path, encoder: Encoder, network: bytes, rows: list[dict[str, Any]], **facts: Any) -> None:
    """A whole bundle whose golden rows are the first of these."""
    folder.mkdir(exist_ok=True)
    (folder / "model.tflite").write_bytes(network)
    (folder / "encoder.json").write_text(json.dumps(encoder.to_json()))
    (folder / "model_card.md").write_text("# flights")
    encoded = encoder.encode(encoder.columns(rows[:2]))
    (folder / "background.json").write_text(json.dumps({name: array.tolist() for name, array in encoded.items()}))
    answers = encoder.target.answer(Network(network)(encoder.encode(encoder.columns(rows[:4]))))
    record(folder, rows[:4], answers)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **facts}))
    load_bundle(folder)


def make_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of every kind of column as a client sends them in JSON; of those that may be missing some are."""
    draw = np.random.default_rng(seed)

    def some(value: Any) -> Any:
        return None if draw.random() < 0.2 else value

    return [
        {
            "distance": int(draw.integers(0, 40)),
            "seats": some(round(float(draw.normal(150, 60)), 2)),
            "day": some(f"2013-{draw.integers(1, 13):02}-{draw.integers(1, 29):02}T{draw.integers(0, 24):02}:30:00"),
            "carrier": some(str(draw.choice(["AA", "UA", "ZZ"]))),
            "model": str(draw.choice(["A320", "B737", "MD80"])),
            "note": some(str(draw.choice(["late again", "all ok", "ok late ok late", "Ünknown wörds"]))),
            "photo": base64.b64encode(make_image(int(draw.integers(0, 256)))).decode(),
        }
        for _ in range(count)
    ]


def make_image(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (5, 6), grey).save(file, "PNG")
    return file.getvalue()

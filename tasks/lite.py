"""A network as the bytes of a .tflite file, and what one row through it takes where it is served."""

import tempfile
from collections.abc import Iterator
from typing import Any, Literal

import keras
import tensorflow as tf
from numpy.typing import NDArray

from tasks.core import objective
from tasks.core.rows import Rows
from tasks.core.target import Task

Bits = Literal[8, 32]


def to_tflite(model: Any, task: Task, bits: Bits, representative: Rows | None) -> bytes:
    """{num, cat} in, scores [row, output] out; 8 bits for the weights, for the activations too where rows to scale them are given.

    By way of a SavedModel: converting a Keras 3 model directly aborts the process in these versions.
    """
    names = list(model.input)

    def serve(*arrays: Any) -> dict[str, Any]:
        return {"score": objective.scores(task, model(dict(zip(names, arrays, strict=True)), training=False))}

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serve", serve, input_signature=[tf.TensorSpec(one.shape, one.dtype, name=name) for name, one in model.input.items()]
    )
    with tempfile.TemporaryDirectory() as folder:
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serve"])
        if bits == 8:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if representative is not None:
            converter.representative_dataset = lambda: one_by_one(representative)
        return bytes(converter.convert())


def one_by_one(rows: Rows) -> Iterator[dict[str, NDArray[Any]]]:
    """Each row as a batch of one."""
    for i in range(len(rows)):
        yield {name: array[i : i + 1] for name, array in rows.inputs.items()}

"""Stage compress: prunes and quantises the student; writes every candidate as a .tflite file of the network alone."""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

# Importing tfmot makes `tf.keras` Keras 2 for this process and, through the environment, for its children.
import tensorflow_model_optimization as tfmot
import tf_keras
from numpy.typing import NDArray

from tasks import stage
from tasks.core import objective
from tasks.core.layers import custom_layers
from tasks.core.models import NetworkSpec, build
from tasks.core.rows import Rows
from tasks.core.target import Task
from tasks.features import load_encoder, load_rows
from tasks.networks import load_network, save_network
from tasks.params import Compress
from tasks.teacher import NETWORK, load_made, load_opinion

os.environ.pop("TF_USE_LEGACY_KERAS", None)

log = logging.getLogger("tasks.compress")

Bits = Literal[8, 32]

PRUNING_UPDATES = 20  # times that the pruning schedule zeroes more weights, over the first half of the steps


def compress(
    seed: int,
    compress: Compress,
    *,
    features: Path,
    teacher: Path,
    student: Path,
    student_alone: Path,
    candidates: Path,
    compression: Path,
) -> None:
    """`candidates` holds a folder each (model.tflite and the float network behind it) and candidates.json, simpler ones first."""
    rows = load_rows(features, "train")
    spec, small = load_network(keras, student)
    large_spec, large = load_network(keras, teacher / NETWORK)
    _, alone = load_network(keras, student_alone)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[: compress.calibration_rows])
    calibration = rows.take(chosen)
    task = load_encoder(features).target.task
    taught, made = rows.taught(load_opinion(teacher, "train")), load_made(teacher)
    taught = taught.joined(made) if len(made) else taught

    tuned: list[tuple[str, str, Any, Bits, Rows | None]] = []
    if not spec.images:  # whose weights lie in convolutions, of which tfmot would leave all as they are: it wraps dense layers
        pruned = prune(spec, task, small.get_weights(), compress, taught, seed)
        aware = quantise_aware(spec, task, small.get_weights(), compress, taught, seed)
        tuned = [
            ("student aware int8", "trained on with the rounding of 8 bits", aware, 8, None),
            ("student pruned int8", f"{compress.sparsity:.0%} of the weights zero, 8-bit weights", pruned, 8, None),
        ]
    networks: list[tuple[str, str, Any, Bits, Rows | None]] = [  # name, what it is, network, bits of a weight, rows to scale by
        ("student", "distilled, 32-bit floats", small, 32, None),
        ("student int8 weights", "8-bit weights, float activations", small, 8, None),
        ("student int8", "8-bit weights and activations, scaled on training rows", small, 8, calibration),
        *tuned,
        ("student alone", "the same network without a teacher, 32-bit floats", alone, 32, None),
    ]
    if not large_spec.seen:  # else it wants what a backbone makes of images, which is not served
        networks.append(("large", "the best single network of the teacher, 32-bit floats", large, 32, None))
    listing = []
    with stage.replacing(candidates) as folder:
        folder.mkdir(parents=True)
        for name, what, model, bits, representative in networks:
            home = folder / name.replace(" ", "_")
            weights = model.get_weights() if isinstance(model, keras.Model) else plain_weights(model)
            save_network(home, large_spec if model is large else spec, weights)
            path = home / "model.tflite"
            path.write_bytes(to_tflite(model, task, bits, representative))
            listing.append({"name": name, "what": what, "folder": home.name, "bytes": path.stat().st_size})
            log.info("%s: %s bytes", name, f"{path.stat().st_size:,}")
        (folder / "candidates.json").write_text(json.dumps(listing, indent=1))
    with stage.replacing(compression) as aside:
        zeros = {name: share_of_zeros(model) for name, _, model, *_ in networks if name in ("student", "student pruned int8")}
        aside.write_text(json.dumps({"zeros_in_dense_kernels": zeros, "bytes": {c["name"]: c["bytes"] for c in listing}}, indent=1))


def prune(spec: NetworkSpec, task: Task, weights: list[NDArray[Any]], compress: Compress, taught: Rows, seed: int) -> Any:
    """The network with the smallest weights of its dense layers at zero, the others trained on meanwhile."""
    steps = compress.epochs * (len(taught) // compress.batch)
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        0.0, compress.sparsity, begin_step=0, end_step=max(steps // 2, 1), frequency=max(steps // 2 // PRUNING_UPDATES, 1)
    )
    wrapped = wrap_dense(spec, weights, lambda layer: tfmot.sparsity.keras.prune_low_magnitude(layer, schedule))
    fine_tune(wrapped, task, compress, taught, seed, [tfmot.sparsity.keras.UpdatePruningStep()])
    pruned = tfmot.sparsity.keras.strip_pruning(wrapped)
    if (found := share_of_zeros(pruned)) < compress.sparsity - 0.02:
        log.warning("pruning reached %.0f%% zeros instead of %.0f%%: too few steps", 100 * found, 100 * compress.sparsity)
    return pruned


def quantise_aware(spec: NetworkSpec, task: Task, weights: list[NDArray[Any]], compress: Compress, taught: Rows, seed: int) -> Any:
    """The network trained on while its dense layers round to 8 bits (tfmot refuses the other layers, they stay as they are)."""
    annotated = wrap_dense(spec, weights, tfmot.quantization.keras.quantize_annotate_layer)
    with tfmot.quantization.keras.quantize_scope(custom_layers(tf_keras)):
        aware = tfmot.quantization.keras.quantize_apply(annotated)
    fine_tune(aware, task, compress, taught, seed, [])
    return aware


def wrap_dense(spec: NetworkSpec, weights: list[NDArray[Any]], wrap: Callable[[Any], Any]) -> Any:
    """A copy of the network in tf_keras, its dense layers wrapped; clone_model makes new weights, so they are set again."""
    network = build(tf_keras, spec)
    with tf_keras.utils.custom_object_scope(custom_layers(tf_keras)):
        clone = tf_keras.models.clone_model(
            network, clone_function=lambda layer: wrap(layer) if isinstance(layer, tf_keras.layers.Dense) else layer
        )
    network.set_weights(weights)
    for layer in clone.layers:
        original = network.get_layer(getattr(layer, "layer", layer).name)
        values = original.get_weights()
        for variable, value in zip(getattr(layer, "layer", layer).trainable_weights, values, strict=True):
            variable.assign(value)
    return clone


def fine_tune(model: Any, task: Task, compress: Compress, taught: Rows, seed: int, callbacks: list[Any]) -> None:
    """Train on with the teacher's opinion as the target."""
    tf_keras.utils.set_random_seed(seed)
    losses = tf_keras.losses
    match task:
        case "binary":
            loss = losses.BinaryCrossentropy(from_logits=True)
        case "multiclass":
            loss = losses.CategoricalCrossentropy(from_logits=True)
        case "regression":
            loss = losses.MeanSquaredError()
    steps = compress.epochs * (len(taught) // compress.batch)
    falling = tf_keras.optimizers.schedules.CosineDecay(compress.learning_rate, max(steps, 1))  # else the last steps' noise stays
    model.compile(tf_keras.optimizers.Adam(falling), loss)
    whole = len(taught) // compress.batch * compress.batch
    order = np.random.default_rng(seed).permutation(len(taught))
    for epoch in range(compress.epochs):
        part = taught.take(np.roll(order, epoch * compress.batch)[:whole])
        model.fit(
            dict(part.inputs),
            part.target.reshape(len(part), -1),
            batch_size=compress.batch,
            epochs=1,
            shuffle=False,
            verbose=0,
            callbacks=callbacks,
        )


def plain_weights(model: Any) -> list[NDArray[Any]]:
    """The weights that the builder's network has, without what quantisation-aware training adds to them."""
    # tfmot's wrapper takes the kernel over from the layer and lists it after the bias.
    return [
        np.asarray(weight)
        for layer in model.layers
        for weight in sorted(layer.trainable_weights, key=lambda weight: "bias" in weight.name)
    ]


def share_of_zeros(model: Any) -> float:
    """Of the weights of the dense layers, how many are exactly zero."""
    kernels = [layer.get_weights()[0] for layer in model.layers if layer.__class__.__name__ == "Dense"]
    return float(sum((kernel == 0).sum() for kernel in kernels) / sum(kernel.size for kernel in kernels))


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


if __name__ == "__main__":
    stage.main(compress)

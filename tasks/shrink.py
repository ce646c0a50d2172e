"""Trains a network on while it is made smaller: zeros, few distinct weights, 8 bits. What tfmot does, and only here.

tfmot wants Keras 2, as tf_keras: the network is built again there, with its weights copied over, and back.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

# Importing tfmot makes `tf.keras` Keras 2 for this process and, through the environment, for its children.
import tensorflow_model_optimization as tfmot
import tf_keras
from numpy.typing import NDArray
from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster as clustering
from tensorflow_model_optimization.python.core.quantization.keras.collab_opts.cluster_preserve.cluster_utils import (
    strip_clustering_cqat,
)

from tasks.core.layers import custom_layers
from tasks.core.models import NetworkSpec, build
from tasks.core.rows import Rows
from tasks.core.target import Task

os.environ.pop("TF_USE_LEGACY_KERAS", None)

Kept = Literal["nothing", "zeros", "clusters", "zeros and clusters"]

PRUNING_UPDATES = 20  # times that the pruning schedule zeroes more weights, over the first half of the steps


@dataclass(frozen=True)
class FineTuning:
    """How a network is trained on: rows with the teacher's opinion as the target, epochs over them, rows of a step."""

    task: Task
    taught: Rows
    epochs: int
    batch: int
    learning_rate: float
    seed: int

    @property
    def steps(self) -> int:
        return self.epochs * (len(self.taught) // self.batch)


@dataclass(frozen=True)
class Shrunk:
    """A network in tf_keras, as the converter takes it, and the weights [as of the builder's network] of its float twin."""

    model: Any
    weights: list[NDArray[Any]]


def prune(spec: NetworkSpec, weights: list[NDArray[Any]], sparsity: float, how: FineTuning) -> Shrunk:
    """The network with that share of its dense layers' weights, the smallest, at zero, the others trained on meanwhile.

    More and more of them over the first half of the steps (Zhu and Gupta 2017, arXiv 1710.01878).
    """
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        0.0, sparsity, begin_step=0, end_step=max(how.steps // 2, 1), frequency=max(how.steps // 2 // PRUNING_UPDATES, 1)
    )
    wrapped = _wrap_dense(spec, weights, lambda layer: tfmot.sparsity.keras.prune_low_magnitude(layer, schedule))
    _fine_tune(wrapped, how, [tfmot.sparsity.keras.UpdatePruningStep()])
    pruned = tfmot.sparsity.keras.strip_pruning(wrapped)
    return Shrunk(pruned, _plain_weights(pruned))


def cluster(spec: NetworkSpec, weights: list[NDArray[Any]], clusters: int, zeros: bool, how: FineTuning) -> Shrunk:
    """The network with that many distinct weights in each dense layer, trained on; `zeros`: weights that are zero stay so.

    Fewer in a layer that has not as many to begin with: centroids are drawn from the weights of each sign.
    """
    start = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS

    def wrap(layer: Any) -> Any:
        kernel = layer.get_weights()[0]
        most = 2 * int(min((kernel > 0).sum(), (kernel < 0).sum()))
        return layer if most < 2 else clustering.cluster_weights(layer, min(clusters, most), start, preserve_sparsity=zeros)

    wrapped = _wrap_dense(spec, weights, wrap, built=True)  # a wrapper takes its first centroids from the weights that it finds
    _fine_tune(wrapped, how, [])
    clustered = tfmot.clustering.keras.strip_clustering(wrapped)
    return Shrunk(clustered, _plain_weights(clustered))


def quantise_aware(spec: NetworkSpec, weights: list[NDArray[Any]], kept: Kept, how: FineTuning) -> Shrunk:
    """The network trained on while its dense layers round to 8 bits (tfmot refuses the other layers, they stay as they are).

    What pruning or clustering made of the weights is kept where `kept` says so.
    """
    annotated = _wrap_dense(spec, weights, tfmot.quantization.keras.quantize_annotate_layer)
    combine = tfmot.experimental.combine
    with tfmot.quantization.keras.quantize_scope(custom_layers(tf_keras)):
        match kept:
            case "nothing":
                aware = tfmot.quantization.keras.quantize_apply(annotated)
            case "zeros":
                aware = tfmot.quantization.keras.quantize_apply(annotated, combine.Default8BitPrunePreserveQuantizeScheme())
            case "clusters" | "zeros and clusters":
                scheme = combine.Default8BitClusterPreserveQuantizeScheme(kept == "zeros and clusters")
                aware = tfmot.quantization.keras.quantize_apply(annotated, scheme)
    _fine_tune(aware, how, [])
    if kept in ("clusters", "zeros and clusters"):
        aware = strip_clustering_cqat(aware)
    return Shrunk(aware, _plain_weights(aware))


def _wrap_dense(spec: NetworkSpec, weights: list[NDArray[Any]], wrap: Callable[[Any], Any], built: bool = False) -> Any:
    """A copy of the network in tf_keras, its dense layers wrapped, with their weights in them before that where `built`."""
    network = build(tf_keras, spec)
    if built:
        network.set_weights(weights)
    with tf_keras.utils.custom_object_scope(custom_layers(tf_keras)):
        clone = tf_keras.models.clone_model(
            network, clone_function=lambda layer: wrap(layer) if isinstance(layer, tf_keras.layers.Dense) else layer
        )
    if built:
        return clone
    network.set_weights(weights)  # clone_model makes new ones, so they are set again
    for layer in clone.layers:
        original = network.get_layer(getattr(layer, "layer", layer).name)
        values = original.get_weights()
        for variable, value in zip(getattr(layer, "layer", layer).trainable_weights, values, strict=True):
            variable.assign(value)
    return clone


def _fine_tune(model: Any, how: FineTuning, callbacks: list[Any]) -> None:
    """Train on with the teacher's opinion as the target."""
    tf_keras.utils.set_random_seed(how.seed)
    losses = tf_keras.losses
    match how.task:
        case "binary":
            loss = losses.BinaryCrossentropy(from_logits=True)
        case "multiclass":
            loss = losses.CategoricalCrossentropy(from_logits=True)
        case "regression":
            loss = losses.MeanSquaredError()
    falling = tf_keras.optimizers.schedules.CosineDecay(how.learning_rate, max(how.steps, 1))  # else the last steps' noise stays
    model.compile(tf_keras.optimizers.Adam(falling), loss)
    whole = len(how.taught) // how.batch * how.batch
    order = np.random.default_rng(how.seed).permutation(len(how.taught))
    for epoch in range(how.epochs):
        part = how.taught.take(np.roll(order, epoch * how.batch)[:whole])
        model.fit(
            dict(part.inputs),
            part.target.reshape(len(part), -1),
            batch_size=how.batch,
            epochs=1,
            shuffle=False,
            verbose=0,
            callbacks=callbacks,
        )


def _plain_weights(model: Any) -> list[NDArray[Any]]:
    """The weights that the builder's network has, without what quantisation-aware training adds to them."""
    # tfmot's wrapper takes the kernel over from the layer and lists it after the bias.
    return [
        np.asarray(weight)
        for layer in model.layers
        for weight in sorted(layer.trainable_weights, key=lambda weight: "bias" in weight.name)
    ]

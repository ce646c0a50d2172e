"""Stage train: the best configuration on all training rows; goes on from its last checkpoint after a kill."""

import csv
import json
from pathlib import Path

import keras
import tensorflow as tf

from tasks import stage
from tasks.cluster import find_cluster
from tasks.core.metrics import measure
from tasks.core.models import build
from tasks.core.training import Epoch, Schedule, predict
from tasks.core.weights import weigh_classes
from tasks.features import load_encoder, load_rows
from tasks.fit import Job, load_best, teacher_spec
from tasks.networks import save_network
from tasks.params import Compute, Network, Train
from tasks.supervise import fit_network

LOGS = Path("logs")  # TensorBoard's; outside DVC, since event files carry the time of day


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
    """`teacher` holds the network with the weights of its best epoch, `history` a line for each epoch."""
    chosen = load_best(hparams)[0]
    encoder = load_encoder(features)
    spec, task = teacher_spec(encoder, network, chosen), encoder.target.task
    folder = stage.resumable("train", inputs=[features, hparams], values=[seed, network, train])
    weights = weigh_classes(train.class_weights, encoder.target, load_rows(features, "train").target)
    schedule = Schedule(
        train.epochs, train.batch, chosen.number("learning_rate"), chosen.number("weight_decay"), seed, train.patience, weights
    )

    fitted = fit_network(Job("train", spec, task, schedule, features), folder, find_cluster(compute), compute.restarts)
    epochs = fitted.epochs
    model = build(keras, spec)
    model.set_weights(fitted.weights)

    best = min(epochs, key=lambda epoch: epoch.validation_loss)
    validation = load_rows(features, "validation")
    quality = measure(encoder.target, validation.target, predict(model, task, validation))
    with stage.replacing(teacher) as aside:
        save_network(aside, spec, model.get_weights())
    with stage.replacing(history) as aside, aside.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["epoch", "train_loss", "validation_loss"])
        table.writerows([epoch.number, f"{epoch.train_loss:.6f}", f"{epoch.validation_loss:.6f}"] for epoch in epochs)
    with stage.replacing(training) as aside:
        summary = {"epochs": len(epochs), "best_epoch": best.number, "parameters": model.count_params()}
        aside.write_text(json.dumps({**summary, "validation": quality}, indent=1))
    write_events(epochs, LOGS / "train")


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

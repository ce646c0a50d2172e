"""Stage train: the best configuration on all training rows; goes on from its last checkpoint after a kill."""

import csv
import json
import logging
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tasks import stage
from tasks.core.metrics import measure
from tasks.core.models import Hyperparameters
from tasks.core.training import Epoch, Schedule, Training, predict
from tasks.features import load_encoder, load_rows
from tasks.fit import build_teacher, fit, teacher_spec
from tasks.networks import load_arrays, save_arrays, save_network
from tasks.params import Network, Train

log = logging.getLogger("tasks.train")

LOGS = Path("logs")  # TensorBoard's; outside DVC, since event files carry the time of day


def train_model(
    seed: int, network: Network, train: Train, *, features: Path, hparams: Path, teacher: Path, history: Path, training: Path
) -> None:
    """`teacher` holds the network with the weights of its best epoch, `history` a line for each epoch."""
    chosen = Hyperparameters(**json.loads(hparams.read_text()))
    encoder = load_encoder(features)
    spec, task = teacher_spec(encoder, network, chosen), encoder.target.task
    rows, validation = load_rows(features, "train"), load_rows(features, "validation")
    folder = stage.resumable("train", inputs=[features, hparams], values=[seed, network, train])

    keras.utils.set_random_seed(seed)
    model = build_teacher(spec, network.backbone)
    schedule = Schedule(train.epochs, train.batch, chosen.learning_rate, chosen.weight_decay, seed, train.patience)
    run = Training(model, task, schedule, len(rows))
    epochs = resume(run, folder)
    log.info("%s parameters, %s members", f"{model.count_params():,}", spec.members)

    def done(epoch: Epoch) -> None:
        epochs.append(epoch)
        checkpoint(run, epochs, folder)
        losses = f"train loss {epoch.train_loss:.5f}, validation loss {epoch.validation_loss:.5f}"
        log.info("epoch %s of %s: %s, %s rows/s", epoch.number, train.epochs, losses, f"{epoch.rows_per_second:,.0f}")

    fit(run, rows, validation, "train", done)

    best = min(epochs, key=lambda epoch: epoch.validation_loss)
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


def resume(run: Training, folder: Path) -> list[Epoch]:
    """The epochs that earlier processes finished; the run stands where the last of them left it."""
    path = folder / "checkpoint.npz"
    if not path.exists():
        return []
    saved = load_arrays(path)
    run.state = saved
    epochs = [Epoch(**epoch) for epoch in json.loads(bytes(saved["epochs"]).decode())]
    log.info("going on after epoch %s", run.done)
    return epochs


def checkpoint(run: Training, epochs: list[Epoch], folder: Path) -> None:
    """All that a fresh process needs to go on, in one file that is either the last or this."""
    record = np.frombuffer(json.dumps([epoch.to_json() for epoch in epochs]).encode(), np.uint8)
    with stage.replacing(folder / "checkpoint.npz") as aside:
        save_arrays(aside, {**run.state, "epochs": record})


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

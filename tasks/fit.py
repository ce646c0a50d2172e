"""Fits a network with its progress shown: what tune, train and distill share."""

from collections.abc import Callable

from tasks.core.encoder import Encoder
from tasks.core.models import Hyperparameters, NetworkSpec, spec_of
from tasks.core.rows import Rows
from tasks.core.training import Epoch, Training
from tasks.core.trunk import TrunkSpec
from tasks.params import Convolutions, Network
from tasks.progress import Meter


def fit(run: Training, rows: Rows, validation: Rows, what: str, done: Callable[[Epoch], None]) -> None:
    """The run is finished and its model holds the best weights; `done` was told of each epoch."""
    epochs = run.schedule.epochs
    with Meter(f"{what}, epoch {run.done + 1} of {epochs}") as meter:
        for epoch in run.epochs(rows, validation, meter.at):
            done(epoch)
            meter.restart(f"{what}, epoch {epoch.number + 1} of {epochs}")


def teacher_spec(encoder: Encoder, network: Network, hparams: Hyperparameters) -> NetworkSpec:
    """The teacher's shape."""
    return spec_of(
        encoder,
        bins=network.bins,
        embedding=network.embedding,
        hidden=(hparams.width,) * hparams.layers,
        members=network.members,
        dropout=hparams.dropout,
        embedding_dropout=hparams.embedding_dropout,
        trunk=trunk_spec(network.images),
    )


def trunk_spec(images: Convolutions | None) -> TrunkSpec | None:
    """What sees the images, if there are any."""
    return TrunkSpec(**images.model_dump()) if images else None

"""Fits a network with its progress shown: what tune, train and distill share."""

from collections.abc import Callable

from tasks.core.encoder import Encoder
from tasks.core.models import Hyperparameters, NetworkSpec, spec_of
from tasks.core.rows import Rows
from tasks.core.training import Epoch, Training
from tasks.memory import free_memory
from tasks.params import Network
from tasks.progress import Meter

# Of the memory that is free when a training starts, for its rows; more rows than that are read window by window. It changes no
# figure, only the speed.
ROWS_SHARE = 0.5


def fit(run: Training, rows: Rows, validation: Rows, what: str, done: Callable[[Epoch], None]) -> None:
    """The run is finished and its model holds the best weights; `done` was told of each epoch."""
    epochs = run.schedule.epochs
    with Meter(f"{what}, epoch {run.done + 1} of {epochs}") as meter:
        for epoch in run.epochs(rows, validation, meter.at, memory=int(ROWS_SHARE * free_memory())):
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
    )

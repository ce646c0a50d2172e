"""Fits a network with its progress shown: what tune, train and distill share."""

from collections.abc import Callable
from pathlib import Path

import keras

from tasks.core.encoder import Encoder
from tasks.core.errors import DataError
from tasks.core.models import Hyperparameters, NetworkSpec, build, spec_of
from tasks.core.rows import Rows
from tasks.core.training import Epoch, Training
from tasks.core.trunk import TrunkSpec, adopt
from tasks.networks import load_network
from tasks.params import Backbone, Convolutions, Network
from tasks.progress import Meter
from tasks.stage import content_hash


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


def build_teacher(spec: NetworkSpec, backbone: Backbone | None) -> keras.Model:
    """An untrained teacher, but for the convolutions of a backbone; DataError when that is not what params.yaml says."""
    model = build(keras, spec)
    if backbone is None:
        return model
    where = f"network.backbone {backbone.path!r}"
    if not Path(backbone.path).is_dir():
        raise DataError(f"{where} is no folder; expected that of a network, such as models/teacher of another workspace")
    if (found := content_hash(Path(backbone.path))) != backbone.sha256:
        raise DataError(f"{where} has sha256 {found}, params.yaml says {backbone.sha256}; if it is the right one, write that")
    _, donor = load_network(keras, Path(backbone.path))
    try:
        adopt(model, donor, backbone.frozen)
    except ValueError as error:
        raise DataError(f"{where} does not fit network.images and preprocess.images: {error}") from error
    return model


def trunk_spec(images: Convolutions | None) -> TrunkSpec | None:
    """What sees the images, if there are any."""
    return TrunkSpec(**images.model_dump()) if images else None

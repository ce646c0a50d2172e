"""Fits a network with its progress shown: what tune, train and distill share."""

import json
from collections.abc import Callable
from pathlib import Path

from tasks.core.encoder import Encoder
from tasks.core.errors import DataError
from tasks.core.models import Configuration, NetworkSpec, check_family, spec_of
from tasks.core.rows import Rows
from tasks.core.training import Epoch, Training
from tasks.params import Network
from tasks.progress import Meter


def fit(run: Training, rows: Rows, validation: Rows, what: str, done: Callable[[Epoch], None]) -> None:
    """The run is finished and its model holds the best weights; `done` was told of each epoch."""
    epochs = run.schedule.epochs
    with Meter(f"{what}, epoch {run.done + 1} of {epochs}") as meter:
        for epoch in run.epochs(rows, validation, meter.at):
            done(epoch)
            meter.restart(f"{what}, epoch {epoch.number + 1} of {epochs}")


def teacher_spec(encoder: Encoder, network: Network, configuration: Configuration) -> NetworkSpec:
    """The teacher's shape in this configuration; ParamsError when its family or its hyperparameters are not known."""
    check_family(configuration.family, configuration.values)
    return spec_of(
        encoder,
        bins=network.bins,
        embedding=network.embedding,
        hidden=(int(configuration.number("width")),) * int(configuration.number("layers")),
        members=network.members,
        dropout=configuration.number("dropout"),
        embedding_dropout=configuration.number("embedding_dropout"),
    )


def load_best(hparams: Path) -> list[Configuration]:
    """The best configurations that the search kept, best first; DataError when the file holds none."""
    try:
        best = [Configuration.from_json(one) for one in json.loads(hparams.read_text())["best"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{hparams} holds no configurations ({error!r}); run tune again") from error
    if not best:
        raise DataError(f"{hparams} holds no configuration; run tune again")
    return best

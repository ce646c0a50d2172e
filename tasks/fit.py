"""Fits networks with their progress shown: what tune, train and distill share, and one network that outlives a kill."""

import io
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from tasks import stage
from tasks.backbone import build_teacher, load_body
from tasks.core.encoder import Encoder
from tasks.core.errors import DataError, ParamsError
from tasks.core.models import FAMILIES, SPANS, Configuration, NetworkSpec, check_family, spec_of
from tasks.core.precision import dtype_policy, fastest_policy
from tasks.core.rows import Rows
from tasks.core.target import Task
from tasks.core.team import ALONE, Team
from tasks.core.training import Epoch, Schedule, Training
from tasks.core.trunk import TrunkSpec
from tasks.features import load_seen
from tasks.memory import free_memory
from tasks.networks import load_arrays, save_arrays
from tasks.params import Backbone, Convolutions, Network
from tasks.progress import Meter

log = logging.getLogger("tasks.fit")

CHECKPOINT = "checkpoint.npz"
CHECKPOINT_SECONDS = 300.0  # between two within one epoch; one is written after each epoch besides
# Of the memory that is free when a training starts, for its rows; more rows than that are read window by window. It changes no
# figure, only the speed.
ROWS_SHARE = 0.5


@dataclass(frozen=True)
class Job:
    """One network to fit: `name` is shown, `features` holds the rows."""

    name: str
    spec: NetworkSpec
    task: Task
    schedule: Schedule
    features: Path
    backbone: Backbone | None = None

    def to_json(self) -> dict[str, Any]:
        backbone = self.backbone.model_dump() if self.backbone else None
        return {**asdict(self), "features": str(self.features), "backbone": backbone}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Job":
        """The job that `to_json` described."""
        spec = NetworkSpec.from_json(document["spec"])
        schedule = Schedule(**{**document["schedule"], "class_weights": tuple(document["schedule"]["class_weights"])})
        backbone = Backbone(**document["backbone"]) if document["backbone"] else None
        return cls(document["name"], spec, document["task"], schedule, Path(document["features"]), backbone)


@dataclass(frozen=True)
class Fitted:
    """A network's weights after its best epoch, and all its epochs."""

    weights: list[NDArray[Any]]
    epochs: list[Epoch]


def fit(
    run: Training,
    rows: Rows,
    validation: Rows,
    what: str,
    done: Callable[[Epoch], None],
    watch: Callable[[], None] = lambda: None,
) -> None:
    """The run is finished and its model holds the best weights; `done` was told of each epoch, `watch` called while it moves on."""
    epochs = run.schedule.epochs
    with Meter(f"{what}, epoch {run.done + 1} of {epochs}") as meter:

        def at(rows_done: int, total: int) -> None:
            meter.at(rows_done, total)
            watch()

        for epoch in run.epochs(rows, validation, at, memory=int(ROWS_SHARE * free_memory())):
            done(epoch)
            meter.restart(f"{what}, epoch {epoch.number + 1} of {epochs}")


def fit_job(job: Job, folder: Path, team: Team = ALONE, keeps: bool = True, watch: Callable[[], None] = lambda: None) -> Fitted:
    """The network, fitted on from the checkpoint that `folder` holds; the process that `keeps` writes the next ones there."""
    rows, validation = load_seen(job.features, "train"), load_seen(job.features, "validation")
    keras.utils.set_random_seed(job.schedule.seed)
    with dtype_policy(fastest_policy()):
        model = build_teacher(job.spec, job.backbone)
    run = Training(model, job.task, job.schedule, len(rows), team)
    path = folder / CHECKPOINT
    epochs = _restore(run, team.of_chief(path.read_bytes() if team.index == 0 and path.exists() else b""))
    written = time.monotonic()

    def keep() -> None:
        nonlocal written
        if keeps:
            _write_checkpoint(run, epochs, path)
        written = time.monotonic()

    def done(epoch: Epoch) -> None:
        epochs.append(epoch)
        keep()
        losses = f"train loss {epoch.train_loss:.5f}, validation loss {epoch.validation_loss:.5f}"
        rate = f"{epoch.rows_per_second:,.0f} rows/s"
        log.info("%s, epoch %s of %s: %s, %s", job.name, epoch.number, job.schedule.epochs, losses, rate)

    def at() -> None:
        watch()
        if time.monotonic() - written > CHECKPOINT_SECONDS:
            keep()

    log.info("%s: %s parameters", job.name, f"{model.count_params():,}")
    fit(run, rows, validation, job.name, done, at)
    return Fitted(run.best, epochs)


def load_finished(folder: Path) -> Fitted | None:
    """What an earlier process came to, when it was through with all epochs."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    saved = load_arrays(path)
    if not saved["finished"]:
        return None
    return Fitted([saved[key] for key in sorted(saved) if key.startswith("best_")], _epochs(saved))


def _restore(run: Training, checkpoint: bytes) -> list[Epoch]:
    """The epochs that earlier processes finished; the run stands where the checkpoint left it."""
    if not checkpoint:
        return []
    with np.load(io.BytesIO(checkpoint), allow_pickle=False) as file:
        saved = {name: file[name] for name in file.files}
    run.state = saved
    log.info("going on after epoch %s", run.done)
    return _epochs(saved)


def _epochs(saved: dict[str, NDArray[Any]]) -> list[Epoch]:
    return [Epoch(**epoch) for epoch in json.loads(saved["epochs"].tobytes())]


def _write_checkpoint(run: Training, epochs: list[Epoch], path: Path) -> None:
    """All that a fresh process needs to go on, in one file that is either the last or this."""
    record = np.frombuffer(json.dumps([epoch.to_json() for epoch in epochs]).encode(), np.uint8)
    with stage.replacing(path) as aside:
        save_arrays(aside, {**run.state, "epochs": record, "finished": np.array(run.finished)})


def teacher_spec(encoder: Encoder, network: Network, configuration: Configuration) -> NetworkSpec:
    """The teacher's shape in this configuration; ParamsError when its family or its hyperparameters are not known."""
    family = configuration.family
    check_family(family, configuration.values)
    if family == "cnn" and not encoder.texts:
        raise ParamsError("tune.families.cnn reads texts, and table.texts names none; take it out")
    shape: dict[str, Any] = {
        "bins": network.bins,
        "embedding": network.embedding,
        "trunk": teacher_trunk(encoder, network),
        "seen": True,
    }
    if family == "linear":
        return replace(spec_of(encoder, **{**shape, "embedding": encoder.target.outputs}, hidden=()), family=family)
    if family not in FAMILIES:
        return replace(spec_of(encoder, **shape, hidden=()), family=family, values=tuple(sorted(configuration.values.items())))
    layers = int(configuration.number("layers"))
    spec = spec_of(
        encoder,
        **shape,
        hidden=(int(configuration.number("width")),) * layers,
        members=network.members if family == "tabm" else 1,
        dropout=configuration.number("dropout"),
        embedding_dropout=configuration.number("embedding_dropout"),
        scaling=family == "mlp",
    )
    reads = tuple(spans for text in encoder.texts for spans in (SPANS, ())[: len(text.blocks)])  # words in order, pieces not
    return replace(spec, family=family, crosses=layers if family == "cross" else 0, spans=reads if family == "cnn" else ())


def teacher_trunk(encoder: Encoder, network: Network) -> TrunkSpec | None:
    """What the teacher's networks see images by: convolutions of ours, or those of a network from anywhere, which learn on."""
    trunk, backbone = trunk_spec(network.images), network.backbone
    if trunk is None or backbone is None or not backbone.pixels or not encoder.images:
        return trunk
    body = load_body(backbone, encoder.sizes.images[0], "network.backbone")
    return replace(trunk, config=body.to_json(), pixels=backbone.pixels)


def trunk_spec(images: Convolutions | None) -> TrunkSpec | None:
    """What sees the images, if there are any."""
    return TrunkSpec(**images.model_dump()) if images else None


def load_best(hparams: Path) -> list[Configuration]:
    """The best configurations that the search kept, best first; DataError when the file holds none."""
    try:
        best = [Configuration.from_json(one) for one in json.loads(hparams.read_text())["best"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{hparams} holds no configurations ({error!r}); run tune again") from error
    if not best:
        raise DataError(f"{hparams} holds no configuration; run tune again")
    return best

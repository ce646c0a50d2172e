"""Stage tune: searches hyperparameters on part of the training rows; each finished trial outlives a kill."""

import csv
import dataclasses
import json
import logging
import time
from pathlib import Path

import keras
import numpy as np

from tasks import stage
from tasks.core import charts
from tasks.core.encoder import Encoder
from tasks.core.errors import DivergedError
from tasks.core.models import Hyperparameters
from tasks.core.rows import Rows
from tasks.core.search import Trial, define_space, search
from tasks.core.training import Schedule, Training
from tasks.features import load_encoder, load_rows
from tasks.fit import build_teacher, fit, teacher_spec
from tasks.params import Network, Tune

log = logging.getLogger("tasks.tune")


def tune(seed: int, network: Network, tune: Tune, *, features: Path, hparams: Path, trials: Path, trials_plot: Path) -> None:
    """`hparams` holds the best trial's hyperparameters, `trials` a line for each, in the order in which they were tried."""
    encoder = load_encoder(features)
    everything = load_rows(features, "train")
    chosen = np.random.default_rng(seed).permutation(len(everything))[: tune.rows]
    rows, validation = everything.take(np.sort(chosen)), load_rows(features, "validation")
    journal = stage.resumable("tune", inputs=[features], values=[seed, network, tune]) / "trials.jsonl"
    done = read_journal(journal)
    if done:
        log.info("going on after %s finished trials", len(done))

    deadline = time.monotonic() + 60 * tune.minutes
    ranges = {name: (r["low"], r["high"], r["default"]) for name, r in tune.space.model_dump().items()}
    finished: list[Trial] = []
    for trial, now in search(
        tune.oracle,
        define_space(ranges, tune.width, tune.layers),
        trials=tune.trials,
        seed=seed,
        done=done,
        run=lambda one: run_trial(
            one, seed, network, tune, encoder, rows, validation, f"trial {len(finished) + 1} of {tune.trials}"
        ),
        go_on=lambda: not finished or time.monotonic() < deadline,
    ):
        finished.append(trial)
        if now:
            append_journal(journal, trial)
            log.info("trial %s of %s: validation loss %.5f", len(finished), tune.trials, trial.loss)
    if len(finished) < tune.trials:
        log.warning(
            "stopped after %s of %s trials: tune.minutes = %g is over, or the space is", len(finished), tune.trials, tune.minutes
        )

    best = min(finished, key=lambda trial: trial.loss)
    if not np.isfinite(best.loss):
        raise DivergedError(f"none of {len(finished)} trials ended with a finite loss; lower tune.space.learning_rate.high")
    with stage.replacing(hparams) as aside:
        aside.write_text(json.dumps(best.hyperparameters.to_json(), indent=1))
    with stage.replacing(trials) as aside, aside.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["trial", "validation_loss", *best.hyperparameters.to_json()])
        table.writerows([i, f"{t.loss:.6f}", *t.hyperparameters.to_json().values()] for i, t in enumerate(finished, start=1))
    with stage.replacing(trials_plot) as aside:
        aside.write_bytes(charts.plot_trials([(trial.hyperparameters.to_json(), trial.loss) for trial in finished]))
    log.info("best: validation loss %.5f with %s", best.loss, best.hyperparameters.to_json())


def run_trial(
    hparams: Hyperparameters, seed: int, network: Network, tune: Tune, encoder: Encoder, rows: Rows, validation: Rows, what: str
) -> float:
    """The best validation loss of a network with these hyperparameters; infinite when its training blew up."""
    keras.utils.set_random_seed(seed)
    keras.backend.clear_session()
    model = build_teacher(teacher_spec(encoder, network, hparams), network.backbone)
    schedule = Schedule(tune.epochs, tune.batch, hparams.learning_rate, hparams.weight_decay, seed, patience=tune.epochs)
    losses: list[float] = []
    try:
        fit(
            Training(model, encoder.target.task, schedule, len(rows)),
            rows,
            validation,
            what,
            lambda epoch: losses.append(epoch.validation_loss),
        )
    except DivergedError:
        return float("inf")
    return min(losses)


def read_journal(journal: Path) -> list[Trial]:
    """The finished trials; a last line cut short by a kill does not count."""
    trials = []
    for line in journal.read_text().splitlines() if journal.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            break
        trials.append(Trial(Hyperparameters(**record["hyperparameters"]), record["loss"]))
    return trials


def append_journal(journal: Path, trial: Trial) -> None:
    """The journal ends with this trial; whole lines alone are kept before it."""
    trials = [*read_journal(journal), trial]
    with stage.replacing(journal) as aside:
        aside.write_text("".join(json.dumps(dataclasses.asdict(one)) + "\n" for one in trials))


if __name__ == "__main__":
    stage.main(tune)

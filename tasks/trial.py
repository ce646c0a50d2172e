"""The process of trials: trains the networks that stage tune names on its standard input, one after another, and answers each."""

import json
import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tasks.backbone import build_teacher
from tasks.core.encoder import Encoder
from tasks.core.errors import DivergedError, TidemillError
from tasks.core.rows import Rows
from tasks.core.training import Epoch, Schedule, Training
from tasks.core.trials import Asked, Outcome
from tasks.features import load_encoder, load_seen
from tasks.fit import fit, teacher_spec
from tasks.params import Network, Tune
from tasks.stage import RUN_PID, die_with
from tasks.workers import ANSWER, Work


class _WorseError(Exception):
    """Ends a trial that is worse than its limit."""


def main() -> None:
    """Reads the work, then trials until the input ends; goes with the stage that started it."""
    threading.Thread(target=die_with, args=(int(os.environ[RUN_PID]),), daemon=True).start()
    work = Work.from_json(json.loads(sys.stdin.readline()))
    tf.config.threading.set_intra_op_parallelism_threads(work.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    network, tune = Network.model_validate_json(work.network), Tune.model_validate_json(work.tune)
    features = Path(work.features)
    encoder, validation = load_encoder(features), load_seen(features, "validation")
    rows = choose_rows(load_seen(features, "train"), tune.rows, work.seed)
    for line in sys.stdin:
        asked = Asked.from_json(json.loads(line))
        outcome = run_trial(asked, work, network, tune, encoder, rows, validation)
        print(f"{ANSWER}{json.dumps(asdict(outcome))}", flush=True)


def choose_rows(rows: Rows, count: int, seed: int) -> Rows:
    """That many of the rows by chance, in their order; all, when there are fewer."""
    chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
    return rows.take(np.sort(chosen))


def run_trial(asked: Asked, work: Work, network: Network, tune: Tune, encoder: Encoder, rows: Rows, validation: Rows) -> Outcome:
    """How the training of a network in this configuration ended."""
    keras.utils.set_random_seed(work.seed)
    keras.backend.clear_session()
    losses: list[float] = []
    best = float("inf")

    def done(epoch: Epoch) -> None:
        nonlocal best
        losses.append(epoch.validation_loss)
        best = min(best, epoch.validation_loss)
        if len(losses) < tune.epochs and len(losses) <= len(asked.limits) and best > asked.limits[len(losses) - 1]:
            raise _WorseError

    try:
        spec = teacher_spec(encoder, network, asked.configuration)
        rates = (asked.configuration.number("learning_rate"), asked.configuration.number("weight_decay"))
        model = build_teacher(spec, network.backbone)
        schedule = Schedule(tune.epochs, tune.batch, *rates, work.seed, tune.epochs, work.weights)
        run = Training(model, encoder.target.task, schedule, len(rows))
        fit(run, rows, validation, f"trial {asked.number}", done)
    except _WorseError:
        return Outcome("stopped", tuple(losses))
    except DivergedError:
        return Outcome("failed", tuple(losses), f"the loss was no number after epoch {len(losses) + 1}; lower learning_rate.high")
    except (MemoryError, tf.errors.ResourceExhaustedError):
        return Outcome("failed", tuple(losses), "out of memory; lower tune.batch, network.members or the width")
    except TidemillError as error:
        return Outcome("failed", tuple(losses), str(error))
    return Outcome("finished", tuple(losses))


if __name__ == "__main__":
    main()

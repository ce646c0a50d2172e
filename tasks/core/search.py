"""The search space and KerasTuner's oracles, asked and told by hand: no state of theirs is read back from disk."""

import math
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import keras_tuner as kt
from keras_tuner import oracles
from keras_tuner.engine.trial import Trial as KerasTunerTrial
from keras_tuner.engine.trial import TrialStatus
from sklearn.exceptions import ConvergenceWarning

from tasks.core.models import Hyperparameters


@dataclass(frozen=True)
class Trial:
    """A finished trial: what was tried and the validation loss that it reached."""

    hyperparameters: Hyperparameters
    loss: float


def define_space(
    ranges: dict[str, tuple[float, float, float]], width: tuple[int, ...], layers: tuple[int, ...]
) -> kt.HyperParameters:
    """A KerasTuner space: (low, high, default) of each range, searched on a log scale; of choices the middle is the default."""
    space = kt.HyperParameters()
    for name, (low, high, default) in ranges.items():
        space.Float(name, low, high, sampling="log", default=default)
    space.Choice("width", list(width), default=width[len(width) // 2])
    space.Choice("layers", list(layers), default=layers[len(layers) // 2])
    return space


def search(
    kind: Literal["bayesian", "random"],
    space: kt.HyperParameters,
    *,
    trials: int,
    seed: int,
    done: list[Trial],
    run: Callable[[Hyperparameters], float],
    go_on: Callable[[], bool],
) -> Iterator[tuple[Trial, bool]]:
    """Each trial with whether it was run now; those in `done`, from an earlier process, are told to the oracle again.

    The oracle is made anew and told every result in order, so a search that was killed asks for exactly the trials that an
    undisturbed one would have (its own reload skips or repeats trials, keras-tuner issues 439 and 596).
    """
    with _Oracle(kind, space, trials, seed) as oracle:
        for number in range(trials):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # a length scale at its bound, with the few trials there are
                asked = oracle.create_trial("tuner") if number else _default_trial(oracle, space)
            if asked.hyperparameters is None:  # the space is exhausted
                return
            chosen = Hyperparameters(**{name: asked.hyperparameters.get(name) for name in Hyperparameters.__dataclass_fields__})
            known = number < len(done) and done[number].hyperparameters == chosen
            if not known and not go_on():
                return
            loss = done[number].loss if known else run(chosen)
            oracle.update_trial(asked.trial_id, {"loss": loss})
            asked.status = TrialStatus.COMPLETED if math.isfinite(loss) else TrialStatus.INVALID
            oracle.end_trial(asked)
            yield Trial(chosen, loss), not known


def _default_trial(oracle: kt.Oracle, space: kt.HyperParameters) -> KerasTunerTrial:
    """The first trial: the known-good defaults, which KerasTuner would not try of itself."""
    trial = KerasTunerTrial(space.copy(), trial_id="default", status=TrialStatus.RUNNING)
    oracle.trials[trial.trial_id] = oracle.ongoing_trials["tuner"] = trial
    oracle.start_order.append(trial.trial_id)
    return trial


class _Oracle:
    """An oracle with a folder of its own for what it insists on writing."""

    def __init__(self, kind: Literal["bayesian", "random"], space: kt.HyperParameters, trials: int, seed: int) -> None:
        settings = {"objective": kt.Objective("loss", "min"), "max_trials": trials, "hyperparameters": space, "seed": seed}
        settings["max_consecutive_failed_trials"] = trials + 1  # the caller says what it means when all fail
        match kind:
            case "bayesian":
                self.oracle = oracles.BayesianOptimizationOracle(num_initial_points=min(3, trials), **settings)
            case "random":
                self.oracle = oracles.RandomSearchOracle(**settings)
            case _:
                raise ValueError(f"oracle {kind!r}: expected bayesian or random")

        self.oracle.verbose = 0

    def __enter__(self) -> kt.Oracle:
        self.folder = tempfile.mkdtemp()
        self.oracle._set_project_dir(self.folder, "search")
        return self.oracle

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.folder)

"""The search: families of networks with a KerasTuner oracle each, asked and told by hand; no state of theirs is read from disk."""

import math
import shutil
import statistics
import tempfile
import warnings
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, Self

import keras_tuner as kt
from keras_tuner import oracles
from keras_tuner.engine.trial import Trial as KerasTunerTrial
from keras_tuner.engine.trial import TrialStatus
from sklearn.exceptions import ConvergenceWarning

from tasks.core.models import Configuration
from tasks.core.trials import Asked, Choices, Interval, Outcome, Space

Kind = Literal["bayesian", "random", "hyperband"]
MOST_DRAWS = 50  # of a configuration that was not tried yet, before there is held to be none
POINTS = 3  # of a family, before a model of its losses chooses the next
KEPT = 3  # of the trials that reach a rung of Hyperband one in so many goes on, and rungs are so many times apart
CHANCES = 2  # of a family to end a trial, when others do


class Search:
    """Which trial is next: `ask` says, `tell` takes what came of it, in any order.

    A trial is chosen from the outcomes of all but the `ahead` - 1 trials before it, told in the order of their numbers; so up
    to `ahead` may run at once, and the search is the same however many do and whichever ends first. Of those under way the
    model assumes a pessimistic loss (KerasTuner's own, after Ginsbourger et al. 2010, "Kriging is well-suited to parallelize
    optimization"). Hyperband draws its configurations and stops the trials that its rungs leave behind. A search that was killed
    is made anew and told again: it asks for exactly the trials of an undisturbed one (KerasTuner's own reload skips or repeats
    trials, keras-tuner issues 439 and 596).
    """

    def __init__(
        self, kind: Kind, families: Mapping[str, Space], *, trials: int, ahead: int, stop_after: int | None, seed: int
    ) -> None:
        """`stop_after`: outcomes that must be known before the limits of a trial are their median; None for no limits."""
        self.trials, self.ahead, self.stop_after = trials, ahead, stop_after
        self.kind = kind
        self.families = {
            name: _Family(name, kind, space, trials, seed + place) for place, (name, space) in enumerate(families.items())
        }
        self.asked: list[Asked] = []
        self.outcomes: dict[int, Outcome] = {}
        self.told = 0  # outcomes that the oracles know: those of the first so many trials
        self.over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for family in self.families.values():
            family.close()

    @property
    def ready(self) -> bool:
        """Whether the next trial can be asked for: there is one, and the outcomes that it depends on are known."""
        known = max(0, len(self.asked) - self.ahead + 1)
        return not self.over and len(self.asked) < self.trials and all(n in self.outcomes for n in range(1, known + 1))

    def ask(self) -> Asked | None:
        """The next trial; None when there is no further configuration to try. Only when `ready`."""
        assert self.ready
        for trial in self.asked[self.told : max(0, len(self.asked) - self.ahead + 1)]:
            self.families[trial.configuration.family].tell(trial.number, self.outcomes[trial.number].loss)
            self.told += 1
        number = len(self.asked) + 1
        for name in self._in_turn():
            configuration = self.families[name].ask(number)
            if configuration is not None:
                self.asked.append(Asked(number, configuration, self._limits()))
                return self.asked[-1]
        self.over = True
        return None

    def tell(self, number: int, outcome: Outcome) -> None:
        """The outcome of the trial of that number, which was asked for."""
        assert 0 < number <= len(self.asked)
        self.outcomes[number] = outcome

    def _in_turn(self) -> list[str]:
        """The families in the order in which they may have the next trial: first each once, then by turns the best one and
        the one of the fewest trials; a family that only failed comes last."""
        tried = [trial.configuration.family for trial in self.asked]
        if new := [name for name in self.families if name not in tried]:
            return new
        losses: dict[str, list[float]] = {name: [] for name in self.families}
        for trial in self.asked[: self.told]:
            losses[trial.configuration.family].append(self.outcomes[trial.number].loss)
        hopeless = {name for name, known in losses.items() if len(known) >= CHANCES and not math.isfinite(min(known))}
        fewest = sorted(self.families, key=lambda name: (name in hopeless, tried.count(name)))
        best = min(self.families, key=lambda name: min(losses[name], default=math.inf))
        leads = len(self.asked) % 2 == len(self.families) % 2 and best not in hopeless
        return [best, *(name for name in fewest if name != best)] if leads else fewest

    def _limits(self) -> tuple[float, ...]:
        """After each epoch the median of the known trials' best losses up to there (the median rule of Google Vizier, Golovin
        et al. 2017); nothing while fewer than `stop_after` are known."""
        known = [self.outcomes[trial.number] for trial in self.asked[: self.told]]
        curves = [outcome.losses for outcome in known if outcome.state != "failed"]
        if self.kind == "hyperband":
            return self._rungs(curves)
        if self.stop_after is None:
            return ()
        limits: list[float] = []
        while len(reached := [min(curve[: len(limits) + 1]) for curve in curves if len(curve) > len(limits)]) >= self.stop_after:
            limits.append(statistics.median(reached))
        return tuple(limits)

    def _rungs(self, curves: list[tuple[float, ...]]) -> tuple[float, ...]:
        """After 1, 3, 9, ... epochs the best loss that only one in three of the known trials has up to there, else no limit.

        Asynchronous Hyperband (Li et al. 2020, "A system for massively parallel hyperparameter tuning", arXiv 1810.05934), whose
        brackets take turns: each leaves out one rung more from below, the last one all, so that late bloomers are met too.
        """
        longest = max(map(len, curves), default=0)
        rungs = [KEPT**place for place in range(longest) if KEPT**place < longest]
        limits = [math.inf] * longest
        for rung in rungs[len(self.asked) % (len(rungs) + 1) :]:
            reached = sorted(min(curve[:rung]) for curve in curves if len(curve) >= rung)
            if len(reached) >= KEPT:
                limits[rung - 1] = reached[len(reached) // KEPT - 1]
        return tuple(limits)


class _Family:
    """A family's own oracle, with a folder for what it insists on writing."""

    def __init__(self, name: str, kind: Kind, space: Space, trials: int, seed: int) -> None:
        self.name, self.space = name, space
        parameters = _define_space(space)
        settings = {
            "objective": kt.Objective("loss", "min"),
            "max_trials": trials,
            "hyperparameters": parameters,
            "seed": seed + 1,  # it takes 0 for none
            "max_consecutive_failed_trials": trials + 1,  # the caller says what it means when all fail
        }
        match kind:
            case "bayesian":
                self.oracle = oracles.BayesianOptimizationOracle(num_initial_points=min(POINTS, trials), **settings)
            case "random" | "hyperband":
                self.oracle = oracles.RandomSearchOracle(**settings)
            case _:
                raise ValueError(f"oracle {kind!r}: expected bayesian, random or hyperband")
        self.oracle.verbose = 0
        self.folder = tempfile.mkdtemp()
        self.oracle._set_project_dir(self.folder, "search")
        self.trials: dict[int, KerasTunerTrial] = {}
        self.keys: set[str] = set()
        self.exhausted = False
        self.unit = 0.0

    def ask(self, number: int) -> Configuration | None:
        """A configuration that was not tried yet, of which the first is the default; None when there is none."""
        if self.exhausted:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a length scale at its bound, with the few trials there are
            trial = self.oracle.create_trial(str(number)) if self.trials else self._default_trial(str(number))
        values = trial.hyperparameters.values
        draws = 0
        while values and self._configuration(values).key in self.keys:
            # Where choices are few the model proposes the best one again, and the oracle's draws do not know what it proposed.
            values = trial.hyperparameters.values = self.oracle._random_values() if draws < MOST_DRAWS else None
            draws += 1
        if not values:
            self.exhausted = True
            return None
        chosen = self._configuration(values)
        self.keys.add(chosen.key)
        self.trials[number] = trial
        return chosen

    def tell(self, number: int, loss: float) -> None:
        """The oracle knows the loss, in units of the first one: of a trial under way it assumes 1 before it has a model."""
        trial = self.trials[number]
        if not self.unit and math.isfinite(loss):
            self.unit = loss
        self.oracle.update_trial(trial.trial_id, {"loss": loss / (self.unit or 1.0)})
        trial.status = TrialStatus.COMPLETED if math.isfinite(loss) else TrialStatus.INVALID
        self.oracle.end_trial(trial)

    def close(self) -> None:
        shutil.rmtree(self.folder)

    def _default_trial(self, tuner: str) -> KerasTunerTrial:
        """The known-good defaults, which KerasTuner would not try of itself."""
        trial = KerasTunerTrial(_define_space(self.space), trial_id="default", status=TrialStatus.RUNNING)
        self.oracle.trials[trial.trial_id] = self.oracle.ongoing_trials[tuner] = trial
        self.oracle.start_order.append(trial.trial_id)
        self.oracle._record_values(trial)
        return trial

    def _configuration(self, values: Mapping[str, Any]) -> Configuration:
        return Configuration(self.name, {name: values[name] for name in self.space})


def _define_space(space: Space) -> kt.HyperParameters:
    """KerasTuner's description of a family's space."""
    parameters = kt.HyperParameters()
    for name, one in space.items():
        match one:
            case Interval():
                parameters.Float(name, one.low, one.high, sampling="log", default=one.default)
            case Choices():
                parameters.Choice(name, list(one.values), default=one.default)
    return parameters

"""The search: what it tries first, that it goes on where it was, and when it stops."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import pytest

from tasks.core.models import Hyperparameters
from tasks.core.search import Trial, define_space, search

Kind = Literal["bayesian", "random"]
KINDS: tuple[Kind, ...] = ("bayesian", "random")
RANGES = {
    "learning_rate": (0.001, 0.1, 0.01),
    "weight_decay": (0.001, 0.1, 0.02),
    "dropout": (0.1, 0.5, 0.3),
    "embedding_dropout": (0.1, 0.5, 0.4),
}
TRIALS = 4  # the last is the first that the bayesian oracle models, which takes it seconds
DEFAULT = Hyperparameters(learning_rate=0.01, weight_decay=0.02, dropout=0.3, embedding_dropout=0.4, width=32, layers=2)


def quadratic(tried: Hyperparameters) -> float:
    return (math.log10(tried.learning_rate) + 1.5) ** 2 + (tried.dropout - 0.2) ** 2 + tried.layers / 100


def look(
    kind: Kind,
    *,
    trials: int = TRIALS,
    seed: int = 1,
    done: list[Trial] | None = None,
    run: Callable[[Hyperparameters], float] = quadratic,
    go_on: Callable[[], bool] = lambda: True,
) -> list[tuple[Trial, bool]]:
    space = define_space(RANGES, (16, 32, 64), (1, 2, 3))
    return list(search(kind, space, trials=trials, seed=seed, done=done or [], run=run, go_on=go_on))


@pytest.mark.parametrize("kind", KINDS)
def test_first_trial_is_the_default_and_the_others_are_new(kind: Kind) -> None:
    found = [trial for trial, _ in look(kind)]
    assert found[0] == Trial(DEFAULT, quadratic(DEFAULT))
    assert len({trial.hyperparameters for trial in found}) == TRIALS
    for trial in found:
        for name, (low, high, _) in RANGES.items():
            assert low <= getattr(trial.hyperparameters, name) <= high
        assert trial.loss == quadratic(trial.hyperparameters)


@pytest.mark.parametrize(("kind", "finished"), [("random", 1), ("random", 4), ("bayesian", 3)])
def test_search_that_was_killed_asks_what_an_undisturbed_one_would(kind: Kind, finished: int) -> None:
    whole = look(kind)
    assert [fresh for _, fresh in whole] == [True] * TRIALS
    undisturbed = [trial for trial, _ in whole]
    ran: list[Hyperparameters] = []

    def run(tried: Hyperparameters) -> float:
        ran.append(tried)
        return quadratic(tried)

    resumed = look(kind, done=undisturbed[:finished], run=run)
    assert [trial for trial, _ in resumed] == undisturbed
    assert [fresh for _, fresh in resumed] == [False] * finished + [True] * (TRIALS - finished)
    assert ran == [trial.hyperparameters for trial in undisturbed[finished:]]


def test_trials_of_another_search_are_not_taken_for_this_ones() -> None:
    other = [Trial(DEFAULT, 9.0), *(trial for trial, _ in look("random", seed=2)[1:])]
    found = look("random", seed=1, done=other)
    assert [fresh for _, fresh in found] == [False] + [True] * (TRIALS - 1)


def test_search_depends_on_its_seed() -> None:
    one, two = ([trial.hyperparameters for trial, _ in look("random", trials=3, seed=seed)] for seed in (1, 2))
    assert one[0] == two[0]
    assert one[1:] != two[1:]


def test_search_stops_before_the_trial_that_it_may_not_start() -> None:
    answers = iter([True, True, False])
    assert len(look("bayesian", go_on=lambda: next(answers))) == 2


def test_trials_that_are_known_need_no_leave_to_go_on() -> None:
    known = [trial for trial, _ in look("random", trials=3)]
    assert [trial for trial, _ in look("random", done=known, go_on=lambda: False)] == known


@pytest.mark.parametrize("kind", KINDS)
def test_search_outlives_trials_that_all_diverge(kind: Kind) -> None:
    found = look(kind, run=lambda tried: math.inf)
    assert len(found) == TRIALS
    assert not any(math.isfinite(trial.loss) for trial, _ in found)
    assert len({trial.hyperparameters for trial, _ in found}) == TRIALS


def test_search_goes_on_after_one_trial_diverged() -> None:
    found = [trial for trial, _ in look("bayesian", run=lambda tried: math.inf if tried == DEFAULT else quadratic(tried))]
    assert [math.isfinite(trial.loss) for trial in found] == [False] + [True] * (TRIALS - 1)


def test_oracle_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="expected bayesian or random"):
        look("grid")  # type: ignore[arg-type]


def test_default_of_the_choices_is_the_middle_one() -> None:
    space = define_space(RANGES, (16, 32, 64), (1, 2, 3, 4))
    assert (space.get("width"), space.get("layers")) == (32, 3)
    assert all(low < high for low, high in pairwise(space.space[-1].values))

"""The search: what it tries first, whom it asks next, that it goes on where it was, and when it stops trials."""

import dataclasses
import json
import math
from collections.abc import Callable

import pytest

from tasks.core.models import Configuration
from tasks.core.search import Kind, Search
from tasks.core.trials import Asked, Choices, Interval, Outcome, Space, Trial, best_of

KINDS: tuple[Kind, ...] = ("bayesian", "random", "hyperband")
MLP: Space = {
    "learning_rate": Interval(0.001, 0.1, 0.01),
    "dropout": Interval(0.1, 0.5, 0.3),
    "layers": Choices((1, 2, 3), 2),
}
LINEAR: Space = {"learning_rate": Interval(0.001, 0.1, 0.02)}
TRIALS = 5  # with two ahead the last is the first that the bayesian oracle models, which takes it seconds
Run = Callable[[Asked], Outcome]


def quadratic(asked: Asked) -> Outcome:
    values = asked.configuration.values
    rate, dropout, layers = (float(values.get(name, 0.0)) for name in ("learning_rate", "dropout", "layers"))
    return Outcome("finished", ((math.log10(rate) + 1.5) ** 2 + (dropout - 0.2) ** 2 + layers / 100,))


def diverge(asked: Asked) -> Outcome:
    return Outcome("failed", reason="the loss was no number")


def look(
    kind: Kind,
    families: dict[str, Space],
    *,
    trials: int = TRIALS,
    ahead: int = 2,
    stop_after: int | None = None,
    seed: int = 1,
    at_once: int = 1,
    run: Run = quadratic,
    last_first: bool = False,
) -> list[tuple[Asked, Outcome]]:
    """A whole search with so many trials at once, of which the oldest, or the newest, ends first."""
    running: list[Asked] = []
    found: dict[int, tuple[Asked, Outcome]] = {}
    with Search(kind, families, trials=trials, ahead=ahead, stop_after=stop_after, seed=seed) as search:
        while True:
            while search.ready and len(running) < at_once:
                asked = search.ask()
                if asked is None:
                    break
                running.append(asked)
            if not running:
                break
            asked = running.pop(-1 if last_first else 0)
            found[asked.number] = (asked, run(asked))
            search.tell(asked.number, found[asked.number][1])
    return [found[number] for number in sorted(found)]


@pytest.mark.parametrize("kind", KINDS)
def test_first_trial_of_each_family_is_its_default_and_no_configuration_comes_twice(kind: Kind) -> None:
    found = [asked.configuration for asked, _ in look(kind, {"mlp": MLP, "linear": LINEAR})]
    assert found[:2] == [
        Configuration("mlp", {"learning_rate": 0.01, "dropout": 0.3, "layers": 2}),
        Configuration("linear", {"learning_rate": 0.02}),
    ]
    assert len({configuration.key for configuration in found}) == TRIALS
    for configuration in found:
        space = {"mlp": MLP, "linear": LINEAR}[configuration.family]
        assert configuration.values.keys() == space.keys()
        for name, one in space.items():
            value = configuration.values[name]
            assert value in one.values if isinstance(one, Choices) else one.low <= float(value) <= one.high


@pytest.mark.parametrize("kind", KINDS)
def test_search_is_the_same_however_many_run_at_once_and_whichever_ends_first(kind: Kind) -> None:
    alone = look(kind, {"mlp": MLP}, ahead=3)
    assert look(kind, {"mlp": MLP}, ahead=3, at_once=3) == alone
    assert look(kind, {"mlp": MLP}, ahead=3, at_once=2, last_first=True) == alone


def test_next_trial_waits_for_those_that_it_is_chosen_by() -> None:
    with Search("random", {"mlp": MLP}, trials=5, ahead=2, stop_after=None, seed=1) as search:
        first, second = search.ask(), search.ask()
        assert first is not None
        assert second is not None
        assert not search.ready
        search.tell(second.number, quadratic(second))
        assert not search.ready
        search.tell(first.number, quadratic(first))
        assert search.ready


def test_model_finds_a_better_place_than_the_defaults() -> None:
    found = look("bayesian", {"linear": LINEAR}, trials=7, ahead=1)
    losses = [outcome.loss for _, outcome in found]
    assert min(losses[4:]) < min(losses[:4])
    assert min(losses) < 0.041 < losses[0]  # 0.04 is the least that there is without dropout


def test_search_depends_on_its_seed() -> None:
    one, two = ([asked.configuration for asked, _ in look("random", {"mlp": MLP}, trials=3, seed=seed)] for seed in (0, 2))
    assert one[0] == two[0]
    assert one[1:] != two[1:]
    assert one == [asked.configuration for asked, _ in look("random", {"mlp": MLP}, trials=3, seed=0)]


def test_every_other_trial_is_of_the_best_family() -> None:
    def run(asked: Asked) -> Outcome:
        loss = {"good": 0.1, "fair": 0.2, "poor": 0.3}[asked.configuration.family]
        return Outcome("finished", (loss,))

    found = look("random", {"poor": MLP, "good": MLP, "fair": MLP}, trials=11, ahead=1, run=run)
    tried = [asked.configuration.family for asked, _ in found]
    assert tried[:3] == ["poor", "good", "fair"]
    assert tried[3::2] == ["good"] * 4
    assert set(tried[4::2]) == {"poor", "fair"}


def test_family_that_only_fails_is_asked_no_more_while_another_lives() -> None:
    def run(asked: Asked) -> Outcome:
        return diverge(asked) if asked.configuration.family == "broken" else quadratic(asked)

    found = look("random", {"broken": MLP, "mlp": MLP}, trials=9, ahead=1, run=run)
    assert [asked.configuration.family for asked, _ in found].count("broken") == 2
    assert len(found) == 9


@pytest.mark.parametrize("kind", KINDS)
def test_search_outlives_trials_that_all_fail(kind: Kind) -> None:
    found = look(kind, {"mlp": MLP}, run=diverge)
    assert len({asked.configuration.key for asked, _ in found}) == TRIALS
    assert best_of([Trial(a.number, a.configuration, o, 1.0, 1.0) for a, o in found], 3) == []


def test_search_goes_on_after_one_trial_failed() -> None:
    found = look("bayesian", {"mlp": MLP}, ahead=1, run=lambda asked: diverge(asked) if asked.number == 1 else quadratic(asked))
    assert [outcome.state for _, outcome in found] == ["failed", *["finished"] * (TRIALS - 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_search_ends_when_every_configuration_was_tried(kind: Kind) -> None:
    space: Space = {"learning_rate": Choices((0.1, 0.2), 0.1), "layers": Choices((1, 2, 3), 2)}
    found = look(kind, {"small": space}, trials=20)
    assert len({asked.configuration.key for asked, _ in found}) == len(found) == 6


def test_limits_are_the_medians_of_the_best_losses_so_far() -> None:
    curves = [(0.9, 0.5), (0.8, 0.9), (0.7, 0.6), (0.6,)]

    def run(asked: Asked) -> Outcome:
        return (
            Outcome("stopped" if asked.number == 4 else "finished", curves[asked.number - 1])
            if asked.number < 5
            else diverge(asked)
        )

    found = look("random", {"mlp": MLP}, trials=6, ahead=1, stop_after=3, run=run)
    assert [asked.limits for asked, _ in found[:3]] == [(), (), ()]
    assert found[3][0].limits == (0.8, 0.6)  # of 0.9, 0.8, 0.7 and of 0.5, 0.8, 0.6
    assert found[4][0].limits == (0.75, 0.6)
    assert found[5][0].limits == (0.75, 0.6)  # one that failed sets none
    assert all(asked.limits == () for asked, _ in look("random", {"mlp": MLP}, trials=6, ahead=1, stop_after=None, run=run))


def test_best_are_finished_trials_by_their_loss() -> None:
    losses = {1: 0.5, 2: 0.3, 3: 0.4}
    trials = [Trial(n, Configuration("mlp", {"n": n}), Outcome("finished", (1.0, loss)), 1.0, 1.0) for n, loss in losses.items()]
    stopped = Trial(4, Configuration("mlp", {"n": 4}), Outcome("stopped", (0.1,)), 1.0, 1.0)
    assert [trial.number for trial in best_of([*trials, stopped], 2)] == [2, 3]


def test_best_hold_one_of_each_family_before_a_second_of_any() -> None:
    families = {1: ("mlp", 0.1), 2: ("mlp", 0.2), 3: ("tabm", 0.4), 4: ("cross", 0.3), 5: ("mlp", 0.15)}
    trials = [Trial(n, Configuration(f, {"n": n}), Outcome("finished", (loss,)), 1.0, 1.0) for n, (f, loss) in families.items()]
    assert [trial.number for trial in best_of(trials, 3)] == [1, 4, 3]
    assert [trial.number for trial in best_of(trials, 2)] == [1, 4]
    assert [trial.number for trial in best_of(trials, 4)] == [1, 5, 4, 3]


def test_trial_survives_the_journal() -> None:
    trial = Trial(3, Configuration("mlp", {"width": 8, "learning_rate": 0.1}), Outcome("stopped", (0.1 + 0.2, 0.5)), 1.5, 9.25)
    assert Trial.from_json(json.loads(json.dumps(dataclasses.asdict(trial)))) == trial


def test_oracle_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="expected bayesian, random or hyperband"):
        look("grid", {"mlp": MLP})  # type: ignore[arg-type]


def slowly(epochs: int) -> Run:
    """A training of so many epochs whose loss falls to the quadratic one, and that ends where its limits say."""

    def run(asked: Asked) -> Outcome:
        losses: list[float] = []
        for epoch in range(1, epochs + 1):
            losses.append(quadratic(asked).loss + 1 / epoch)
            if epoch < epochs and epoch <= len(asked.limits) and losses[-1] > asked.limits[epoch - 1]:
                return Outcome("stopped", tuple(losses))
        return Outcome("finished", tuple(losses))

    return run


def test_hyperband_ends_most_trials_at_its_rungs_and_finishes_the_best() -> None:
    found = look("hyperband", {"mlp": MLP}, trials=40, run=slowly(9))
    ends = [len(outcome.losses) for _, outcome in found]
    assert set(ends) <= {1, 3, 9}  # the rungs, and the end
    assert sum(ends) < 0.7 * 9 * 40
    best = min(found, key=lambda pair: quadratic(pair[0]).loss)
    assert best[1].state == "finished"
    whole = [asked.limits for asked, _ in found[10:] if all(math.isinf(limit) for limit in asked.limits)]
    assert 5 <= len(whole) <= 15  # of three brackets one leaves out both rungs
    assert len(look("random", {"mlp": MLP}, trials=40, run=slowly(9))[-1][1].losses) == 9


def test_limits_without_a_bound_reach_the_process_of_a_trial() -> None:
    asked = Asked(1, Configuration("mlp", {}), (math.inf, 0.5))
    assert Asked.from_json(json.loads(json.dumps(dataclasses.asdict(asked)))) == asked

"""What is said of hyperparameters and of more budget: that it finds what matters, and keeps silent where little is known."""

import itertools
import math
import random

import pytest

from tasks.core.importance import expect, weigh
from tasks.core.models import Configuration
from tasks.core.trials import Outcome, Trial


def trials(count: int, *, family: str = "mlp", failed: int = 0) -> list[Trial]:
    """The learning rate decides the loss, the width a tenth as much, the activation nothing."""
    chance = random.Random(3)
    made = []
    for number in range(1, count + 1):
        rate, width, word = 10 ** chance.uniform(-3, -1), chance.choice([8, 16, 32]), chance.choice(["relu", "tanh"])
        loss = 0.5 + (math.log10(rate) + 3) + 0.1 * math.log2(width / 8) / 2
        outcome = Outcome("finished", (loss + 0.1, loss)) if number > failed else Outcome("failed", reason="out of memory")
        values: dict[str, float | int | str] = {"learning_rate": rate, "width": width, "activation": word, "layers": 2}
        made.append(Trial(number, Configuration(family, values), outcome, 1.0, float(number)))
    return made


@pytest.mark.parametrize(("count", "method"), [(8, "rank"), (11, "rank"), (12, "variance"), (40, "variance")])
def test_what_decides_the_loss_weighs_most_and_what_was_not_varied_is_not_weighed(count: int, method: str) -> None:
    (found,) = weigh(trials(count))
    assert (found.family, found.method, found.trials) == ("mlp", method, count)
    assert found.of[0][0] == "learning_rate"
    assert found.of[0][1] > 0.7
    assert {name for name, _ in found.of} == {"learning_rate", "width", "activation"}
    assert all(0 <= weight <= 1 for _, weight in found.of)


def test_few_trials_failed_ones_and_equal_losses_say_nothing() -> None:
    assert weigh(trials(3)) == []
    assert weigh(trials(8, failed=5)) == []
    same = [Trial(t.number, t.configuration, Outcome("finished", (0.5,)), 1.0, 1.0) for t in trials(8)]
    assert weigh(same) == []


def test_each_family_is_weighed_by_itself() -> None:
    found = weigh([*trials(12), *trials(5, family="linear"), *trials(2, family="cross")])
    assert [(one.family, one.method, one.trials) for one in found] == [("mlp", "variance", 12), ("linear", "rank", 5)]


def test_doubling_is_what_the_last_doubling_brought_times_how_gains_shrank() -> None:
    chance = random.Random(5)
    losses = [chance.uniform(0.5, 0.9) for _ in range(8)]
    made = [Trial(i, Configuration("mlp", {"n": i}), Outcome("finished", (loss,)), 1.0, 1.0) for i, loss in enumerate(losses)]

    def mean_best(count: int) -> float:
        chosen = [min(some) for some in itertools.combinations(losses, count)]
        return sum(chosen) / len(chosen)

    found = expect(made)
    assert found is not None
    before, last = mean_best(2) - mean_best(4), mean_best(4) - mean_best(8)
    assert found.most == pytest.approx(last)
    assert found.likely == pytest.approx(last * min(1.0, last / before))
    assert 0 <= found.likely <= found.most
    assert expect(made[:7]) is None


def test_doubling_of_a_search_that_came_to_its_end_brings_nothing() -> None:
    made = [Trial(i, Configuration("mlp", {"n": i}), Outcome("finished", (0.5,)), 1.0, 1.0) for i in range(20)]
    found = expect(made)
    assert found is not None
    assert (found.likely, found.most) == (0.0, 0.0)

"""The search report: that it says what happened, in one file that needs nothing else."""

import re

from tasks.core.models import Configuration
from tasks.core.trials import Outcome, Trial
from tasks.core.tuning import End, Tuning, render

ATTACK = "<script>alert(1)</script>"


def trial(number: int, outcome: Outcome, family: str = "mlp") -> Trial:
    return Trial(number, Configuration(family, {"learning_rate": 0.001 * number, "note": "a"}), outcome, 3.0, 60.0 * number)


TRIALS = (
    trial(1, Outcome("finished", (0.61, 0.6))),
    trial(2, Outcome("failed", (), f"out of memory {ATTACK}")),
    trial(3, Outcome("finished", (0.55, 0.512345)), "linear"),
    trial(4, Outcome("stopped", (0.9,))),
)


def page(trials: tuple[Trial, ...] = TRIALS, *, end: End = "trials", budget: int = 4, price: float | None = None) -> str:
    return render(Tuning(trials, end, budget, 2, 100, 500, 50, 2, price))


def words(text: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", text[text.index("<body>") :]).split())


def test_page_tells_the_best_and_counts_the_states() -> None:
    said = words(page())
    assert "Best: trial 3, linear, validation loss 0.51235" in said
    assert "2 trials finished 1 stopped early, worse than others 1 failed 4.0 minutes, 2 processes at once" in said
    assert "4 of 4 trials: all trials of the budget were made." in said
    assert "100 rows of the 500 of the training part" in said
    assert "Too few trials to say: a family needs 4 that did not fail." in said
    assert "Too few trials to say: it takes 8 finished ones." in said


def test_page_tells_what_cut_the_search_short_and_what_it_cost() -> None:
    said = words(page(end="money", budget=90, price=1.5))
    assert "4 of 90 trials: the money of the budget is spent." in said
    assert "0.10 money, at 1.5 an hour" in said
    assert "money" not in words(page())


def test_history_has_a_dot_for_each_trial_and_a_line_that_only_falls() -> None:
    text = page()
    assert [state for _, state in re.findall(r'class="dot (c\d) (\w+)"', text)] == ["finished", "failed", "finished", "stopped"]
    line = re.search(r'<polyline points="([^"]*)"', text)
    assert line
    points = [tuple(map(float, point.split(","))) for point in line[1].split()]
    assert points == sorted(points)  # to the right, and down, which in a picture is up
    assert points[-1][0] == 1000
    assert all(0 <= y <= 240 for _, y in points)


def test_page_of_one_trial_and_of_equal_losses_is_whole() -> None:
    for trials in (TRIALS[:1], (TRIALS[0], trial(2, Outcome("finished", (0.7, 0.6))))):
        text = page(trials)
        assert "nan" not in text
        assert "Best: trial 1, mlp, validation loss 0.60000" in words(text)


def test_page_needs_nothing_from_elsewhere_and_runs_nothing() -> None:
    text = page()
    assert "default-src 'none'" in text
    assert ATTACK not in text
    assert "&lt;script&gt;" in text
    assert not re.search(r"(src|href)=|url\(|<script", text)

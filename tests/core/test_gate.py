"""The gate: which candidate it chooses and the words in which it refuses the others."""

import dataclasses
from typing import Any

import pytest

from tasks.core.gate import Limits, Measured, Verdict, judge

LIMITS = Limits(
    at_least={"auc": 0.7},
    at_most={"log_loss": 0.5},
    near_teacher={"auc": 0.01},
    near_best=10.0,
    max_bytes=200_000,
    max_microseconds=20,
    beats=("constant",),
)
LARGE = Measured("large", {"auc": 0.75, "log_loss": 0.40}, bytes=900_000, microseconds=90)
GOOD = Measured("student", {"auc": 0.745, "log_loss": 0.42}, bytes=100_000, microseconds=10)


def verdict(*candidates: Measured, **limits: Any) -> Verdict:
    return judge(
        [*candidates, LARGE],
        dataclasses.replace(LIMITS, **limits),
        teacher=LARGE.quality,
        loss="log_loss",
        baselines={"constant": 0.6, "gradient boosting": 0.41},
    )


def with_(name: str, **changes: Any) -> Measured:
    """The good candidate under another name, with other figures."""
    quality = {metric: changes.pop(metric, value) for metric, value in GOOD.quality.items()}
    return dataclasses.replace(GOOD, name=name, quality=quality, **changes)


def test_gate_prefers_the_smaller_candidate() -> None:
    assert verdict(GOOD, with_("int8", bytes=30_000), with_("pruned", bytes=40_000)).chosen == "int8"


def test_gate_prefers_the_smaller_candidate_even_when_a_larger_one_is_better() -> None:
    assert verdict(with_("better", auc=0.75, log_loss=0.3, microseconds=1), with_("small", bytes=30_000)).chosen == "small"


def test_gate_takes_the_first_of_equally_small_candidates() -> None:
    assert verdict(with_("simple"), with_("clever", auc=0.75)).chosen == "simple"


def test_gate_passes_over_a_smaller_candidate_that_fails() -> None:
    found = verdict(GOOD, with_("tiny", bytes=10, auc=0.5))
    assert found.chosen == "student"
    assert found.faults["student"] == []
    assert found.faults["tiny"]


def test_gate_may_choose_the_large_network() -> None:
    assert verdict(max_bytes=1_000_000, max_microseconds=100).chosen == "large"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"auc": 0.69, "near_teacher": {}}, "AUC 0.6900, at least 0.7 wanted"),
        ({"log_loss": 0.55}, "log loss 0.5500, at most 0.5 wanted"),
        ({"auc": 0.735}, "AUC 0.0150 worse than the teacher's, at most 0.01 wanted"),
        ({"bytes": 250_000}, "250,000 bytes, at most 200,000 wanted"),
        ({"microseconds": 20.5}, "over 20 microseconds for one row"),
        ({"log_loss": 0.65, "at_most": {}}, "log loss 0.6500, below that of the constant baseline (0.6000) wanted"),
    ],
)
def test_each_line_of_the_gate_refuses_in_its_own_words(changes: dict[str, Any], words: str) -> None:
    limits = {name: changes.pop(name) for name in list(changes) if name in ("near_teacher", "at_most")}
    found = verdict(with_("bad", **changes), **limits)
    assert found.faults["bad"] == [words]
    assert found.chosen is None


def test_values_at_the_limits_pass() -> None:
    edge = with_("edge", auc=0.74, log_loss=0.5, bytes=200_000, microseconds=20)
    assert verdict(edge, near_teacher={"auc": LARGE.quality["auc"] - 0.74}).faults["edge"] == []


def test_gate_names_every_line_that_fails() -> None:
    assert len(verdict(with_("hopeless", auc=0.5, log_loss=0.9, bytes=10**7, microseconds=500)).faults["hopeless"]) == 6


def test_gate_chooses_none_when_none_passes() -> None:
    found = verdict(with_("slow", microseconds=21), with_("heavy", bytes=10**6))
    assert found.chosen is None
    assert all(found.faults[name] for name in ("slow", "heavy", "large"))


def test_lower_is_better_for_an_error() -> None:
    quality = {"r2": 0.8, "rmse": 10.0, "mae": 8.0}
    candidates = [Measured("student", {**quality, "rmse": 10.4}, 100, 1), Measured("large", quality, 500, 1)]

    def judged(gap: float, constant: float) -> Verdict:
        limits = dataclasses.replace(LIMITS, at_least={"r2": 0.5}, at_most={"rmse": 11}, near_teacher={"rmse": gap})
        return judge(candidates, limits, teacher=quality, loss="rmse", baselines={"constant": constant})

    assert judged(0.5, 20.0).chosen == "student"
    assert judged(0.3, 20.0).faults["student"] == ["RMSE 0.4000 worse than the teacher's, at most 0.3 wanted"]
    assert judged(0.5, 10.2).faults["student"] == ["RMSE 10.4000, below that of the constant baseline (10.2000) wanted"]


def test_candidate_better_than_the_teacher_is_not_below_it() -> None:
    assert verdict(with_("better", auc=0.8)).faults["better"] == []


def test_candidate_must_be_below_each_named_baseline_and_no_other() -> None:
    assert verdict(GOOD, beats=()).faults["student"] == []
    found = verdict(GOOD, with_("equal", log_loss=0.41), with_("below", log_loss=0.409), beats=("constant", "gradient boosting"))
    assert found.faults["student"] == ["log loss 0.4200, below that of the gradient boosting baseline (0.4100) wanted"]
    assert found.faults["equal"] == ["log loss 0.4100, below that of the gradient boosting baseline (0.4100) wanted"]
    assert found.faults["below"] == []


def test_candidate_far_above_the_best_loss_is_refused_however_small() -> None:
    found = verdict(with_("good", log_loss=0.39), with_("tiny", log_loss=0.42, bytes=10), near_best=0.05)
    assert found.chosen == "good"
    assert found.faults["tiny"] == ["log loss 0.4200, at most 5.0% above the best candidate's (0.3900) wanted"]


def test_candidate_whose_numbers_are_not_numbers_is_refused() -> None:
    nan = float("nan")
    assert len(verdict(with_("broken", auc=nan, log_loss=nan)).faults["broken"]) == 5

"""The gate: which candidate may be released, and why not the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan

from tasks.core.metrics import LOWER_IS_BETTER, WORDS, Metric


@dataclass(frozen=True)
class Limits:
    """What a candidate must keep, metric by metric.

    `near_best` is the share by which its loss may be above the best candidate's; `beats` are baselines whose loss it must be below.
    """

    at_least: Mapping[Metric, float]
    at_most: Mapping[Metric, float]
    near_teacher: Mapping[Metric, float]
    near_best: float
    max_bytes: int
    max_microseconds: float
    beats: Sequence[str]


@dataclass(frozen=True)
class Measured:
    """A candidate as measured on the test part; microseconds for one row through the network alone."""

    name: str
    quality: Mapping[Metric, float]
    bytes: int
    microseconds: float


@dataclass(frozen=True)
class Verdict:
    """`chosen` is the name of the candidate to release, or None; `faults` names for each candidate the lines it fails."""

    chosen: str | None
    faults: dict[str, list[str]]


def judge(
    candidates: Sequence[Measured],
    limits: Limits,
    *,
    teacher: Mapping[Metric, float],
    loss: Metric,
    baselines: Mapping[str, float],
) -> Verdict:
    """The smallest candidate without a fault; among equally small ones the first.

    `teacher` is the quality of what is never served; `baselines` give their `loss`.
    """
    best = min((one.quality[loss] for one in candidates if isfinite(one.quality[loss])), default=nan)
    faults = {candidate.name: _faults(candidate, limits, teacher, best, loss, baselines) for candidate in candidates}
    passing = [candidate for candidate in candidates if not faults[candidate.name]]
    return Verdict(min(passing, key=lambda candidate: candidate.bytes).name if passing else None, faults)


def _faults(
    one: Measured, limits: Limits, teacher: Mapping[Metric, float], best: float, loss: Metric, baselines: Mapping[str, float]
) -> list[str]:
    quality = one.quality
    worse = {
        metric: (quality[metric] - teacher[metric]) * (1 if metric in LOWER_IS_BETTER else -1) for metric in limits.near_teacher
    }
    lines = [
        *((quality[m] >= low, f"{WORDS[m]} {quality[m]:.4f}, at least {low:g} wanted") for m, low in limits.at_least.items()),
        *((quality[m] <= high, f"{WORDS[m]} {quality[m]:.4f}, at most {high:g} wanted") for m, high in limits.at_most.items()),
        *(
            (worse[m] <= most, f"{WORDS[m]} {worse[m]:.4f} worse than the teacher's, at most {most:g} wanted")
            for m, most in limits.near_teacher.items()
        ),
        (
            quality[loss] <= best * (1 + limits.near_best),
            f"{WORDS[loss]} {quality[loss]:.4f}, at most {limits.near_best:.1%} above the best candidate's ({best:.4f}) wanted",
        ),
        (one.bytes <= limits.max_bytes, f"{one.bytes:,} bytes, at most {limits.max_bytes:,} wanted"),
        (
            one.microseconds <= limits.max_microseconds,
            f"over {limits.max_microseconds:g} microseconds for one row",  # the figure itself varies from run to run
        ),
        *(
            (
                quality[loss] < baselines[name],
                f"{WORDS[loss]} {quality[loss]:.4f}, below that of the {name} baseline ({baselines[name]:.4f}) wanted",
            )
            for name in limits.beats
        ),
    ]
    return [text for holds, text in lines if not holds]

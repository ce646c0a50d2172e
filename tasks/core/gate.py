"""The gate: which candidate may be released, and why not the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a candidate must keep; `beats` are baselines whose log loss it must be below."""

    min_auc: float
    max_logloss: float
    max_auc_below_teacher: float
    max_bytes: int
    max_microseconds: float
    beats: tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """A candidate as measured on the test part; microseconds for one row through the network alone."""

    name: str
    auc: float
    log_loss: float
    bytes: int
    microseconds: float


@dataclass(frozen=True)
class Verdict:
    """`chosen` is the name of the candidate to release, or None; `faults` names for each candidate the lines it fails."""

    chosen: str | None
    faults: dict[str, list[str]]


def judge(candidates: Sequence[Measured], limits: Limits, *, teacher: str, baselines: Mapping[str, float]) -> Verdict:
    """The smallest candidate without a fault; among equally small ones the first. `baselines` gives their log losses."""
    best = next(candidate.auc for candidate in candidates if candidate.name == teacher)
    faults = {candidate.name: _faults(candidate, limits, best, baselines) for candidate in candidates}
    passing = [candidate for candidate in candidates if not faults[candidate.name]]
    return Verdict(min(passing, key=lambda candidate: candidate.bytes).name if passing else None, faults)


def _faults(one: Measured, limits: Limits, teacher_auc: float, baselines: Mapping[str, float]) -> list[str]:
    lines = [
        (one.auc >= limits.min_auc, f"AUC {one.auc:.4f}, at least {limits.min_auc} wanted"),
        (one.log_loss <= limits.max_logloss, f"log loss {one.log_loss:.4f}, at most {limits.max_logloss} wanted"),
        (
            teacher_auc - one.auc <= limits.max_auc_below_teacher,
            f"AUC {teacher_auc - one.auc:.4f} below the teacher, at most {limits.max_auc_below_teacher} wanted",
        ),
        (one.bytes <= limits.max_bytes, f"{one.bytes:,} bytes, at most {limits.max_bytes:,} wanted"),
        (
            one.microseconds <= limits.max_microseconds,
            f"over {limits.max_microseconds:g} microseconds for one row",  # the figure itself varies from run to run
        ),
        *(
            (
                one.log_loss < baselines[name],
                f"log loss {one.log_loss:.4f}, below that of the {name} baseline ({baselines[name]:.4f}) wanted",
            )
            for name in limits.beats
        ),
    ]
    return [text for holds, text in lines if not holds]

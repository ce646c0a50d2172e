"""What a retraining did and why, when another one may begin, and the page that tells of it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from tasks.core.metrics import WORDS as METRIC_WORDS
from tasks.core.paired import Comparison
from tasks.core.report import ENVIRONMENT

Outcome = Literal["promoted", "canary", "held", "dropped", "unchanged", "skipped", "failed", "killed"]
WORDS: dict[Outcome, str] = {
    "promoted": "the challenger is in production",
    "canary": "the challenger is tried, and no service has decided on it yet",
    "held": "the challenger won and waits in the store",
    "dropped": "the challenger was dropped",
    "unchanged": "nothing new to learn from",
    "skipped": "nothing was trained",
    "failed": "the retraining failed",
    "killed": "the retraining was killed",
}
DAY = timedelta(days=1)
RUNNING = timedelta(hours=12)  # that an attempt without an end is taken for one that goes on elsewhere
FREE: tuple[Outcome, ...] = ("unchanged", "skipped")  # which cost nothing, and count for neither rule


@dataclass(frozen=True)
class Attempt:
    """A retraining as the store remembers it; times are ISO 8601, UTC."""

    id: str
    began: str
    by: str
    why: str
    ended: str = ""
    outcome: Outcome | None = None  # None while it goes on
    reason: str = ""
    challenger: str = ""

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Attempt":
        """TypeError or ValueError for what is none."""
        found = cls(**document)
        if datetime.fromisoformat(found.began).tzinfo is None:
            raise ValueError(f"began {found.began!r} without a zone")
        return found


@dataclass(frozen=True)
class Step:
    """One thing that was done."""

    at: str
    what: str
    detail: str


@dataclass(frozen=True)
class Challenge:
    """What champion and challenger were compared on, and what it came to. `instead` says why it was not the log, if so."""

    on: Literal["log", "test part"]
    start: str
    end: str
    instead: str
    comparison: Comparison
    quality: dict[str, dict[str, float]]  # every metric of the task, of champion and challenger

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Challenge":
        return cls(**{**document, "comparison": Comparison.from_json(document["comparison"])})


@dataclass(frozen=True)
class Retraining:
    """Everything that a retraining did, and why. `report` is the page that tells of it, from the workspace."""

    id: str
    model: str
    why: str
    outcome: Outcome
    reason: str
    began: str
    ended: str
    champion: str = ""
    challenger: str = ""
    challenge: Challenge | None = None
    steps: tuple[Step, ...] = field(default_factory=tuple)
    report: str = ""

    @property
    def headline(self) -> str:
        return f"{self.model}: {WORDS[self.outcome]}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def find_obstacle(attempts: Sequence[Attempt], now: datetime, cooldown: timedelta, most_a_day: int) -> tuple[str, bool]:
    """Why no retraining may begin now, empty if one may; and whether it is for the ceiling."""
    counted = [
        (began, one)
        for one in attempts
        if one.outcome not in FREE and (began := datetime.fromisoformat(one.began)) < now + DAY  # else by a clock that was wrong
    ]
    running = [began for began, one in counted if one.outcome is None and now - began < RUNNING]
    if running:
        return f"another one goes on since {_minute(max(running))}", False
    lately = sorted(began for began, _ in counted if now - began < DAY)
    if len(lately) >= most_a_day:
        again = _minute(lately[-most_a_day] + DAY)
        return f"{len(lately)} began within 24 hours, and retrain.most_a_day is {most_a_day}; the next may at {again}", True
    if counted and now - (last := max(began for began, _ in counted)) < cooldown:
        return f"the last one began at {_minute(last)}; by retrain.cooldown_hours the next may at {_minute(last + cooldown)}", False
    return "", False


def judge(challenge: Challenge, win: float) -> tuple[bool, str]:
    """Whether the challenger won, and how that is said."""
    found = challenge.comparison
    on = f"{found.rows:,} rows of the prediction log" if challenge.on == "log" else f"the {found.rows:,} rows of its test part"
    loss = METRIC_WORDS[found.loss]
    apart = found.difference
    said = (
        f"on {on} its {loss} is {found.challenger:.5g}, the champion's {found.champion:.5g} "
        f"({apart.value:+.4g}, {found.confidence:.0%} interval {apart.low:+.4g} to {apart.high:+.4g}); "
        f"it is the lower one in {found.won:.1%} of {found.resamples:,} resamples"
    )
    if found.won >= win:
        return True, said
    worse = "it is worse" if apart.low > 0 else f"{win:.0%} are asked for"
    return False, f"{said}, and {worse}"


def render(retraining: Retraining, attempts: Sequence[Attempt]) -> str:
    """The page as text; `attempts` are the ones before, newest first."""
    apart = retraining.challenge.comparison.difference if retraining.challenge else None
    widest = 1.15 * max(abs(apart.low), abs(apart.high), 1e-12) if apart else 1.0
    return ENVIRONMENT.get_template("retrain.html").render(
        one=retraining,
        words=WORDS,
        metrics=METRIC_WORDS,
        attempts=attempts,
        good=retraining.outcome in ("promoted", "held", "canary"),
        place=lambda value: 50 + 50 * value / widest,  # of a difference on an axis of 100 whose middle is none
    )


def as_markdown(retraining: Retraining) -> str:
    """The same in short, for Prefect's page of the run."""
    lines = [f"## {retraining.headline}", "", retraining.reason, "", f"Why: {retraining.why}", ""]
    if retraining.challenge:
        found = retraining.challenge.comparison
        lines += [f"| | {found.loss} |", "|---|--:|", f"| champion {retraining.champion} | {found.champion:.5g} |"]
        lines += [f"| challenger {retraining.challenger} | {found.challenger:.5g} |", ""]
    lines += [f"- {step.at[11:19]} {step.what}: {step.detail}" for step in retraining.steps]
    return "\n".join([*lines, *(("", f"Report: `{retraining.report}`") if retraining.report else ())])


def _minute(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M} UTC"

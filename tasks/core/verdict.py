"""What a look at a window of live rows came to: the record that monitor, alert and retrain hand to one another."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["none", "drift", "unknown"]
Subject = Literal["feature", "prediction", "truth", "quality", "calibration"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at and lies beyond its bound."""

    of: Subject
    name: str  # the column, or the slice "carrier=AA", or "" for the whole
    what: str  # in words: "mean 0.31 sd higher", "new category 'ZZ' in 5.1 % of the rows"
    effect: float  # the size that was measured, and ...
    bound: float  # ... the least that counts, for so many rows and so many tests
    p: float  # of that size or more where nothing has changed, corrected for all tests of the window


@dataclass(frozen=True)
class DriftReport:
    """What one window came to. `none` is said only when everything could be looked at."""

    model: str
    version: str  # the release whose reference it was held against
    start: str  # of the window, ISO 8601, UTC
    end: str  # exclusive
    rows: int
    labelled: int  # of them with a truth
    verdict: Verdict
    why: str  # one sentence for a person
    findings: tuple[Finding, ...]  # the worst first
    report: str  # path or URL of the HTML report, "" if there is none

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "DriftReport":
        """TypeError or KeyError for what `to_json` did not write."""
        return cls(**{**document, "findings": tuple(Finding(**one) for one in document["findings"])})

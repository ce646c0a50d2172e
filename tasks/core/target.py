"""The target: what its values are called, what the network learns instead of them, and how its scores are told."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.core.calibration import Calibration
from tasks.core.decision import Decision
from tasks.core.intervals import Intervals

Task = Literal["binary", "multiclass", "regression"]
Label = int | str | bool


def as_text(label: object) -> str:
    """A label as both a table and params.yaml write it: a boolean in small letters, a whole number without a point."""
    if isinstance(label, bool | np.bool_):
        return "true" if label else "false"
    if isinstance(label, float | np.floating) and float(label).is_integer():
        return str(int(label))
    return str(label)


@dataclass(frozen=True)
class Target:
    """`classes` in the order of their codes, none for a regression, which learns (value - center) / scale.

    Of a released model's target also what evaluate fitted to its scores, where it helps or was asked for.
    """

    task: Task
    name: str
    classes: tuple[Label, ...] = ()
    center: float = 0.0
    scale: float = 1.0
    calibration: Calibration | None = None
    decision: Decision | None = None
    intervals: Intervals | None = None

    @property
    def outputs(self) -> int:
        """Numbers that the network says of a row: one, or one for each of three classes or more."""
        return len(self.classes) if self.task == "multiclass" else 1

    def encode(self, values: Sequence[Any] | NDArray[Any]) -> NDArray[np.float32]:
        """What is learned [row]: the class's code, or the number on the scale; ValueError for a label that is no class."""
        if self.task == "regression":
            scaled: NDArray[np.float32] = ((np.asarray(values, np.float64) - self.center) / self.scale).astype(np.float32)
            return scaled
        return encode_labels(values, self.classes).astype(np.float32)

    def decode(self, scores: NDArray[Any]) -> NDArray[np.float64]:
        """Scores of the network as they are told: probabilities, calibrated where that helps, or numbers off the scale."""
        told = np.asarray(scores, np.float64)
        if self.task == "regression":
            return told * self.scale + self.center
        return told if self.calibration is None else self.calibration(told)

    def answer(self, scores: NDArray[Any]) -> list[Any]:
        """One answer for each row of scores [row] or [row, class].

        A probability, that of each class by its label, or a number; of a target with intervals its value, low and high.
        """
        return self.tell(scores)[0]

    def tell(self, scores: NDArray[Any]) -> tuple[list[Any], list[Label] | None]:
        """The answers to the rows, and the classes to act on where there is a decision."""
        told = self.decode(scores)
        if self.decision is None:
            return self._answers(told), None
        codes = self.decision(told).tolist()
        return self._answers(told), [self.classes[code] for code in codes]

    def _answers(self, told: NDArray[np.float64]) -> list[Any]:
        if self.intervals is not None:
            bounds = self.intervals(told)
            return [{"value": v, "low": low, "high": high} for v, (low, high) in zip(told.tolist(), bounds.tolist(), strict=True)]
        if self.task != "multiclass":
            numbers: list[float] = told.tolist()
            return numbers
        labels = [as_text(label) for label in self.classes]
        return [dict(zip(labels, map(float, row), strict=True)) for row in told]

    def decide(self, scores: NDArray[Any]) -> list[Label]:
        """The class to act on for each row of scores, of a target with a decision."""
        decided = self.tell(scores)[1]
        assert decided is not None
        return decided

    @property
    def meaning(self) -> str:
        """What an answer is, in words."""
        match self.task:
            case "binary":
                return f"the probability that {self.name} is {as_text(self.classes[1])}"
            case "multiclass":
                return f"the probability of each value of {self.name}"
            case "regression":
                return f"the expected {self.name}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Target":
        """The target that `to_json` described; TypeError or KeyError when the document is not one."""
        plain = as_tuples(document)
        parts: dict[str, type] = {"calibration": Calibration, "decision": Decision, "intervals": Intervals}
        fitted = {key: kind(**plain[key]) for key, kind in parts.items() if plain.get(key) is not None}
        return cls(**{**plain, **fitted})


def as_tuples(value: Any) -> Any:
    """JSON's lists as tuples, however deep."""
    if isinstance(value, list):
        return tuple(map(as_tuples, value))
    return {key: as_tuples(one) for key, one in value.items()} if isinstance(value, Mapping) else value


def encode_labels(values: Sequence[Any] | NDArray[Any], classes: Sequence[Label]) -> NDArray[np.int64]:
    """The code of each label [row]; ValueError names one that is no class."""
    codes = {as_text(label): code for code, label in enumerate(classes)}
    distinct, places = np.unique(np.asarray(values), return_inverse=True)
    told = [as_text(label) for label in distinct]
    if strange := [label for label in told if label not in codes]:
        raise ValueError(f"the target holds {strange[0]!r}; table.classes are {[as_text(label) for label in classes]}")
    coded: NDArray[np.int64] = np.array([codes[label] for label in told], np.int64)[places]
    return coded

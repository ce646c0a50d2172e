"""The search for the student's shape: sized and timed untrained, then trained ever longer while the worse ones are left behind."""

import csv
import itertools
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import keras
import numpy as np

from tasks import stage
from tasks.core.errors import ParamsError
from tasks.core.halving import best_of, rung_epochs, rungs
from tasks.core.models import NetworkSpec, build
from tasks.core.rows import Rows
from tasks.core.runtime import Network, time_rows
from tasks.core.target import Task
from tasks.lite import to_tflite
from tasks.params import Distill, ShapeSearch

log = logging.getLogger("tasks.shapes")

CALLS, ROUNDS = 500, 5  # of one row, the median of each round's, and the fastest round counts: it was disturbed least
# Over max_microseconds, since a shape near it must not be in the search of one run and out of another's; the gate is strict.
LENIENCE = 1.5


@dataclass(frozen=True)
class Size:
    """What a shape's network takes where it is served, with 8-bit weights; microseconds for one row."""

    parameters: int
    bytes: int
    microseconds: float


@dataclass
class Shape:
    """A shape as the student's parameters, its size, and the loss on each rung that it was trained on."""

    distill: Distill
    spec: NetworkSpec
    size: Size
    losses: list[float] = field(default_factory=list)

    @property
    def words(self) -> str:
        one = self.distill
        return f"hidden {'-'.join(map(str, one.hidden))}, {one.bins} bins, embedding {one.embedding}"


def search_shapes(
    search: ShapeSearch,
    distill: Distill,
    spec_of: Callable[[Distill], NetworkSpec],
    train: Callable[[str, NetworkSpec, int], float],
    *,
    task: Task,
    epochs: int,
    sample: Rows,
    folder: Path,
) -> list[Shape]:
    """Every shape, the best first; ParamsError when none fits the budget.

    `train` is told a name, a network as it is served and epochs, of which a whole training has `epochs`, and says the loss that it
    came to. `sample` is a row to time. `folder` keeps what is known of a shape, so that a killed search goes on.
    """
    memory = _Memory(folder / "shapes.json")
    shapes = [
        Shape(one, spec, Size(**memory.of(f"size of {spec}", partial(_measure, spec, task, sample))))
        for spec, one in list_shapes(search, distill, spec_of).items()
    ]
    fitting = [shape for shape in shapes if fits(shape.size, search)]
    for shape in shapes:
        said = f"{shape.size.bytes:,} bytes, {shape.size.microseconds:.1f} us"
        log.info("%s: %s%s", shape.words, said, "" if shape in fitting else ": over the budget, not trained")
    if not fitting:
        least = min(shapes, key=lambda shape: shape.size.bytes)
        raise ParamsError(
            f"distill.search: no shape is within {search.max_bytes:,} bytes and {search.max_microseconds:g} microseconds; the "
            f"smallest, {least.words}, takes {least.size.bytes:,} and {least.size.microseconds:.1f}. Name smaller ones, or raise "
            "the budget"
        )
    left, total = fitting, rungs(len(fitting), search.keep)
    for rung in range(total):
        length = rung_epochs(epochs, search.keep, total - rung)
        for shape in left:
            name = f"rung {rung + 1} of {total}, {shape.words}"
            run = partial(train, name, shape.spec, length)
            shape.losses.append(memory.of(f"rung {rung + 1}, {length} epochs of {shape.spec}", run))
            log.info("%s: loss %.6f", name, shape.losses[-1])
        left = [left[place] for place in best_of([shape.losses[-1] for shape in left], search.keep)]
    log.info("the student's shape: %s, %s bytes with 8-bit weights", left[0].words, f"{left[0].size.bytes:,}")
    return sorted(shapes, key=lambda shape: (shape is not left[0], -len(shape.losses), shape.losses[-1:]))


def list_shapes(search: ShapeSearch, distill: Distill, spec_of: Callable[[Distill], NetworkSpec]) -> dict[NetworkSpec, Distill]:
    """The student's own shape and then each combination, by the network that it comes to."""
    found = {spec_of(distill): distill}
    for hidden, bins, embedding in itertools.product(search.hidden, search.bins, search.embedding):
        one = distill.model_copy(update={"hidden": hidden, "bins": bins, "embedding": embedding})
        found.setdefault(spec_of(one), one)
    return found


def fits(size: Size, search: ShapeSearch) -> bool:
    """Whether the network is within the budget, the time with some lenience."""
    return size.bytes <= search.max_bytes and size.microseconds <= LENIENCE * search.max_microseconds


def _measure(spec: NetworkSpec, task: Task, sample: Rows) -> dict[str, Any]:
    """The size of the untrained network, whose weights are drawn: the converter leaves out biases that are zero."""
    model = build(keras, spec)
    random = np.random.default_rng(0)
    model.set_weights([random.normal(scale=0.1, size=weight.shape) for weight in model.get_weights()])
    content = to_tflite(model, task, 8, None)
    network = Network(content)
    seconds = min(time_rows(network, sample.inputs, rows=1, calls=CALLS) for _ in range(ROUNDS))
    return {"parameters": model.count_params(), "bytes": len(content), "microseconds": round(1e6 * seconds, 2)}


def write_shapes(file: TextIO, shapes: Sequence[Shape]) -> None:
    """A line for each shape, the chosen one first; `rung` is the last one that it was trained on, 0 of one over the budget."""
    table = csv.writer(file)
    table.writerow(["hidden", "bins", "embedding", "parameters", "bytes", "microseconds", "rung", "loss"])
    for one in shapes:
        hidden, loss = "-".join(map(str, one.distill.hidden)), f"{one.losses[-1]:.6f}" if one.losses else ""
        size = (one.size.parameters, one.size.bytes, one.size.microseconds)
        table.writerow([hidden, one.distill.bins, one.distill.embedding, *size, len(one.losses), loss])


class _Memory:
    """What was found out before, in a file that a kill leaves whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def of(self, key: str, find: Callable[[], Any]) -> Any:
        """What stands under the key; found out and written down if nothing does."""
        if key not in self.known:
            self.known[key] = find()
            with stage.replacing(self.path) as aside:
                aside.write_text(json.dumps(self.known))
        return self.known[key]

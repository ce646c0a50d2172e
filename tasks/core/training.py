"""The training loop: many steps of one epoch in one compiled call, over rows gathered from mapped arrays."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tasks.core import objective
from tasks.core.errors import DataError, DivergedError
from tasks.core.metrics import mean_loss
from tasks.core.rows import Rows
from tasks.core.target import Task

STEPS_PER_CALL = 32  # more gain nothing measurable; the rows of one call must fit in memory
SCORE_ROWS = 8192
CALL_VALUES = 2**28  # of the rows of one call: of images fewer steps are taken in it
SCORE_VALUES = 2**20  # of the rows that are scored at once: what convolutions make of them is many times that


@dataclass(frozen=True)
class Schedule:
    """How a network is trained: epochs over the data, rows of a step, AdamW with a cosine from learning_rate to zero."""

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    seed: int
    patience: int


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to; losses are means of what the task minimises, `best` says whether validation was never better."""

    number: int
    train_loss: float
    validation_loss: float
    seconds: float
    rows_per_second: float
    best: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Training:
    """A network on its way: `epochs()` yields after each one, and `state` is all that a fresh process goes on from."""

    def __init__(self, model: Any, task: Task, schedule: Schedule, rows: int) -> None:
        """The rows are those of an epoch; DataError when they do not fill one batch."""
        batches = rows // schedule.batch
        if not batches:
            raise DataError(f"{rows:,} training rows do not fill one batch of {schedule.batch:,}; lower the batch")
        self.model, self.task, self.schedule = model, task, schedule
        self.calls = -(-batches // max(1, min(STEPS_PER_CALL, CALL_VALUES // (schedule.batch * _widest(model)))))
        self.steps = batches // self.calls
        cosine = keras.optimizers.schedules.CosineDecay(schedule.learning_rate, schedule.epochs * self.calls * self.steps)
        self.optimizer = keras.optimizers.AdamW(cosine, weight_decay=schedule.weight_decay)
        self.optimizer.build(model.trainable_variables)
        self.run = _compile_steps(model, task, self.optimizer)
        self.best: list[NDArray[Any]] = model.get_weights()
        self.best_loss, self.since_best, self.done = np.inf, 0, 0

    @property
    def finished(self) -> bool:
        return self.done >= self.schedule.epochs or self.since_best >= self.schedule.patience

    def epochs(self, train: Rows, validation: Rows, watch: Callable[[int, int], None]) -> Iterator[Epoch]:
        """Train until finished; `watch` is told of rows done and rows of the epoch after each call.

        DivergedError when the loss is no longer a number; at the end the model holds its best weights.
        """
        while not self.finished:
            started = time.perf_counter()
            train_loss = self._epoch(train, watch)
            seconds = time.perf_counter() - started
            validation_loss = mean_loss(self.task, validation.target, predict(self.model, self.task, validation))
            if not np.isfinite(train_loss) or not np.isfinite(validation_loss):
                raise DivergedError(
                    f"the loss became {train_loss} in epoch {self.done + 1}; lower the learning rate. "
                    "Nothing was written and the last release stands"
                )
            self.done += 1
            better = validation_loss < self.best_loss
            self.since_best = 0 if better else self.since_best + 1
            if better:
                self.best, self.best_loss = self.model.get_weights(), validation_loss
            rate = self.calls * self.steps * self.schedule.batch / seconds
            yield Epoch(self.done, train_loss, validation_loss, seconds, rate, better)
        self.model.set_weights(self.best)

    def _epoch(self, rows: Rows, watch: Callable[[int, int], None]) -> float:
        """One pass in an order that depends on seed and epoch alone; the rows of the last, partial batch sit out."""
        order = np.random.default_rng([self.schedule.seed, self.done]).permutation(len(rows))
        size = self.steps * self.schedule.batch
        losses = []
        for call in range(self.calls):
            chosen = order[call * size : (call + 1) * size]
            part = rows.take(chosen)
            shape = (self.steps, self.schedule.batch)
            inputs = {name: array.reshape(*shape, *array.shape[1:]) for name, array in part.inputs.items()}
            target = part.target.reshape(*shape, *part.target.shape[1:]).astype(np.float32)
            loss = self.run(inputs, target)
            losses.append(float(loss))  # waits: else the runtime would queue all calls, with their rows
            watch((call + 1) * size, self.calls * size)
        return float(np.mean(losses))

    @property
    def state(self) -> dict[str, NDArray[Any]]:
        """Every variable (dropout's generators and the optimizer's slots among them), the best weights, the counters."""
        variables = [*self.model.variables, *self.optimizer.variables]
        return {
            **{f"variable_{i:04d}": np.asarray(variable) for i, variable in enumerate(variables)},
            **{f"best_{i:04d}": weight for i, weight in enumerate(self.best)},
            "counters": np.array([self.best_loss, self.since_best, self.done]),
        }

    @state.setter
    def state(self, saved: dict[str, NDArray[Any]]) -> None:
        for i, variable in enumerate([*self.model.variables, *self.optimizer.variables]):
            variable.assign(saved[f"variable_{i:04d}"])
        self.best = [saved[key] for key in sorted(saved) if key.startswith("best_")]
        best_loss, since_best, done = saved["counters"]
        self.best_loss, self.since_best, self.done = float(best_loss), int(since_best), int(done)


def _widest(model: Any) -> int:
    """Values of a row in the input that has most of them, at least one."""
    return int(max(1, *(math.prod(one.shape[1:]) for one in model.inputs)))


def _in_xla(model: Any) -> bool:
    """Whether XLA compiles the network: not one of images, whose convolutions take 40 times as long there as oneDNN's do
    (measured: 10 against 400 images/s, of 28 x 28 pixels)."""
    return all(len(one.shape) == 2 for one in model.inputs)


def _compile_steps(model: Any, task: Task, optimizer: Any) -> Any:
    """A compiled function of [step, batch, ...] arrays that takes all the steps and returns their mean loss."""

    @tf.function(jit_compile=_in_xla(model))  # type: ignore[untyped-decorator]
    def run(inputs: dict[str, Any], target: Any) -> Any:
        total = tf.zeros(())
        for step in tf.range(tf.shape(target)[0]):
            with tf.GradientTape() as tape:
                logits = model({name: array[step] for name, array in inputs.items()}, training=True)
                loss = objective.loss(task, logits, target[step])
            optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
            total += loss
        return total / tf.cast(tf.shape(target)[0], tf.float32)

    return run


def predict(model: Any, task: Task, rows: Rows) -> NDArray[np.float32]:
    """The members' joint scores: [row], or the probabilities [row, class] of a multiclass task."""

    @tf.function(jit_compile=_in_xla(model))  # type: ignore[untyped-decorator]
    def score(inputs: dict[str, Any]) -> Any:
        return objective.scores(task, model(inputs, training=False))

    parts = []
    size = max(1, min(SCORE_ROWS, SCORE_VALUES // _widest(model)))
    for start in range(0, len(rows), size):
        own = {name: array[start : start + size] for name, array in rows.inputs.items()}
        count = min(size, len(rows) - start)
        short = size - count  # one shape for all calls, so that one compilation serves them all
        full = score({name: np.pad(array, ((0, short), *((0, 0),) * (array.ndim - 1))) for name, array in own.items()}).numpy()
        parts.append(full[:count])
    scores: NDArray[np.float32] = np.concatenate(parts)
    return scores if task == "multiclass" else scores[:, 0]

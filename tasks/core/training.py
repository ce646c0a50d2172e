"""The training loop: many steps in one compiled call, over rows in memory or read ahead from mapped arrays, by one worker or
more."""

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tasks.core import objective
from tasks.core.errors import DataError, DivergedError, ParamsError
from tasks.core.metrics import mean_loss
from tasks.core.order import Window, plan_epochs
from tasks.core.rows import Rows
from tasks.core.target import Task
from tasks.core.team import ALONE, Team

SEED_STATE = "seed_generator_state"  # what Keras calls the variable of a layer's generator: a seed, and how often it was used
SECONDS_PER_CALL = 1.0  # of compiled steps between two looks at the clock
FIRST_STEPS = 8  # of the first call, before the pace is known
SCORE_ROWS = 8192
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
    class_weights: tuple[float, ...] = ()  # none: every row counts alike
    temperature: float = 1.0  # that the logits are divided by, as those of the targets were; scores are told without


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

    def __init__(self, model: Any, task: Task, schedule: Schedule, rows: int, team: Team = ALONE) -> None:
        """The rows are those of an epoch; DataError when they do not fill one batch. A team takes each batch in equal shares."""
        self.steps = rows // schedule.batch
        if not self.steps:
            raise DataError(f"{rows:,} training rows do not fill one batch of {schedule.batch:,}; lower the batch")
        if schedule.batch % team.size:
            raise ParamsError(f"a batch of {schedule.batch:,} rows has no equal shares for {team.size} workers; change either")
        self.model, self.task, self.schedule, self.team = model, task, schedule, team
        cosine = keras.optimizers.schedules.CosineDecay(schedule.learning_rate, schedule.epochs * self.steps)
        self.optimizer = keras.optimizers.AdamW(cosine, weight_decay=schedule.weight_decay)
        self.optimizer.build(model.trainable_variables)
        self.run = _compile_steps(model, task, self.optimizer, schedule, team)
        self.score = compile_scores(model, task)
        self.best: list[NDArray[Any]] = model.get_weights()
        self.best_loss, self.since_best, self.done = np.inf, 0, 0
        self.step, self.total = 0, 0.0  # of the epoch under way: steps taken, and the sum of their losses
        self._shift_seeds(1)

    @property
    def finished(self) -> bool:
        return self.done >= self.schedule.epochs or self.since_best >= self.schedule.patience

    def epochs(
        self, train: Rows, validation: Rows, watch: Callable[[int, int], None], memory: int | None = None
    ) -> Iterator[Epoch]:
        """Train until finished; `watch` is told of rows done and rows of the epoch about once a second.

        Training rows of more than `memory` bytes stay where they are and are read window by window; that changes no figure.
        DivergedError when the loss is no longer a number; at the end the model holds its best weights.
        """
        whole = memory is None or train.nbytes <= memory
        source = _Held(train, self.schedule.batch) if whole else _Mapped(train, self.schedule.batch)
        while not self.finished:
            started, before = time.perf_counter(), self.step
            for load in source.loads(self.schedule.seed, self.done, self.step):
                self._take_steps(load, watch)
            seconds = time.perf_counter() - started
            rate = (self.step - before) * self.schedule.batch / seconds
            train_loss, validation_loss = self.total / self.step, self._validate(validation, watch)
            if not np.isfinite(train_loss) or not np.isfinite(validation_loss):
                raise DivergedError(
                    f"the loss became {train_loss} in epoch {self.done + 1}; lower the learning rate. "
                    "Nothing was written and the last release stands"
                )
            self.done, self.step, self.total = self.done + 1, 0, 0.0
            better = validation_loss < self.best_loss
            self.since_best = 0 if better else self.since_best + 1
            if better:
                self.best, self.best_loss = self.model.get_weights(), validation_loss
            yield Epoch(self.done, train_loss, validation_loss, seconds, rate, better)
        self.model.set_weights(self.best)

    def _take_steps(self, load: "_Load", watch: Callable[[int, int], None]) -> None:
        """All steps that the rows at hand are for, so many in one call as take about a second."""
        order = load.order.reshape(-1, self.team.size, self.schedule.batch // self.team.size)
        own = tf.constant(order[:, self.team.index].ravel())  # this process' part of each batch
        steps, end = FIRST_STEPS, load.first + load.steps
        while self.step < end:
            count = min(steps, end - self.step)
            started = time.perf_counter()
            total = self.run(load.inputs, load.target, own, self.step - load.first, count, self.total)
            self.total, self.step = total, self.step + count
            watch(self.step * self.schedule.batch, self.steps * self.schedule.batch)
            # All must take as many: the team's mean time, not this process' own.
            seconds = self.team.agree([time.perf_counter() - started])[0] / self.team.size
            steps = max(1, min(4 * steps, int(count * SECONDS_PER_CALL / max(seconds, 1e-9))))

    def _validate(self, rows: Rows, watch: Callable[[int, int], None]) -> float:
        """The mean loss of the rows, each process having scored its part of them."""
        whole, weights = self.steps * self.schedule.batch, self.schedule.class_weights

        def tick() -> None:
            watch(whole, whole)

        if self.team.size == 1:
            return mean_loss(self.task, rows.target, score_rows(self.score, self.task, rows, tick), weights)
        start, stop = (len(rows) * (self.team.index + i) // self.team.size for i in (0, 1))
        own = rows.between(start, stop)
        loss = mean_loss(self.task, own.target, score_rows(self.score, self.task, own, tick), weights) if len(own) else 0.0
        return self.team.agree([loss * len(own)])[0] / len(rows)

    def _shift_seeds(self, times: int) -> None:
        """The generators of dropout differ between the processes of a team, whose rows do; `state` holds the chief's."""
        for variable in self.model.variables:
            if variable.name == SEED_STATE:
                variable.assign(np.asarray(variable) + np.array([times * self.team.index, 0]).astype(np.uint32))

    @property
    def state(self) -> dict[str, NDArray[Any]]:
        """Every variable (dropout's generators and the optimizer's slots among them), the best weights, the counters."""
        self._shift_seeds(-1)
        variables = [np.array(variable) for variable in [*self.model.variables, *self.optimizer.variables]]
        self._shift_seeds(1)
        return {
            **{f"variable_{i:04d}": variable for i, variable in enumerate(variables)},
            **{f"best_{i:04d}": weight for i, weight in enumerate(self.best)},
            "counters": np.array([self.best_loss, self.since_best, self.done, self.step, self.total]),
        }

    @state.setter
    def state(self, saved: dict[str, NDArray[Any]]) -> None:
        for i, variable in enumerate([*self.model.variables, *self.optimizer.variables]):
            variable.assign(saved[f"variable_{i:04d}"])
        self._shift_seeds(1)
        self.best = [saved[key] for key in sorted(saved) if key.startswith("best_")]
        best_loss, since_best, done, step, total = saved["counters"].tolist()
        self.best_loss, self.since_best, self.done, self.step, self.total = best_loss, int(since_best), int(done), int(step), total


def _in_xla(model: Any) -> bool:
    """Whether XLA compiles the network: not one of images, whose convolutions it runs many times slower than oneDNN does (on a
    processor; of 28 x 28 pixels oneDNN took 400 images/s, XLA's second call did not end in two minutes)."""
    return all(len(one.shape) == 2 for one in model.inputs)


@dataclass(frozen=True)
class _Load:
    """Rows in memory, the order [row] of their visits, and the steps of the epoch that they are for."""

    inputs: dict[str, Any]
    target: Any
    order: NDArray[np.int32]
    first: int
    steps: int


class _Held:
    """All rows as tensors, for as long as the training goes on."""

    def __init__(self, rows: Rows, batch: int) -> None:
        self.plan = plan_epochs(rows, batch)
        self.inputs = {name: tf.constant(array) for name, array in rows.inputs.items()}
        self.target = tf.constant(rows.target, tf.float32)

    def loads(self, seed: int, epoch: int, done: int) -> Iterator[_Load]:
        """The epoch in one piece, the steps done before included."""
        order = np.concatenate([window.places for window in self.plan.epoch(seed, epoch)])
        yield _Load(self.inputs, self.target, order, 0, self.plan.steps)


class _Mapped:
    """Rows that stay where they are: a window of them in memory, and the next one, which a thread reads meanwhile."""

    def __init__(self, rows: Rows, batch: int) -> None:
        self.rows, self.plan = rows, plan_epochs(rows, batch)

    def loads(self, seed: int, epoch: int, done: int) -> Iterator[_Load]:
        """The windows of the epoch that hold the steps not done yet."""
        number = done // self.plan.window_steps
        with ThreadPoolExecutor(1) as reader:
            coming: Future[_Load] | None = None
            for window in self.plan.epoch(seed, epoch, number):
                later = reader.submit(self._read, window, number * self.plan.window_steps)
                number += 1
                if coming is not None:
                    yield coming.result()
                coming = later
            if coming is not None:
                yield coming.result()

    def _read(self, window: Window, first: int) -> _Load:
        inputs = {name: tf.constant(self._stretches(array, window)) for name, array in self.rows.inputs.items()}
        target = tf.constant(self._stretches(self.rows.target, window), tf.float32)
        order = np.zeros(min(self.plan.window, self.plan.steps * self.plan.batch), np.int32)
        order[: len(window.order)] = window.order
        return _Load(inputs, target, order, first, len(window.order) // self.plan.batch)

    def _stretches(self, array: NDArray[Any], window: Window) -> NDArray[Any]:
        """The window's rows as they lie, and zeros up to one shape for all windows: one compilation serves them all."""
        held = np.zeros((self.plan.capacity, *array.shape[1:]), array.dtype)
        at = 0
        for start, stop in window.stretches:
            held[at : at + stop - start] = array[start:stop]
            at += stop - start
        return held


def _compile_steps(model: Any, task: Task, optimizer: Any, schedule: Schedule, team: Team) -> Any:
    """A compiled function that takes `count` steps of its rows, gathered by their order, and adds their losses to `total`.

    A process on its own runs it whole in XLA, which has no sums over processes: in a team what lies between those is compiled.
    """
    weights, share, temperature = model.trainable_variables, schedule.batch // team.size, schedule.temperature
    whole = team.size == 1

    def differentiate(inputs: dict[str, Any], target: Any) -> list[Any]:
        with tf.GradientTape() as tape:
            logits = model(inputs, training=True)
            logits = logits / temperature if temperature != 1 else logits
            loss = objective.loss(task, logits, target, schedule.class_weights) / team.size
        return [loss, *map(tf.convert_to_tensor, tape.gradient(loss, weights))]

    def update(gradients: list[Any]) -> None:
        optimizer.apply(gradients, weights)

    if not whole:
        differentiate, update = (tf.function(part, jit_compile=_in_xla(model)) for part in (differentiate, update))

    @tf.function(jit_compile=whole and _in_xla(model))  # type: ignore[untyped-decorator]
    def run(inputs: dict[str, Any], target: Any, order: Any, first: Any, count: Any, total: Any) -> Any:
        step = first
        while step < first + count:  # a tf.range would be compiled anew for every count
            places = tf.slice(order, [step * share], [share])
            own = {name: tf.gather(array, places) for name, array in inputs.items()}
            loss, *gradients = team.sum(differentiate(own, tf.gather(target, places)))
            update(gradients)
            total += tf.cast(loss, tf.float64)  # in this order whatever the calls, so that they change no bit
            step += 1
        return total

    def call(inputs: dict[str, Any], target: Any, order: Any, first: int, count: int, total: float) -> float:
        return float(run(inputs, target, order, tf.constant(first), tf.constant(count), tf.constant(total, tf.float64)))

    return call


def predict(model: Any, task: Task, rows: Rows) -> NDArray[np.float32]:
    """The members' joint scores: [row], or the probabilities [row, class] of a multiclass task."""
    return score_rows(compile_scores(model, task), task, rows)


def compile_scores(model: Any, task: Task) -> Any:
    """The model as a compiled function of its inputs, for `score_rows`."""

    @tf.function(jit_compile=_in_xla(model))  # type: ignore[untyped-decorator]
    def score(inputs: dict[str, Any]) -> Any:
        return objective.scores(task, model(inputs, training=False))

    return score


def score_rows(score: Any, task: Task, rows: Rows, tick: Callable[[], None] = lambda: None) -> NDArray[np.float32]:
    """What `predict` says, by a compiled function of the inputs; `tick` is called now and then."""
    parts = []
    widest = max(1, *(math.prod(array.shape[1:]) for array in rows.inputs.values()))
    at_once = max(1, min(SCORE_ROWS, SCORE_VALUES // widest))
    for start in range(0, len(rows), at_once):
        own = {name: array[start : start + at_once] for name, array in rows.inputs.items()}
        count = min(at_once, len(rows) - start)
        short = at_once - count  # one shape for all calls, so that one compilation serves them all
        full = score({name: np.pad(array, ((0, short), *((0, 0),) * (array.ndim - 1))) for name, array in own.items()}).numpy()
        parts.append(full[:count])
        tick()
    scores: NDArray[np.float32] = np.concatenate(parts)
    return scores if task == "multiclass" else scores[:, 0]

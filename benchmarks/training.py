"""Training: rows a second beside the bare matrix products and Keras' `fit`, a million steps, and a set ten times its memory.

Everything is made up here, so that it runs anywhere; each part is measured several times in turn with what it is compared to.
"""

import argparse
import itertools
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import psutil
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from tasks.core.rows import Rows
from tasks.core.training import Schedule, Training
from tasks.features import ArrayWriter, load_rows

WIDTHS = (144, 512, 512, 1)  # of the network: 337,409 parameters
BATCH, STEPS, REPEATS = 8192, 5, 5
MILLION = 1_000_000
LIMIT = 3 << 29  # bytes of private memory for the child that trains on a set of ten times as many


def network(widths: tuple[int, ...]) -> Any:
    """A plain MLP of these widths."""
    keras.utils.set_random_seed(0)
    num = keras.Input((widths[0],), name="num")
    x = num
    for units in widths[1:-1]:
        x = keras.layers.Dense(units, activation="relu")(x)
    return keras.Model({"num": num}, keras.layers.Dense(widths[-1])(x))


def made_up(count: int, width: int) -> Rows:
    draw = np.random.default_rng(0)
    num = draw.normal(size=(count, width)).astype(np.float32)
    return Rows({"num": num}, (num[:, 0] > 0).astype(np.float32))


def timed(work: Callable[[], Any]) -> float:
    """Seconds of wall clock that it took."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def matrix_products(widths: tuple[int, ...], batch: int, steps: int) -> Callable[[], float]:
    """What the steps cannot do without: of each layer the product forward, that for its weights, and that for what is below it.

    This and the others return the seconds that they took.
    """
    pairs = [
        (tf.random.normal((batch, a)), tf.random.normal((a, b)), tf.random.normal((batch, b)))
        for a, b in itertools.pairwise(widths)
    ]

    def work() -> None:
        for _ in range(steps):
            for i, (x, weights, gradient) in enumerate(pairs):
                tf.matmul(x, weights)
                tf.matmul(x, gradient, transpose_a=True)
                if i:  # nothing is below the first
                    tf.matmul(gradient, weights, transpose_b=True)

    return lambda: timed(work)


def plain_fit(rows: Rows, jit: bool) -> Callable[[], float]:
    """An epoch of Keras' own loop."""
    model = network(WIDTHS)
    model.compile(keras.optimizers.AdamW(1e-3), keras.losses.BinaryCrossentropy(from_logits=True), jit_compile=jit)
    target = rows.target[:, None]
    return lambda: timed(lambda: model.fit(dict(rows.inputs), target, batch_size=BATCH, epochs=1, verbose=0))


def ours(rows: Rows) -> Callable[[], float]:
    """An epoch of the compiled loop, less its validation, which that of `fit` does not have."""
    run = Training(network(WIDTHS), "binary", Schedule(10**6, BATCH, 1e-3, 4e-3, 1, 10**6), len(rows))
    epochs = run.epochs(rows, rows.head(100), lambda done, total: None)
    return lambda: next(epochs).seconds


def measure_throughput(table: Table) -> None:
    """Rows a second of each way, and its ratio to the matrix products of the same round and to `fit`: medians of rounds."""
    rows = made_up(BATCH * STEPS, WIDTHS[0])
    ways = {
        "matrix products alone": matrix_products(WIDTHS, BATCH, STEPS),
        "keras fit": plain_fit(rows, jit=False),
        "keras fit, XLA": plain_fit(rows, jit=True),
        "tidemill": ours(rows),
    }
    rounds = np.array([[way() for way in ways.values()] for _ in range(REPEATS + 1)])[1:]  # the first one compiles
    floor, fit = rounds[:, 0], rounds[:, 1]
    for name, mine in zip(ways, rounds.T, strict=True):
        rate, to_floor, to_fit = len(rows) / np.median(mine), np.median(floor / mine), np.median(fit / mine)
        table.add_row(name, f"{rate:,.0f}", f"{to_floor:.2f}", f"{to_fit:.2f}")


def measure_million_steps(batch: int = 4) -> str:
    """How fast the first and the last tenth of a million steps were, and how much memory the process held after each."""
    process, rows = psutil.Process(), made_up(batch * MILLION // 10, 8)
    run = Training(network((8, 8, 1)), "binary", Schedule(11, batch, 1e-4, 1e-4, 1, 11), len(rows))
    tenths, cpu = [], time.process_time()
    for epoch in run.epochs(rows, rows.head(100), lambda done, total: None):  # an epoch is a tenth; the first one compiles
        now = time.process_time()
        tenths.append((epoch.rows_per_second / batch, MILLION / 10 / (now - cpu), process.memory_info().rss / 2**20))
        cpu = now
    (rate, per_cpu, held), (late_rate, late_per_cpu, late_held) = tenths[1], tenths[-1]
    return (
        f"{MILLION:,} steps: {rate:,.0f} steps/s in the first tenth, {late_rate:,.0f} in the last; by CPU seconds "
        f"{per_cpu:,.0f} and {late_per_cpu:,.0f}, {late_per_cpu / per_cpu:.2f}; {held:,.0f} MB after the first, "
        f"{late_held:,.0f} MB after the last"
    )


def write_large(folder: Path) -> int:
    """Rows of ten times the limit, on disk; returns their number."""
    width, piece = WIDTHS[0], 10_000
    count = 10 * LIMIT // (4 * width) // piece * piece
    arrays: dict[str, tuple[tuple[int, ...], type]] = {
        "num": ((width,), np.float32),
        "cat": ((0,), np.int32),
        "target": ((), np.float32),
    }
    one = made_up(piece, width)
    with ArrayWriter(folder, {"train": (count, arrays)}) as writer:
        for _ in range(count // piece):
            writer.write("train", {"num": one.num, "cat": np.zeros((piece, 0), np.int32), "target": one.target})
    return count


def train_within(folder: Path, memory: int | None, rows: int) -> None:
    """The child: trains and prints rows a second, and its private memory at most.

    Of rows in memory the second epoch tells, as the first one compiles; a set of ten times as many takes minutes for one."""
    train = load_rows(folder, "train").head(rows)
    train = Rows({"num": train.num}, train.target)
    few = train.head(BATCH)
    first = Training(network(WIDTHS), "binary", Schedule(1, BATCH, 1e-3, 1e-3, 1, 1), len(few))
    list(first.epochs(few, few, lambda done, total: None))
    if memory is not None:  # from here on: the threads that TensorFlow has started by now reserve more than they use
        soft = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, soft))
    process, peak = psutil.Process(), 0

    def watch(done: int, total: int) -> None:
        nonlocal peak
        peak = max(peak, process.memory_info().data)  # what the limit counts: private memory that can be written

    epochs = 2 if memory is None else 1
    run = Training(network(WIDTHS), "binary", Schedule(epochs, BATCH, 1e-3, 1e-3, 1, epochs), len(train))
    *_, last = run.epochs(train, train.head(BATCH), watch, memory)
    print(last.rows_per_second, peak)


def measure_mapped() -> str:
    """The rate on a set ten times the limit, that the kernel holds the child to, beside that on rows in memory without one."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as name:
        folder = Path(name) / "features"
        count, peak = write_large(folder), 0.0
        rates: dict[str, list[float]] = {"held": [], "mapped": []}
        for kind, rows in (("held", count // 10), ("mapped", count), ("held", count // 10)):
            command = [sys.executable, "-m", "benchmarks.training", "--child", str(folder), kind, str(rows)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                return f"{kind} rows: the child ended with exit code {done.returncode}: {done.stderr.strip()[-300:]}"
            rate, held_bytes = map(float, done.stdout.split()[-2:])
            rates[kind].append(rate)
            peak = held_bytes if kind == "mapped" else peak
    held, mapped = float(np.mean(rates["held"])), rates["mapped"][0]
    return (
        f"{count:,} rows of {4 * WIDTHS[0]:,} bytes, {10 * LIMIT >> 20:,} MB, under a limit of {LIMIT >> 20:,} MB (RLIMIT_DATA): "
        f"{mapped:,.0f} rows/s, {mapped / held:.2f} of {held:,.0f} in memory before and after; "
        f"{peak / 2**20:,.0f} MB private at most"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--child", nargs=3, metavar=("FOLDER", "KIND", "ROWS"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        folder, kind, rows = asked.child
        train_within(Path(folder), None if kind == "held" else 0, int(rows))
        return
    title = f"{network(WIDTHS).count_params():,} parameters, batch {BATCH:,}, {os.cpu_count()} cores, {REPEATS} rounds"
    table = Table("loop", "rows/s, median", "to the products", "to fit", title=title)
    measure_throughput(table)
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(measure_million_steps())
    console.print(measure_mapped())


if __name__ == "__main__":
    main()

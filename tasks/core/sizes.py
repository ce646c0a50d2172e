"""Values of params.yaml that follow from how large a table is, so that 80 rows learn something and a million end in minutes."""

import math
from dataclasses import dataclass

from tasks.core.target import Task

STEPS = {"regression": 6000, "binary": 3000, "multiclass": 3000}  # of the optimiser: what a network needs whatever the batch
VISITS = 2_000_000  # rows seen in all epochs, beyond which only time is lost
MOST_FOR_TREES = 1_500_000  # training rows: of more the teacher's trees would have to say all
MOST_MADE = 400_000  # made-up rows
CELLS = 3_000_000  # values that one trial of the search reads in an epoch


@dataclass(frozen=True)
class Sizes:
    """One value for each place in the template."""

    test: float
    validation: float
    max_quarantined: float
    min_rows: int
    drift: float
    quantiles: int
    min_count: int
    tokens: int
    pieces: dict[str, int] | None
    members: int
    bins: int
    trials: int
    tune_rows: int
    tune_epochs: int
    batch: int
    dropout: float
    most_dropout: float
    trees: dict[str, float] | None
    words: int | None
    made: float
    embedding: int
    layers: tuple[int, ...]
    width: tuple[int, ...]
    epochs: int
    patience: int
    distill_epochs: int
    distill_batch: int
    distill_embedding: int
    hidden: tuple[int, ...]
    teacher_weight: float
    compress_epochs: int
    calibration_rows: int
    baseline_rows: int
    max_bytes: int
    golden_rows: int


def choose_sizes(rows: int, columns: int, task: Task, words: float) -> Sizes:
    """Sizes for a table of that many rows and features; `words`: of its longest column of texts, on average."""
    test, validation = (0.25, 0.15) if rows < 1000 else (0.2, 0.1)
    train = max(1, int(rows * (1 - test - validation)))
    batch = _power_of_two(train / 150, 16, 2048)
    epochs = _clip(min(STEPS[task] / _steps(train, batch), VISITS / train), 4, 80)
    tune_rows = min(_clip(CELLS / columns, 10_000, 100_000), max(train, 100))
    leaf = _clip(train / 100_000, 1, 5) if task == "regression" else _clip(train / 2000, 1, 20)
    small, many = rows < 20_000, train > MOST_FOR_TREES
    boosting = {"boosting": 1500, "learning_rate": 0.03} if task == "regression" else {"boosting": 800, "learning_rate": 0.05}
    # A number without much noise is blurred by dropout: a tenth of it took diamonds' error from 0.085 to 0.105.
    # Of words, of which each stands in few rows, half are left out: networks know short texts by heart after two epochs.
    dropout = 0.5 if words else 0.002 if task == "regression" else 0.1 if rows < 100_000 else 0.2
    return Sizes(
        test=test,
        validation=validation,
        max_quarantined=0.05 if rows < 1000 else 0.01,
        min_rows=max(20, rows // 2),
        drift=0.3 if rows < 1000 else 0.2 if rows < 10_000 else 0.1,
        quantiles=_clip(train / 20, 8, 64),
        min_count=_clip(train / 2000, 2, 200),
        tokens=_clip(3 * words, 8, 128),
        pieces={"slots": _clip(16 * words, 32, 1024), "most": 30_000} if words else None,
        members=8 if rows * columns < 30_000_000 else 4,
        bins=8 if columns > 60 else 16 if small else 48 if task == "regression" else 32,
        trials=6,
        tune_rows=tune_rows,
        tune_epochs=_clip(600 / _steps(tune_rows, batch), 1, epochs),
        batch=batch,
        dropout=dropout,
        most_dropout=0.1 if task == "regression" and not words else 0.5,
        trees=None if many else {**boosting, "forest": 200, "leaf": leaf, "rows": 500_000},
        words=100_000 if words else None,
        made=0.0 if many else round(min(2.0, MOST_MADE / train), 1),
        embedding=32 if words else 8,
        layers=(1, 2, 3) if words else (2, 3, 4),
        width=(16, 32, 64) if rows < 1000 else (64, 96, 128) if small or words else (128, 192, 256),
        epochs=epochs,
        patience=max(2, epochs // 3),
        distill_epochs=_clip((6 if task == "regression" else 3) * epochs, 6, 240),
        distill_batch=batch,
        distill_embedding=8 if words else 4,
        hidden=(32, 16) if rows < 1000 else (64, 32) if small else (256, 256, 256) if task == "regression" else (128, 64),
        teacher_weight=0.9,
        compress_epochs=_clip(200 / _steps(train, batch), 1, 40),
        calibration_rows=_clip(train, 10, 1000),
        baseline_rows=_clip(30_000_000 / columns, 10_000, 1_000_000),
        max_bytes=50_000_000,
        golden_rows=_clip(rows * test, 1, 16),
    )


def _steps(rows: int, batch: int) -> int:
    return math.ceil(rows / batch)


def _clip(value: float, low: int, high: int) -> int:
    return max(low, min(high, round(value)))


def _power_of_two(value: float, low: int, high: int) -> int:
    return int(max(low, min(high, 2 ** round(math.log2(max(value, 1))))))

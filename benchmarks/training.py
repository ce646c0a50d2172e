"""Rows per second of the compiled loop beside Keras' own `fit`, same network, same rows, in one run."""

import time
from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from tasks.core.models import build, spec_of
from tasks.core.training import Schedule, Training
from tasks.features import load_encoder, load_rows

FEATURES = Path("data/features")
BATCH, REPEATS = 2048, 3


def main() -> None:
    """Needs data/features: `python -m flows.train` makes it."""
    rows, validation = load_rows(FEATURES, "train"), load_rows(FEATURES, "validation").head(BATCH)
    spec = spec_of(load_encoder(FEATURES), bins=16, embedding=8, hidden=(128, 128), dropout=0.2)
    table = Table(
        "loop", "rows/s, median", "ratio to fit", title=f"{build(keras, spec).count_params():,} parameters, batch {BATCH:,}"
    )
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    rates = {}
    for name, jit in (("keras fit", False), ("keras fit, XLA", True)):
        model = build(keras, spec)
        model.compile(keras.optimizers.AdamW(1e-3), loss, jit_compile=jit)
        inputs, target = {name: np.array(array) for name, array in rows.inputs.items()}, np.array(rows.target)[:, None]
        model.fit(inputs, target, batch_size=BATCH, epochs=1, verbose=0)  # compiles
        seconds = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            model.fit(inputs, target, batch_size=BATCH, epochs=1, verbose=0)
            seconds.append(time.perf_counter() - started)
        rates[name] = len(rows) / float(np.median(seconds))
    run = Training(build(keras, spec), "binary", Schedule(REPEATS + 1, BATCH, 1e-3, 1e-3, 1, REPEATS + 1), len(rows))
    epochs = list(run.epochs(rows, validation, lambda done, total: None))
    rates["tasks.core.training"] = float(np.median([epoch.rows_per_second for epoch in epochs[1:]]))
    for name, rate in rates.items():
        table.add_row(name, f"{rate:,.0f}", f"{rate / rates['keras fit']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()

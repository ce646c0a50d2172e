"""How much of a student's quality is luck: the stage distill from several seeds, on the same test rows, in one run.

The interval of the mean is Student's t over the seeds: it says what training again would change; the evaluation's bootstrap
interval says what other test rows would.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from tasks.core.metrics import METRICS, WORDS, measure
from tasks.core.training import predict
from tasks.core.weights import weigh_classes, without_weights
from tasks.distill import epochs_over, learn, student_spec, teach
from tasks.features import load_encoder, load_rows
from tasks.params import Params

FEATURES, TEACHER, DISTILLATION = Path("data/features"), Path("models/teacher"), Path("reports/distillation.json")
CONFIDENCE = 0.95


def main() -> None:
    """Needs a workspace that `python -m flows.train` ran in."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seeds", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each student (5), two at least")
    parser.add_argument("--epochs", type=int, help="of each training, instead of distill.epochs")
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error(f"--seeds {args.seeds}: one training says nothing of luck; expected 2 or more")

    params = Params.load(Path("params.yaml"))
    found_shape = json.loads(DISTILLATION.read_text())
    shape = {"hidden": tuple(found_shape["hidden"]), "bins": found_shape["bins"], "embedding": found_shape["embedding"]}
    distill = params.distill.model_copy(update={**shape, **({"epochs": args.epochs} if args.epochs else {})})
    encoder = load_encoder(FEATURES)
    target = encoder.target
    rows, validation, test = (load_rows(FEATURES, part) for part in ("train", "validation", "test"))
    weights = weigh_classes(params.train.class_weights, target, rows.target)
    taught = {"student": teach(rows, target, TEACHER, distill, weights), "student alone": rows}
    spec = student_spec(encoder, distill)

    table = Table(
        "trained", "metric", "mean", f"{CONFIDENCE:.0%} interval of the mean", "from seed to seed, sd", "lowest", "highest"
    )
    for name, lesson in taught.items():
        found = []
        for seed in range(params.seed, params.seed + args.seeds):
            epochs = epochs_over(lesson, rows, distill)
            model = learn(
                f"{name}, seed {seed}",
                spec,
                target.task,
                seed,
                distill,
                epochs,
                lesson,
                validation,
                weights,
            )
            scores = without_weights(predict(model, target.task, test), weights)
            found.append(measure(target, np.asarray(test.target), scores))
        for metric in METRICS[target.task]:
            values = np.array([one[metric] for one in found])
            spread = float(values.std(ddof=1))
            margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * spread / len(values) ** 0.5
            mean = float(values.mean())
            figures = (mean, f"{mean - margin:.5f} to {mean + margin:.5f}", spread, values.min(), values.max())
            table.add_row(name, WORDS[metric], *(one if isinstance(one, str) else f"{one:.5f}" for one in figures))
    Console().print(table)


if __name__ == "__main__":
    main()

"""Stage distill: a small student learns from the teacher's opinion, and once more from the truth alone, to compare."""

import json
import logging
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from tasks import stage
from tasks.core.metrics import measure
from tasks.core.models import NetworkSpec, build, spec_of
from tasks.core.rows import Rows
from tasks.core.target import Target, Task
from tasks.core.training import Epoch, Schedule, Training, predict
from tasks.core.weights import Weighing, weigh_classes, without_weights
from tasks.features import load_encoder, load_rows
from tasks.fit import fit, trunk_spec
from tasks.networks import load_network, save_network
from tasks.params import Distill

log = logging.getLogger("tasks.distill")


def distill(
    seed: int,
    class_weights: Weighing,
    distill: Distill,
    *,
    features: Path,
    teacher: Path,
    student: Path,
    student_alone: Path,
    distillation: Path,
) -> None:
    """`student` learned from the teacher, `student_alone` is the same network from the same start without it.

    Class weights count in the loss of both; what the teacher learned of them is taken out of its opinion.
    """
    rows, validation = load_rows(features, "train"), load_rows(features, "validation")
    _, taught_by = load_network(keras, teacher)
    encoder = load_encoder(features)
    target, task = encoder.target, encoder.target.task
    weights = weigh_classes(class_weights, target, rows.target)
    opinion = without_weights(predict(taught_by, task, rows), weights)
    taught = teach(rows, target, opinion, distill.teacher_weight)

    seen_by = trunk_spec(distill.images)
    spec = spec_of(encoder, bins=distill.bins, embedding=distill.embedding, hidden=distill.hidden, trunk=seen_by)
    networks = {
        "student": learn("student", spec, task, seed, distill, taught, validation, weights),
        "student alone": learn("student alone", spec, task, seed, distill, rows, validation, weights),
    }
    scores = {name: predict(model, task, validation) for name, model in {"teacher": taught_by, **networks}.items()}
    quality = {name: measure(target, validation.target, score) for name, score in scores.items()}

    for folder, model in zip((student, student_alone), networks.values(), strict=True):
        with stage.replacing(folder) as aside:
            save_network(aside, spec, model.get_weights())
    with stage.replacing(distillation) as aside:
        parameters = {"teacher": taught_by.count_params(), "student": networks["student"].count_params()}
        aside.write_text(json.dumps({"parameters": parameters, "validation": quality}, indent=1))
    for name, found in quality.items():
        log.info("%s: validation %s", name, ", ".join(f"{metric} {value:.5f}" for metric, value in found.items()))


def teach(rows: Rows, target: Target, opinion: NDArray[Any], share: float) -> Rows:
    """The rows with the teacher's opinion as that share of the target; the rest is the truth."""
    truth = np.eye(target.outputs)[np.asarray(rows.target, int)] if target.task == "multiclass" else np.asarray(rows.target)
    return rows.taught((share * opinion + (1 - share) * truth).astype(np.float32))


def learn(
    name: str,
    spec: NetworkSpec,
    task: Task,
    seed: int,
    distill: Distill,
    rows: Rows,
    validation: Rows,
    weights: tuple[float, ...],
) -> keras.Model:
    """A trained network; its best epoch is that of the lowest loss against the truth of the validation part."""
    keras.utils.set_random_seed(seed)
    model = build(keras, spec)
    schedule = Schedule(distill.epochs, distill.batch, distill.learning_rate, distill.weight_decay, seed, distill.epochs, weights)

    def done(epoch: Epoch) -> None:
        log.info("%s, epoch %s of %s: validation loss %.5f", name, epoch.number, distill.epochs, epoch.validation_loss)

    fit(Training(model, task, schedule, len(rows)), rows, validation, name, done)
    return model


if __name__ == "__main__":
    stage.main(distill)

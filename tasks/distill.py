"""Stage distill: a small student learns from the teacher's opinion, and once more from the truth alone, to compare."""

import json
import logging
from pathlib import Path

import keras
import numpy as np

from tasks import stage
from tasks.core.encoder import Encoder
from tasks.core.metrics import measure
from tasks.core.models import NetworkSpec, build, fold_scaling, spec_of
from tasks.core.rows import Rows
from tasks.core.target import Target, Task
from tasks.core.training import Epoch, Schedule, Training, predict
from tasks.core.weights import Weighing, weigh_classes, without_weights
from tasks.features import load_encoder, load_rows
from tasks.fit import fit, trunk_spec
from tasks.networks import save_network
from tasks.params import Distill
from tasks.teacher import load_made, load_opinion

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
    encoder = load_encoder(features)
    target, task = encoder.target, encoder.target.task
    weights = weigh_classes(class_weights, target, rows.target)
    taught = teach(rows, target, teacher, distill.teacher_weight, weights)

    spec = student_spec(encoder, distill)
    lessons = {"student": taught, "student alone": rows}
    networks = {
        name: learn(name, spec, task, seed, distill, epochs_over(lesson, rows, distill), lesson, validation, weights)
        for name, lesson in lessons.items()
    }
    scores = {name: predict(model, task, validation) for name, model in networks.items()}
    scores = {"teacher": load_opinion(teacher, "validation"), **scores}
    quality = {name: measure(target, np.asarray(validation.target), score) for name, score in scores.items()}

    for folder, model in zip((student, student_alone), networks.values(), strict=True):
        with stage.replacing(folder) as aside:
            save_network(aside, *fold_scaling(keras, spec, model.get_weights()))
    with stage.replacing(distillation) as aside:
        sizes = {"parameters": networks["student"].count_params(), "made_rows": len(taught) - len(rows)}
        aside.write_text(json.dumps({**sizes, "validation": quality}, indent=1))
    for name, found in quality.items():
        log.info("%s: validation %s", name, ", ".join(f"{metric} {value:.5f}" for metric, value in found.items()))


def teach(rows: Rows, target: Target, teacher: Path, share: float, weights: tuple[float, ...]) -> Rows:
    """The rows with the teacher's opinion as that share of the target, the rest of it the truth; then the made-up rows."""
    opinion = without_weights(load_opinion(teacher, "train"), weights)
    truth = np.eye(target.outputs)[np.asarray(rows.target, int)] if target.task == "multiclass" else np.asarray(rows.target)
    taught = rows.taught((share * opinion + (1 - share) * truth).astype(np.float32))
    made = load_made(teacher)
    return taught.joined(made.taught(without_weights(made.target, weights))) if len(made) else taught


def student_spec(encoder: Encoder, distill: Distill) -> NetworkSpec:
    """The student's shape while it learns; its scaling layer is folded away afterwards."""
    trunk = trunk_spec(distill.images)
    return spec_of(encoder, bins=distill.bins, embedding=distill.embedding, hidden=distill.hidden, trunk=trunk, scaling=True)


def epochs_over(lesson: Rows, rows: Rows, distill: Distill) -> int:
    """Epochs that take as many steps as distill.epochs over the training rows do, whatever the lesson has besides."""
    return max(1, round(distill.epochs * len(rows) / len(lesson)))


def learn(
    name: str,
    spec: NetworkSpec,
    task: Task,
    seed: int,
    distill: Distill,
    epochs: int,
    rows: Rows,
    validation: Rows,
    weights: tuple[float, ...],
) -> keras.Model:
    """A trained network; its best epoch is that of the lowest loss against the truth of the validation part."""
    keras.utils.set_random_seed(seed)
    model = build(keras, spec)
    schedule = Schedule(epochs, distill.batch, distill.learning_rate, distill.weight_decay, seed, epochs, weights)

    def done(epoch: Epoch) -> None:
        log.info("%s, epoch %s of %s: validation loss %.5f", name, epoch.number, epochs, epoch.validation_loss)

    fit(Training(model, task, schedule, len(rows)), rows, validation, name, done)
    return model


if __name__ == "__main__":
    stage.main(distill)

"""Stage distill: a small student learns from the teacher's opinion, and once more from the truth alone, to compare."""

import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from tasks import stage
from tasks.core.encoder import Encoder
from tasks.core.errors import DivergedError
from tasks.core.metrics import measure
from tasks.core.models import NetworkSpec, build, fold_scaling, spec_of
from tasks.core.rows import Rows
from tasks.core.soften import distance, soften
from tasks.core.target import Target, Task
from tasks.core.training import Epoch, Schedule, Training, predict
from tasks.core.weights import Weighing, weigh_classes, without_weights
from tasks.features import load_encoder, load_rows
from tasks.fit import fit, trunk_spec
from tasks.networks import save_network
from tasks.params import Distill, ShapeSearch
from tasks.shapes import Shape, search_shapes, write_shapes
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
    shapes: Path,
) -> None:
    """`student` learned from the teacher, `student_alone` is the same network from the same start without it.

    Their shape is that of distill.search, where there is one, else distill's own; `shapes` lists those that were tried. Class
    weights count in the loss of both; what the teacher learned of them is taken out of its opinion.
    """
    rows, validation = load_rows(features, "train"), load_rows(features, "validation")
    encoder = load_encoder(features)
    target, task = encoder.target, encoder.target.task
    weights = weigh_classes(class_weights, target, rows.target)
    taught = teach(rows, target, teacher, distill, weights)
    folder = stage.resumable("distill", inputs=[features, teacher], values=[seed, distill, json.dumps(weights)])

    tried: list[Shape] = []
    if distill.search is not None:
        epochs, opinion = epochs_over(taught, rows, distill), load_opinion(teacher, "validation")
        tried = search(distill.search, encoder, distill, epochs, taught, validation, opinion, weights, seed, folder)
        distill = tried[0].distill
    spec = student_spec(encoder, distill)
    hard = distill.model_copy(update={"temperature": 1.0})  # the truth is not softened
    lessons = {"student": (distill, taught), "student alone": (hard, rows)}
    networks = {
        name: learn(name, spec, task, seed, how, epochs_over(lesson, rows, distill), lesson, validation, weights)
        for name, (how, lesson) in lessons.items()
    }
    scores = {name: predict(model, task, validation) for name, model in networks.items()}
    scores = {"teacher": load_opinion(teacher, "validation"), **scores}
    quality = {name: measure(target, np.asarray(validation.target), score) for name, score in scores.items()}

    for folder, model in zip((student, student_alone), networks.values(), strict=True):
        with stage.replacing(folder) as aside:
            save_network(aside, *fold_scaling(keras, spec, model.get_weights()))
    with stage.replacing(distillation) as aside:
        shape = {"hidden": distill.hidden, "bins": distill.bins, "embedding": distill.embedding}
        sizes = {"parameters": networks["student"].count_params(), "made_rows": len(taught) - len(rows)}
        aside.write_text(json.dumps({**shape, **sizes, "validation": quality}, indent=1))
    with stage.replacing(shapes) as aside, aside.open("w", newline="") as file:
        write_shapes(file, tried)
    for name, found in quality.items():
        log.info("%s: validation %s", name, ", ".join(f"{metric} {value:.5f}" for metric, value in found.items()))


def teach(rows: Rows, target: Target, teacher: Path, distill: Distill, weights: tuple[float, ...]) -> Rows:
    """The rows with the teacher's opinion as that share of the target, the rest of it the truth; then the made-up rows.

    The opinion is softened by the temperature, at which the student is trained too.
    """

    def soft(scores: NDArray[Any]) -> NDArray[Any]:
        return soften(target.task, without_weights(scores, weights), distill.temperature)

    opinion, share = soft(load_opinion(teacher, "train")), distill.teacher_weight
    truth = np.eye(target.outputs)[np.asarray(rows.target, int)] if target.task == "multiclass" else np.asarray(rows.target)
    taught = rows.taught((share * opinion + (1 - share) * truth).astype(np.float32))
    made = load_made(teacher)
    return taught.joined(made.taught(soft(made.target))) if len(made) else taught


def search(
    search: ShapeSearch,
    encoder: Encoder,
    distill: Distill,
    epochs: int,
    taught: Rows,
    validation: Rows,
    opinion: NDArray[Any],
    weights: tuple[float, ...],
    seed: int,
    folder: Path,
) -> list[Shape]:
    """The shapes that were tried, the best first; a whole training has so many epochs."""
    task = encoder.target.task
    places = np.sort(np.random.default_rng(seed).permutation(len(taught))[: search.rows])
    lesson = taught.take(places) if len(places) < len(taught) else taught

    def train(name: str, spec: NetworkSpec, epochs: int) -> float:
        keras.backend.clear_session()  # what the last network left in memory
        try:
            model = learn(name, replace(spec, scaling=True), task, seed, distill, epochs, lesson, validation, weights)
        except DivergedError:
            return math.inf
        # The teacher's opinion has less chance in it than the truth.
        return distance(task, opinion, predict(model, task, validation))

    return search_shapes(
        search,
        distill,
        lambda one: replace(student_spec(encoder, one), scaling=False),
        train,
        task=task,
        epochs=epochs,
        sample=validation.head(1),
        folder=folder,
    )


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
    rates = (distill.learning_rate, distill.weight_decay)
    schedule = Schedule(epochs, distill.batch, *rates, seed, epochs, weights, distill.temperature)

    def done(epoch: Epoch) -> None:
        log.info("%s, epoch %s of %s: validation loss %.5f", name, epoch.number, epochs, epoch.validation_loss)

    fit(Training(model, task, schedule, len(rows)), rows, validation, name, done)
    return model


if __name__ == "__main__":
    stage.main(distill)

"""The teacher's trees: what they see, and what they say of rows that they learned from."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.core.encoder import Sizes
from tasks.core.rows import Rows
from tasks.core.target import Target, Task
from tasks.core.trees import Trees, grow_boosting, grow_forest, tree_columns

HOW = Trees(boosting=200, learning_rate=0.1, forest=60, leaf=1, rows=1000)
TARGETS: dict[Task, Target] = {
    "binary": Target("binary", "y", (0, 1)),
    "multiclass": Target("multiclass", "y", ("a", "b", "c")),
    "regression": Target("regression", "y"),
}


def table(task: Task, rows: int, seed: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    random = np.random.default_rng(seed)
    columns = random.normal(size=(rows, 3)).astype(np.float32)
    score = columns[:, 0] + columns[:, 1] * columns[:, 2] + random.normal(size=rows)
    truth = {"binary": score > 0, "multiclass": np.digitize(score, [-1, 1]), "regression": score}[task]
    return columns, truth.astype(np.float32), np.ones(rows)


def error(task: Task, scores: NDArray[Any], truth: NDArray[Any]) -> float:
    """Squared, of probabilities too."""
    wanted = np.eye(3)[truth.astype(int)] if task == "multiclass" else truth
    return float(np.mean((scores - wanted) ** 2))


@pytest.mark.parametrize("task", TARGETS)
def test_trees_say_more_than_the_mean_on_new_rows(task: Task) -> None:
    learned, (asked, truth, _) = table(task, 1500, 0), table(task, 1000, 1)
    shares = np.eye(3)[learned[1].astype(int)].mean(axis=0) if task == "multiclass" else learned[1].mean()
    constant = error(task, np.broadcast_to(shares, (1000, 3) if task == "multiclass" else (1000,)), truth)
    for grown in (grow_boosting(TARGETS[task], HOW, learned, (asked, truth), 1), grow_forest(TARGETS[task], HOW, learned, 1)):
        assert error(task, grown.score(asked), truth) < 0.9 * constant


@pytest.mark.parametrize("task", TARGETS)
def test_forest_tells_of_learned_rows_what_it_knew_without_them(task: Task) -> None:
    learned, (asked, truth, _) = table(task, 1500, 0), table(task, 1000, 1)
    grown = grow_forest(TARGETS[task], HOW, learned, 1)
    assert grown.held_out is not None
    honest, new = error(task, grown.held_out, learned[1]), error(task, grown.score(asked), truth)
    assert error(task, grown.score(learned[0]), learned[1]) < 0.5 * new  # of rows that it has learned by heart
    assert honest == pytest.approx(new, rel=0.2)


def test_class_that_the_drawn_rows_lack_has_no_chance() -> None:
    columns, truth, weights = table("multiclass", 600, 0)
    some = truth > 0
    grown = grow_forest(TARGETS["multiclass"], HOW, (columns[some], truth[some], weights[some]), 1)
    scores = grown.score(columns)
    assert scores.shape == (600, 3)
    assert not scores[:, 0].any()
    np.testing.assert_allclose(scores.sum(axis=1), 1)


def test_trees_see_each_number_once_and_no_words_of_texts() -> None:
    num = np.arange(12, dtype=np.float32).reshape(3, 4)
    rows = Rows({"num": num, "cat": np.arange(9, dtype=np.int32).reshape(3, 3)}, np.zeros(3, np.float32))
    sizes = Sizes(numbers=2, flags=2, categories=(9,), texts=((2, 9),), magnitudes=2)
    np.testing.assert_array_equal(tree_columns(rows, sizes), [[0, 1, 0], [4, 5, 3], [8, 9, 6]])

"""The search for the student's shape: what fits is trained, the worse ones no longer, and a killed search goes on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.core.errors import ParamsError
from tasks.core.models import NetworkSpec
from tasks.core.rows import Rows
from tasks.params import Distill, Params, with_values
from tasks.shapes import Shape, search_shapes, write_shapes
from tests.conftest import ROOT

ROW = Rows({"num": np.zeros((1, 3), np.float32), "cat": np.zeros((1, 1), np.int32)}, np.zeros(1, np.float32))
SIZES = {"hidden": "[[8], [64, 64], [512, 512]]", "bins": "[4]", "embedding": "[2, 4]"}


def distill(**changed: str) -> Distill:
    """The repository's section, with a small shape of its own and a small search."""
    search = {**SIZES, "max_bytes": "100000", "max_microseconds": "5000", "keep": "2", "rows": "1000", **changed}
    settings = ["distill.hidden=[8]", "distill.bins=4", "distill.embedding=2"]
    settings.append("distill.search={" + ", ".join(f"{name}: {value}" for name, value in search.items()) + "}")
    return Params.parse(with_values((ROOT / "params.yaml").read_text(), settings), "params.yaml").distill


def spec_of(one: Distill) -> NetworkSpec:
    return NetworkSpec(3, 0, (40,), (), bins=one.bins, embedding=one.embedding, hidden=one.hidden)


class Trainer:
    """Losses that wider networks have lower; it can be made to die at a training."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.asked: list[tuple[tuple[int, ...], int, int]] = []
        self.dies_at = dies_at

    def __call__(self, name: str, spec: NetworkSpec, epochs: int) -> float:
        if len(self.asked) == self.dies_at:
            raise KeyboardInterrupt
        self.asked.append((spec.hidden, spec.embedding, epochs))
        return 1 / (sum(spec.hidden) + spec.embedding)


def search(one: Distill, train: Trainer, folder: Path) -> list[Shape]:
    assert one.search
    return search_shapes(one.search, one, spec_of, train, task="binary", epochs=8, sample=ROW, folder=folder)


def test_best_shape_within_the_budget_is_chosen_and_larger_ones_are_never_trained(tmp_path: Path) -> None:
    train = Trainer()
    found = search(distill(), train, tmp_path)
    assert (found[0].distill.hidden, found[0].distill.embedding) == ((64, 64), 4)
    assert train.asked == [
        *[((8,), 2, 2), ((8,), 4, 2), ((64, 64), 2, 2), ((64, 64), 4, 2)],  # a quarter of the epochs
        *[((64, 64), 2, 4), ((64, 64), 4, 4)],
    ]
    over = [shape for shape in found if not shape.losses]
    assert {shape.distill.hidden for shape in over} == {(512, 512)}
    assert all(shape.size.bytes > 100_000 for shape in over)
    assert [shape.size.bytes > 100_000 for shape in found] == [bool(not shape.losses) for shape in found]
    with (tmp_path / "shapes.csv").open("w", newline="") as file:
        write_shapes(file, found)
    lines = (tmp_path / "shapes.csv").read_text().splitlines()
    assert lines[1].startswith("64-64,4,4,")
    assert len(lines) == 1 + 6
    assert [line.split(",")[6] for line in lines[1:]] == ["2", "2", "1", "1", "0", "0"]


def test_killed_search_goes_on_and_comes_to_the_same(tmp_path: Path) -> None:
    whole, first, second = Trainer(), Trainer(dies_at=3), Trainer()
    undisturbed = search(distill(), whole, tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        search(distill(), first, tmp_path / "killed")
    found = search(distill(), second, tmp_path / "killed")
    assert first.asked + second.asked == whole.asked
    assert [(one.distill, one.losses) for one in found] == [(one.distill, one.losses) for one in undisturbed]


@pytest.mark.parametrize("budget", [{"max_bytes": "1000"}, {"max_microseconds": "0.01"}])
def test_budget_that_nothing_fits_is_refused_with_the_smallest(budget: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"no shape is within .* smallest, hidden 8, 4 bins, embedding 2, takes") as refused:
        search(distill(hidden="[[8]]", embedding="[2]", **budget), Trainer(), tmp_path)
    assert "raise the budget" in str(refused.value)


def test_shapes_that_come_to_the_same_network_are_tried_once(tmp_path: Path) -> None:
    one = distill(hidden="[[8]]", embedding="[2, 2]")
    assert one.search
    train = Trainer()
    found = search_shapes(
        one.search, one, lambda each: replace(spec_of(each), bins=4), train, task="binary", epochs=8, sample=ROW, folder=tmp_path
    )
    assert len(found) == 1
    assert train.asked == []  # there is nothing to choose

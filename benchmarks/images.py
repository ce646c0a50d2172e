"""Fashion-MNIST from image files to a released model: a workspace, one run, and each candidate on the 10,000 test images.

`python -m benchmarks.images` prints a line for each candidate and baseline, and how long its network was trained.
"""

import argparse
import gzip
import io
import json
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

DATA = Path("/usr/share/datasets/fashion-mnist")  # of the Debian package dataset-fashion-mnist
LABELS = ("top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
DAYS = 30  # that the training images are spread over


def main() -> None:
    """Needs the Debian package dataset-fashion-mnist."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.images", description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the workspace is made and stays (a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        workspace = (args.folder or Path(temporary)) / "fashion"
        make_workspace(workspace)
        done = subprocess.run([sys.executable, "-m", "flows.train", "--workspace", str(workspace)], check=False)
        if done.returncode:
            sys.exit(done.returncode)
        tell(workspace)


def make_workspace(workspace: Path) -> None:
    """A folder that `flows.train` runs in: the images as PNG in one Parquet file, and the parameters beside this file."""
    root = Path(__file__).parent
    (workspace / "data").mkdir(parents=True)
    shutil.copy(root / "fashion.yaml", workspace / "params.yaml")
    shutil.copy(root.parent / "dvc.yaml", workspace)
    shutil.copytree(root.parent / "tasks", workspace / "tasks")  # so that nobody's edit counts as a change of the code under way
    (workspace / ".gitignore").write_text("/tasks\n/.cache/\n/models/\n/reports/\n/logs/\n/releases/\n*.parquet\n")
    write_images(workspace / "fashion.parquet")
    subprocess.run(["git", "init", "-q"], cwd=workspace, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=workspace, check=True)


def write_images(path: Path) -> None:
    """All 70,000 images: day, label, image; the training images on the first days of 2017, the test images after them."""
    start = datetime(2017, 1, 1)
    columns: dict[str, list[object]] = {"day": [], "label": [], "image": []}
    for part in ("train", "t10k"):
        pixels, labels = read_part(part)
        for i, (one, label) in enumerate(zip(pixels, labels, strict=True)):
            file = io.BytesIO()
            Image.fromarray(one).save(file, "PNG")
            columns["day"].append(start + timedelta(days=i % DAYS, seconds=i // DAYS) if part == "train" else datetime(2017, 2, 1))
            columns["label"].append(LABELS[label])
            columns["image"].append(file.getvalue())
    pq.write_table(pa.table(columns), path)


def read_part(part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The pixels [row, 28, 28] and labels [row] of train or t10k."""
    with gzip.open(DATA / f"{part}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(DATA / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return pixels, labels


def tell(workspace: Path) -> None:
    """Print what the run's reports say."""
    report = json.loads((workspace / "reports/evaluation.json").read_text())
    latency = json.loads((workspace / "reports/latency.json").read_text())
    cost = json.loads((workspace / "reports/cost.json").read_text())["stages"]
    table = Table("model", "accuracy", "95% interval", "log loss", "bytes", "us a row", box=None, header_style="dim")
    for name, found in {**report["candidates"], **report["baselines"]}.items():
        accuracy = found["accuracy"]
        size, time = (
            f"{found['bytes']:,}" if "bytes" in found else "",
            f"{latency[name]['one_row_us']:.0f}" if name in latency else "",
        )
        interval = f"{accuracy['low']:.4f} to {accuracy['high']:.4f}"
        table.add_row(name, f"{accuracy['value']:.4f}", interval, f"{found['log_loss']['value']:.4f}", size, time)
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table)
    for name in ("tune", "train", "distill"):
        console.print(f"{name}: {cost[name]['wall_s']:.0f} s, {cost[name]['cpu_s']:.0f} s of processor time")


if __name__ == "__main__":
    main()

"""Rows per second and memory of the stage validate on this workspace's table, repeated with jitter: 1 and 5 million rows.

`python -m benchmarks.validation [--rows N ...] [--seed N]`; 30 million rows need 2 GB of disk. Needs data/raw.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from tasks.child import child_environment
from tasks.params import Params
from tasks.shards import read_shards, write_parquet

HERE = Path()
FLAGS = {
    "raw": "data/raw",
    "sets": "data/sets",
    "snapshot": "reports/snapshot.json",
    "schema": "data/schema.pbtxt",
    "released": "data/released.pb",
}
MADE = {"valid": "valid", "quarantine": "quarantine", "reference": "reference.pb", "data-report": "data.html"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.validation", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 5_000_000])
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    table = Table("rows", "seconds", "rows/s", "peak MB: resident", "proportional", "TFDV's share of the work")
    for rows in args.rows:
        with tempfile.TemporaryDirectory(prefix="validation-") as folder:
            table.add_row(*measure(Path(folder), rows, np.random.default_rng(args.seed)))
    Console().print(table)


def measure(folder: Path, rows: int, draw: np.random.Generator) -> list[str]:
    """One line of the table: the stage run once in a workspace of that many rows."""
    make_workspace(folder, rows, draw)
    flags = [word for name, path in {**FLAGS, **MADE, "summary": "summary.json"}.items() for word in (f"--{name}", path)]
    started = time.monotonic()
    environment = {**child_environment(), "PYTHONPATH": str(HERE.resolve())}
    said = folder / "said.txt"
    with said.open("w") as out:
        child = subprocess.Popen([sys.executable, "-m", "tasks.validate", *flags], cwd=folder, env=environment, stdout=out)
    resident = proportional = 0
    while child.poll() is None:
        found = [memory(process) for process in family(child.pid)]
        resident, proportional = max(resident, sum(rss for rss, _ in found)), max(proportional, sum(pss for _, pss in found))
        time.sleep(0.5)
    seconds = time.monotonic() - started
    if child.returncode:
        sys.exit(f"the stage ended with {child.returncode}")
    work, tfdv = map(float, re.findall(r"([\d.]+) s of (?:work|it)", said.read_text())[-2:])
    share = tfdv / work
    return [f"{rows:,}", f"{seconds:.1f}", f"{rows / seconds:,.0f}", f"{resident:,.0f}", f"{proportional:,.0f}", f"{share:.0%}"]


def make_workspace(folder: Path, rows: int, draw: np.random.Generator) -> None:
    """The table again and again, each time with another hundredth of jitter on the numbers that are no whole ones."""
    for path in ("params.yaml", FLAGS["schema"], FLAGS["snapshot"]):
        (folder / path).parent.mkdir(exist_ok=True)
        shutil.copy(HERE / path, folder / path)
    (folder / FLAGS["released"]).touch()
    for path in (FLAGS["raw"], FLAGS["sets"]):
        (folder / path).mkdir()
    once = list(read_shards(HERE / FLAGS["raw"]))
    written = place = 0
    while written < rows:
        shard = jittered(once[place % len(once)].slice(0, rows - written), draw)
        write_parquet(shard, folder / FLAGS["raw"] / f"{place:05d}.parquet")
        written, place = written + len(shard), place + 1


def jittered(shard: pa.Table, draw: np.random.Generator) -> pa.Table:
    bounds = {rule.column for rule in Params.load(HERE / "params.yaml").validate_.rules}
    for place, field in enumerate(shard.schema):
        if pa.types.is_floating(field.type) and field.name not in bounds:
            noise = pa.array(draw.normal(1, 0.01, len(shard)))
            shard = shard.set_column(place, field.name, pa.compute.multiply(shard.column(place), noise))
    return shard


def family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def memory(process: psutil.Process) -> tuple[float, float]:
    """MB that the process has in memory, and those with what it shares divided among those who share it."""
    try:
        full = process.memory_full_info()
    except psutil.Error:
        return 0.0, 0.0
    return full.rss / 1e6, getattr(full, "pss", full.uss) / 1e6


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()

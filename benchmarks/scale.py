"""Ingest, validate and preprocess on tables larger than memory likes: time, rows a second and peak memory, by size.

The flights of 2013, replicated with jitter in their delays and distances: `python -m benchmarks.scale [MILLIONS ...]`. Beside
ingest stands a bare DuckDB COPY of the same query, without order, privacy or hashes, in the same run.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import duckdb
import psutil
from ruamel.yaml import YAML

from tasks.child import child_environment
from tasks.params import Params, with_values
from tasks.shards import count_rows

ROOT = Path(__file__).parent.parent
STAGES = ("ingest", "validate", "preprocess")
FLIGHTS = 336_776
COPY = """
import json, sys, duckdb
from tasks import engine
parts, query, out = json.loads(sys.stdin.read())
with engine.connect() as db:
    for name, paths in parts.items():
        db.read_parquet(paths).create_view(name)
    db.execute(f"COPY ({query}) TO '{out}' (FORMAT parquet)")
"""


@dataclass(frozen=True)
class Cost:
    """What a command took: seconds of wall clock, and the largest sum of its processes' proportional memory, in MB."""

    seconds: float
    peak_mb: float


def main() -> None:
    sizes = [float(size) for size in sys.argv[1:]] or [1, 10, 30]
    print(f"{'rows':>12} {'step':<12} {'seconds':>8} {'rows/s':>10} {'peak MB':>8}  of DuckDB's COPY", flush=True)
    for millions in sizes:
        with tempfile.TemporaryDirectory(dir=ROOT / ".cache") as folder:
            measure(Path(folder), max(round(millions * 1e6 / FLIGHTS), 1))


def measure(workspace: Path, copies: int) -> None:
    """Print a line for each stage on so many copies of the flights."""
    make_workspace(workspace, copies)
    stages = YAML(typ="safe").load((workspace / "dvc.yaml").read_text())["stages"]
    costs = {stage: timed(stages[stage]["cmd"].split()[1:], workspace) for stage in STAGES}
    rows = sum(count_rows(path) for path in (workspace / "data/raw").glob("*.parquet"))
    bare = copy(workspace)
    for name, cost in {**costs, "bare COPY": bare}.items():
        share = f"{bare.seconds / cost.seconds:.2f}" if name == "ingest" else ""
        print(
            f"{rows:>12,} {name:<12} {cost.seconds:>8.1f} {rows / cost.seconds:>10,.0f} {cost.peak_mb:>8,.0f}  {share}", flush=True
        )


def make_workspace(workspace: Path, copies: int) -> None:
    """The flagship's workspace on a Parquet file of so many copies of its flights."""
    for name in ("params.yaml", "dvc.yaml", "sources.lock", "data/schema.pbtxt", "data/released.pb"):
        (workspace / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, workspace / name)
    (workspace / "tasks").symlink_to(ROOT / "tasks")
    timed(["-m", "tasks.look", "--marks", "marks.json"], workspace)
    (workspace / "sources.lock").write_text((workspace / "marks.json").read_text())
    stages = YAML(typ="safe").load((workspace / "dvc.yaml").read_text())["stages"]
    timed(stages["ingest"]["cmd"].split()[1:], workspace)
    landed = next((workspace / ".cache/ingest/flights").glob("*/00000.parquet"))
    with duckdb.connect() as db:
        db.execute(
            f"""COPY (SELECT f.* REPLACE (arr_delay + hash(arr_delay, i, flight) % 21 - 10 AS arr_delay,
                                         distance + hash(i, flight, day) % 9 AS distance)
                FROM '{landed}' f, range({copies}) r(i)) TO '{workspace}/flights.parquet' (FORMAT parquet)"""
        )
    text = with_values((workspace / "params.yaml").read_text(), ["sources.flights={kind: file, file: flights.parquet}"])
    (workspace / "params.yaml").write_text(text)
    timed(["-m", "tasks.look", "--marks", "marks.json"], workspace)
    (workspace / "sources.lock").write_text((workspace / "marks.json").read_text())
    shutil.rmtree(workspace / ".cache/ingest")


def copy(workspace: Path) -> Cost:
    """What DuckDB alone takes for the query, from the sources as they landed."""
    params = Params.load(workspace / "params.yaml")
    landed = {name: [str(path) for path in (workspace / ".cache/ingest" / name).glob("*/*.parquet")] for name in params.sources}
    asked = json.dumps([landed, params.table.query, str(workspace / "copy.parquet")])
    return timed(["-c", COPY], workspace, asked)


def timed(arguments: list[str], workspace: Path, said: str = "") -> Cost:
    """Run Python with the arguments in the workspace, watching the memory of it and its children."""
    started, peak = time.perf_counter(), 0.0
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=workspace,
        env=child_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(said)
        process.stdin.close()
        while process.poll() is None:
            peak = max(peak, memory(process.pid))
            time.sleep(0.1)
        assert process.stderr is not None
        if process.returncode:
            sys.exit(process.stderr.read())
    return Cost(time.perf_counter() - started, peak / 1e6)


def memory(pid: int) -> float:
    """Proportional set size of the process and all below it: shared pages count once."""
    total = 0.0
    try:
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            total += one.memory_full_info().pss
    except psutil.Error:
        return total
    return total


if __name__ == "__main__":
    main()

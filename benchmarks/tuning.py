"""Trials a minute of one process on one core beside two on two cores, and with all the cores that one process may have."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tasks.params import with_values
from tasks.tune import read_journal

ROOT = Path(__file__).parent.parent
FEATURES = Path("data/features")
TRIALS = 8
SETTINGS = [f"tune.budget.trials={TRIALS}", "tune.oracle=random", "tune.stop_after=null", "tune.ahead=3"]


def main() -> None:
    """Needs data/features: `python -m flows.train` makes it. Each search is the same one: only processes and cores differ."""
    cores = sorted(os.sched_getaffinity(0))
    table = Table("processes", "cores", "minutes", "trials a minute", "ratio", title=f"{TRIALS} trials, the same in each row")
    rates: list[float] = []
    for processes, count in ((1, 1), (1, 2), (2, 2)):
        minutes = search(processes, set(cores[:count]))
        rates.append(TRIALS / minutes)
        table.add_row(str(processes), str(count), f"{minutes:.2f}", f"{rates[-1]:.1f}", f"{rates[-1] / rates[0]:.2f}")
    Console().print(table)
    Console().print(f"load of the machine over the last 15 minutes: {os.getloadavg()[2]:.1f} on {len(cores)} cores")


def search(processes: int, cores: set[int]) -> float:
    """Minutes that the search took, from when it could ask for the first trial; all its processes may use these cores alone."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder)
        settings = [*SETTINGS, f"tune.parallel={processes}"]
        (workspace / "params.yaml").write_text(with_values(Path("params.yaml").read_text(), settings))
        (workspace / "tasks").symlink_to(ROOT / "tasks")
        outs = ["--hparams", "hparams.json", "--trials", "trials.csv", "--tuning-report", "tuning.html"]
        all_cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)  # which a child inherits
        try:
            command = [sys.executable, "-m", "tasks.tune", "--features", str(FEATURES.resolve()), *outs]
            subprocess.run(command, cwd=workspace, check=True, stdout=subprocess.DEVNULL)
        finally:
            os.sched_setaffinity(0, all_cores)
        journal = next(workspace.glob(".cache/tune/*/trials.jsonl"))
        return max(trial.ended for trial in read_journal(journal).values()) / 60


if __name__ == "__main__":
    main()

"""The year 2013 week by week: a model of January to March serves the flights that follow, and their truth comes a week later.

`python -m benchmarks.year` trains once and serves three copies of the model by the real service, which sees flights hour by hour
at the hours at which they were due. One copy stays as it is, one is trained anew as each month ends, and one when `flows.monitor`,
which judges each week as it ends and again when its truths have come, says that lateness is not what the model says: six weeks
after the last promotion at the earliest, and two after a challenger that was dropped, since each must win on the newest week with
truth. Prints a line a week and the table, and draws the figure.
"""

import argparse
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.dates import DateFormatter
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.quality import Case, make_workspace
from tasks.core.charts import BLUE, GREY, ORANGE, plt
from tasks.core.metrics import measure
from tasks.core.target import Target
from tasks.params import Params, with_values
from tasks.shards import read_parquet, shard_paths

FIRST = datetime(2013, 4, 4, tzinfo=UTC)  # a Thursday, with which the monitor's weeks begin: 1 January 1970 was one
WEEK, WEEKS = timedelta(days=7), 38
PROMOTED, TRIED = 6 * WEEK, 2 * WEEK  # that pass at least from the last promotion, and from the last try, to the next
POLICIES = ("never", "monthly", "rule")
FLIGHTS = Case("flights", None, "late", (2013,))
CHANGES = (
    "table.query=SELECT * FROM flights",
    "preprocess.split={by: time, test_last_days: 7, validation_every_days: 10}",
    "monitor.hours=168",
    "monitor.truth_hours=168",
    # Weather, schedules and the loss differ from those of the test part in every week; of use is that the answers say what comes.
    "monitor.raises=[calibration]",
    "evaluate.gate.at_least={}",  # those of the flagship are of its own test part
    "evaluate.gate.at_most={}",
    "evaluate.gate.near_teacher={}",  # of a week is chance
    "evaluate.gate.beats=[]",  # so is being ahead of a baseline by a hair; the champion is who is to be beaten
    # Trained a dozen times, and so more lightly than the flagship.
    "tune.budget.trials=1",
    "tune.rows=30000",
    "train.trees={boosting: 300, learning_rate: 0.05, forest: 100, leaf: 20, rows: 500000}",
    "distill.hidden=[128, 64]",
    "distill.search=null",
    "compress.candidates=[student, student int8 weights]",
    "retrain.cooldown_hours=0",  # which are of the present, and of PROMOTED and TRIED in this program's past
    "retrain.most_a_day=1000",
    "retrain.window_days=7",
    "retrain.then=promote",
)
BINS = 20  # of the calibration error
DROPPED, DRIFT = 4, 6  # exit codes
PATIENCE = 60.0  # seconds


@dataclass
class Course:
    """What became of one copy."""

    name: str
    workspace: Path
    trained: list[datetime] = field(default_factory=list)  # anew, and promoted
    tried: list[datetime] = field(default_factory=list)
    scores: list[NDArray[np.float64]] = field(default_factory=list)  # by week
    versions: list[str] = field(default_factory=list)

    def figures(self, truths: list[NDArray[np.float64]]) -> list[dict[str, float]]:
        """AUC, log loss and calibration error of each week."""
        target = Target("binary", "late", (0, 1))
        return [
            {**measure(target, truth, scores), "gap": calibration_error(truth, scores)}
            for truth, scores in zip(truths, self.scores, strict=True)
        ]


def main() -> None:
    """Needs what the development environment has, and about two hours on two cores."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.year", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".cache/year"), help="where all of it is made and stays (.cache/year)")
    parser.add_argument("--weeks", type=int, default=WEEKS, help=f"from 4 April on ({WEEKS})")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="in the params.yaml of all copies")
    parser.add_argument("--figure", type=Path, help="where the figure goes (year.png in the folder)")
    args = parser.parse_args()
    folder = args.folder.absolute()
    folder.mkdir(parents=True)
    table = read_year(folder)
    courses = make_copies(table, folder, args.set)
    truths: list[NDArray[np.float64]] = []
    before: tuple[pd.DataFrame, list[str]] | None = None  # the week whose truth is still to come, and its ids
    with serving(courses, folder) as service:
        for week in range(args.weeks):
            begin = FIRST + week * WEEK
            rows = of_week(table, begin)
            truths.append(rows["late"].to_numpy(np.float64))
            ids = service.serve(rows, courses)
            if before:
                service.tell(*before, courses)
            before = rows, ids
            service.pass_to(begin + WEEK + timedelta(minutes=20))
            learn_on(table, begin + WEEK, courses)  # of whose last week the truth is not there yet
            act(courses, begin + WEEK)
            service.refresh(courses)
            show_week(begin, courses, truths)
            draw(courses, truths, args.figure or folder / "year.png")
    report(courses, truths)


def read_year(folder: Path) -> pd.DataFrame:
    """The flagship's table of the whole year, by time."""
    workspace = make_workspace(FLIGHTS, FLIGHTS.seeds[0], folder)
    shutil.copy(Path(__file__).parent.parent / "sources.lock", workspace)
    run([sys.executable, "-m", "dvc", "repro", "-q", "ingest"], workspace)
    shards = [read_parquet(path) for path in shard_paths(workspace / "data/raw")]
    return pa.concat_tables(shards).to_pandas().sort_values("time", kind="stable").reset_index(drop=True)


def make_copies(table: pd.DataFrame, folder: Path, settings: list[str]) -> list[Course]:
    """A workspace for each policy, all with the model of January to March in production."""
    courses = [Course(name, folder / name) for name in POLICIES]
    first = courses[0].workspace
    make_workspace(FLIGHTS, FLIGHTS.seeds[0], folder / "first")
    (folder / "first/flights_2013").rename(first)
    (first / "data/released.pb").unlink()  # of the whole year
    params = first / "params.yaml"
    log = folder / "predictions"
    text = with_values(params.read_text(), [f"name={POLICIES[0]}", *CHANGES, f"monitor.log={log}", *settings])
    params.write_text(with_sources(text, "flights: {kind: file, file: flights.parquet}"))
    learn_on(table, FIRST, courses[:1])
    run([sys.executable, "-m", "flows.train"], first)
    for course in courses[1:]:
        shutil.copytree(first, course.workspace, symlinks=True)
        shutil.rmtree(course.workspace / "releases")
        run([sys.executable, "-m", "flows.train", "--set", f"name={course.name}"], course.workspace)
    return courses


def with_sources(text: str, sources: str) -> str:
    """params.yaml with these in the place of its sources."""
    lines = text.splitlines(keepends=True)
    begin = lines.index("sources:\n")
    end = next(i for i in range(begin + 1, len(lines)) if not lines[i].startswith("  "))
    return "".join([*lines[: begin + 1], f"  {sources}\n", *lines[end:]])


def learn_on(table: pd.DataFrame, now: datetime, courses: list[Course]) -> None:
    """The copies' source holds the flights whose truth is known now: a week after they were due."""
    known = pa.Table.from_pandas(table[table["time"] < pd.Timestamp(now - WEEK).tz_localize(None)], preserve_index=False)
    for course in courses:
        aside = course.workspace / "flights.partial"
        pq.write_table(known, aside)
        aside.replace(course.workspace / "flights.parquet")


def of_week(table: pd.DataFrame, begin: datetime) -> pd.DataFrame:
    start, end = (pd.Timestamp(when).tz_localize(None) for when in (begin, begin + WEEK))
    return table[(table["time"] >= start) & (table["time"] < end)].reset_index(drop=True)


def is_month_over(now: datetime) -> bool:
    """Whether a month ended in the week before."""
    return (now - WEEK).month != now.month


def act(courses: list[Course], now: datetime) -> None:
    """Each copy is trained anew, if its policy says so at this time."""
    _, monthly, rule = courses
    if is_month_over(now):
        done = run([sys.executable, "-m", "flows.train"], monthly.workspace, fine=(0, DROPPED))
        monthly.trained += [now] if done.returncode == 0 else []
    at = now + timedelta(minutes=30)
    said = run([sys.executable, "-m", "flows.monitor", "--now", at.isoformat(), "--exit-code"], rule.workspace, fine=(0, DRIFT, 7))
    rests = any(past and now - past[-1] < pause for past, pause in ((rule.trained, PROMOTED), (rule.tried, TRIED)))
    if said.returncode == DRIFT and not rests:
        rule.tried.append(now)
        words = ["--why", f"drift at {now:%d %B}", "--json"]
        done = run([sys.executable, "-m", "flows.retrain", *words], rule.workspace, fine=(0, DROPPED))
        found = json.loads(done.stdout)["retraining"]
        rule.trained += [now] if found["outcome"] == "promoted" else []
        print(f"{found['outcome']}: {found['reason']}", flush=True)


def run(command: list[str], workspace: Path, fine: tuple[int, ...] = (0,)) -> "subprocess.CompletedProcess[str]":
    """The command in the workspace; ends the program when it does not end as it should."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # by which DVC finds a stage's python
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, env={**os.environ, "PATH": path})
    if done.returncode not in fine:
        sys.exit(f"{' '.join(command)} in {workspace}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done


class Service:
    """The service of all copies, at a time of the past."""

    def __init__(self, port: int, clock: Path) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.clock = clock
        self.features: dict[str, list[str]] = {}

    def pass_to(self, when: datetime) -> None:
        """It is that time, and what was logged before stands in files."""
        aside = self.clock.with_suffix(".partial")
        aside.write_text(str(when.timestamp()))
        aside.replace(self.clock)
        time.sleep(0.4)  # the log's thread looks ten times a second

    def ask(self, method: str, path: str, document: Any = None, name: str = "") -> Any:
        body = None if document is None else json.dumps(document).encode()
        deadline = time.monotonic() + PATIENCE
        while True:
            self.connection.request(method, path, body, {"x-request-id": name} if name else {})
            answer = self.connection.getresponse()
            content = answer.read()
            if answer.status == 200:
                return json.loads(content)
            if answer.status != 503 or time.monotonic() > deadline:  # which it is until the log has written what came before
                sys.exit(f"{method} {path}: {answer.status} {content[:500].decode(errors='replace')}")
            time.sleep(1)

    def serve(self, rows: pd.DataFrame, courses: list[Course]) -> list[str]:
        """Every copy has answered the rows, hour by hour; returns their ids."""
        ids: list[str] = []
        found: dict[str, list[float]] = {course.name: [] for course in courses}
        for hour, some in rows.groupby(rows["time"].dt.floor("h"), sort=True):
            aside = self.clock.with_suffix(".partial")
            aside.write_text(str(hour.tz_localize("UTC").timestamp()))
            aside.replace(self.clock)
            name = f"{hour:%m%dT%H}"
            ids += [name] if len(some) == 1 else [f"{name}-{i}" for i in range(len(some))]
            for course in courses:
                instances = self._instances(course, some)
                answer = self.ask("POST", f"/v1/models/{course.name}:predict", {"instances": instances}, name)
                found[course.name] += answer["predictions"]
        for course in courses:
            course.scores.append(np.array(found[course.name]))
            course.versions.append(self.ask("GET", f"/v1/models/{course.name}")["model_version_status"][0]["version"])
        return ids

    def _instances(self, course: Course, rows: pd.DataFrame) -> list[dict[str, Any]]:
        """The rows as a client sends them: what is missing is left out."""
        if course.name not in self.features:
            table = Params.load(course.workspace / "params.yaml").table
            self.features[course.name] = [*table.numbers, *table.categories]
        lines = rows[self.features[course.name]].to_dict("records")
        return [{name: value for name, value in line.items() if not pd.isna(value)} for line in lines]

    def tell(self, rows: pd.DataFrame, ids: list[str], courses: list[Course]) -> None:
        """Every copy knows what came of the rows."""
        truths = [{"id": name, "truth": int(truth)} for name, truth in zip(ids, rows["late"], strict=True)]
        for course in courses:
            for i in range(0, len(truths), 5000):
                self.ask("POST", f"/v1/models/{course.name}:feedback", {"feedback": truths[i : i + 5000]})

    def refresh(self, courses: list[Course]) -> None:
        """What is in production answers."""
        self.connection.close()  # which the service did while the models learned; the next request opens another
        for course in courses:
            self.ask("POST", f"/v1/models/{course.name}:refresh")


@contextmanager
def serving(courses: list[Course], folder: Path) -> Iterator[Service]:
    """The service of all copies, with a prediction log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    clock = folder / "clock"
    clock.write_text(str(FIRST.timestamp()))
    command = [sys.executable, "-m", "benchmarks.past", str(clock), "--port", str(port), "--log", str(folder / "predictions")]
    for course in courses:
        command += ["--workspace", str(course.workspace)]
    with (folder / "service.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "TZ": "UTC"})
    try:
        deadline = time.monotonic() + 30
        while socket.socket().connect_ex(("127.0.0.1", port)):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit((folder / "service.log").read_text())
            time.sleep(0.1)
        yield Service(port, clock)
    finally:
        process.terminate()
        process.wait(60)


def calibration_error(truth: NDArray[np.float64], scores: NDArray[np.float64]) -> float:
    """Mean distance of what was said from what came, over bins of equal numbers of rows (Naeini et al. 2015)."""
    parts = np.array_split(np.argsort(scores, kind="stable"), BINS)
    return float(sum(len(part) * abs(scores[part].mean() - truth[part].mean()) for part in parts) / len(scores))


def show_week(begin: datetime, courses: list[Course], truths: list[NDArray[np.float64]]) -> None:
    said = [f"{course.name} {course.figures(truths)[-1]['log_loss']:.4f} ({course.versions[-1]})" for course in courses]
    print(f"{begin:%d %B}: {len(truths[-1]):,} flights, {truths[-1].mean():.1%} late; log loss " + ", ".join(said), flush=True)


def report(courses: list[Course], truths: list[NDArray[np.float64]]) -> None:
    """The table is on the screen."""
    table = Table(box=None, header_style="dim")
    for name in ("retrained", "times", "challengers dropped", "log loss", "AUC", "calibration error", "worst week"):
        table.add_column(name, justify="left" if name == "retrained" else "right")
    for course in courses:
        found = course.figures(truths)
        means = {name: float(np.mean([week[name] for week in found])) for name in ("log_loss", "auc", "gap")}
        worst = max(week["log_loss"] for week in found)
        dropped = len(course.tried) - len(course.trained) if course.name == "rule" else 0
        values = (f"{means['log_loss']:.4f}", f"{means['auc']:.4f}", f"{means['gap']:.4f}", f"{worst:.4f}")
        table.add_row(course.name, str(len(course.trained)), str(dropped), *values)
    Console(width=120).print(table)


def draw(courses: list[Course], truths: list[NDArray[np.float64]], figure: Path) -> None:
    """The figure, and beside it the weeks in JSON, are those until now."""
    weeks = {course.name: course.figures(truths) for course in courses}
    begins = [FIRST + i * WEEK for i in range(len(truths))]
    lines = {name: ([week["auc"] for week in found], [week["gap"] for week in found]) for name, found in weeks.items()}
    plot(begins, lines, {course.name: course.trained for course in courses}, figure)
    document = {"weeks": weeks, "trained": {course.name: [when.isoformat() for when in course.trained] for course in courses}}
    figure.with_suffix(".json").write_text(json.dumps(document, indent=1))


def plot(
    begins: list[datetime],
    lines: dict[str, tuple[list[float], list[float]]],
    trained: dict[str, list[datetime]],
    path: Path,
) -> None:
    """AUC and calibration error of each week by policy; dots where a copy was trained anew."""
    figure, axes = plt.subplots(2, 1, figsize=(11, 6.6), sharex=True, layout="constrained")
    words = {"never": "never", "monthly": "monthly", "rule": "when the monitor says so"}
    for place, (axis, title) in enumerate(zip(axes, ("AUC", "calibration error"), strict=True)):
        for (name, values), colour in zip(lines.items(), (GREY, BLUE, ORANGE), strict=True):
            label = f"retrained {words[name]}" + (f": {len(trained[name])}" if trained[name] else "")
            axis.plot(begins, values[place], color=colour, linewidth=1.8, label=label)
            anew = [i for i, begin in enumerate(begins) if begin in trained[name]]
            axis.plot([begins[i] for i in anew], [values[place][i] for i in anew], "o", color=colour, markersize=6)
        axis.set(ylabel=title)
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, ncols=3, loc="outside upper left")
    axes[1].set(ylim=(0, None), xlabel="week of 2013")
    axes[1].xaxis.set_major_formatter(DateFormatter("%-d %b"))
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main()

"""False alarms and power of the monitor beside evidently's and TFDV's own defaults, on this workspace's release and test part.

`python -m benchmarks.drift [--windows 500] [--draws 200] [--tfdv 20] [--evidently 3] [--log 10000000]`; needs
data/features and models/release of a finished run. Rows of a window are drawn from the test part, with all their columns together.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from tasks.columns import counted_columns, raw_columns
from tasks.core import drift
from tasks.core.drift import Floors, Test
from tasks.core.encoder import Encoder, Words
from tasks.core.quality import GRID, LEAST, REACH, Quality, observe
from tasks.core.reference import Reference, kinds, told_columns
from tasks.core.runtime import Network
from tasks.core.tally import Cells, ColumnCounter, Count, Tally
from tasks.core.verdict import Finding
from tasks.features import load_rows
from tasks.params import Params, with_values
from tasks.releases import open_releases
from tasks.shards import read_shards, write_parquet

BUNDLE, FEATURES = Path("models/release"), Path("data/features")
POWER_ROWS = 10_000
LOG_ROWS = 50_000  # of a file, as the service has it
DAY = datetime(2026, 3, 2, tzinfo=UTC)
PEER_ROWS = 10_000  # of the reference that evidently holds a window against
Columns = dict[str, NDArray[np.float64] | Words]


class Population:
    """The test part: raw rows, what is counted of them, answers and truth."""

    def __init__(self) -> None:
        self.reference = Reference.from_json(json.loads((BUNDLE / "reference.json").read_text()))
        self.encoder = Encoder.from_json(json.loads((BUNDLE / "encoder.json").read_text()))
        self.network = Network((BUNDLE / "model.tflite").read_bytes())
        self.rows = pa.concat_tables(read_shards(FEATURES / "test_rows")).combine_chunks()
        test = load_rows(FEATURES, "test")
        self.truth = np.asarray(test.target)
        self.target = self.reference.target
        self.told = self.target.decode(self.network(test.inputs))
        self.kinds = kinds(self.encoder)
        self.columns = counted_columns(self.rows, self.kinds)
        values = Params.load(Path("params.yaml")).monitor
        self.floors, self.alpha = Floors(**values.floor.model_dump()), values.false_alarms / 2
        self.teller = self.reference.teller()

    def judge(self, tally: Tally, quality: Quality) -> list[Finding]:
        """What both looks at a window find, as tasks/watch.py judges them."""
        reference = self.reference
        tests = drift.look_at(
            reference, reference.tally, tally, dict.fromkeys(tally.columns, self.floors), self.floors.shape, self.alpha
        )
        found = drift.judge(tests, self.alpha)
        return found + self.judge_truth(quality)

    def judge_truth(self, quality: Quality) -> list[Finding]:
        reference = self.reference
        tests: list[Test] = drift.test_truth(reference, reference.truth, quality.classes, self.floors.truth, self.alpha)
        tests += drift.test_quality(reference, {"": quality}, self.floors, self.alpha)
        return drift.judge(tests, self.alpha)

    def scored(self, rows: pa.Table) -> NDArray[np.float64]:
        found: NDArray[np.float64] = self.target.decode(self.network(self.encoder.encode(raw_columns(rows, self.encoder))))
        return found


def cell_codes(cells: Cells, values: NDArray[np.float64] | Words) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The cell of each row, the one behind the last for a missing value and the one behind that for a new word; and which rows are
    beyond the ends of a number."""
    counter = ColumnCounter(cells)
    if isinstance(values, Words):
        known = [cells.count if not word else counter.places.get(word, cells.count + 1) for word in values.distinct]
        return np.array(known)[values.places], np.zeros(len(values.places), bool)
    code = np.searchsorted(counter.edges, values, side="left") if cells.kind != "date" else np.zeros(len(values), np.int64)
    return np.where(np.isnan(values), cells.count, code), (values < cells.low) | (values > cells.high)


class Drawn:
    """Windows of rows drawn from the population with replacement, by how often each row is drawn: exact, at a cost that does not
    grow with the window."""

    def __init__(self, population: Population) -> None:
        self.population = population
        reference = population.reference
        scores = told_columns(population.target, population.told)
        self.codes = {name: cell_codes(cells, population.columns[name]) for name, cells in reference.cells.items()}
        self.score_codes = {label: cell_codes(cells, scores[label]) for label, cells in reference.score_cells.items()}

    def window(self, rows: int, chance: np.random.Generator) -> tuple[Tally, NDArray[np.int64]]:
        population = len(self.population.truth)
        often = (
            np.bincount(chance.integers(0, population, rows), minlength=population)
            if rows < population
            else chance.multinomial(rows, np.full(population, 1 / population))
        )
        reference = self.population.reference
        columns = {
            name: self._count(reference.cells[name], *self.codes[name], often, self.population.columns[name])
            for name in reference.cells
        }
        scores = {
            label: self._count(reference.score_cells[label], *found, often, None) for label, found in self.score_codes.items()
        }
        return Tally(rows, columns, scores), often

    def _count(
        self, cells: Cells, codes: NDArray[np.int64], beyond: NDArray[np.bool_], often: NDArray[np.int64], values: Any
    ) -> Count:
        found = np.bincount(codes, weights=often, minlength=cells.count + 2).astype(np.int64)
        strange = int(found[cells.count + 1]) if cells.kind == "category" else int(often[beyond].sum())
        return Count(found[: cells.count], int(found[cells.count]), strange)

    def findings(self, rows: int, chance: np.random.Generator) -> list[Finding]:
        tally, often = self.window(rows, chance)
        return self.population.judge(tally, self.quality(often))

    def quality(self, often: NDArray[np.int64]) -> Quality:
        """What `observe` sums over the drawn rows, of a binary target; each row as often as it was drawn."""
        truth, told = self.population.truth.astype(int), self.population.told
        p = np.clip(told, LEAST, 1 - LEAST)
        loss, gap = -np.where(truth == 1, np.log(p), np.log1p(-p)), truth - told
        figures = {"loss": loss, "loss²": loss**2, "gap": gap, "gap²": gap**2}
        cell = np.clip(((np.log(p) - np.log1p(-p) + REACH) * (GRID / (2 * REACH))).astype(np.int64), 0, GRID - 1)
        ranks = np.bincount(truth * GRID + cell, weights=often, minlength=2 * GRID).astype(np.int64).reshape(2, GRID)
        return Quality(int(often.sum()), ranks.sum(axis=1), {name: float(often @ one) for name, one in figures.items()}, ranks)


def plants(
    population: Population,
) -> dict[str, tuple[str, Callable[[pa.Table, NDArray[Any], np.random.Generator], tuple[pa.Table, NDArray[Any]]]]]:
    """By name the column that is to be named, and what is done to the rows and the truth of a window."""
    numbers = [column.name for column in population.encoder.numbers]
    shifted = "temp" if "temp" in numbers else numbers[0]
    flipped = "distance" if "distance" in numbers else numbers[-1]
    emptied = "humid" if "humid" in numbers else numbers[0]
    category = population.encoder.categories[0].name if population.encoder.categories else ""
    spread = float(np.nanstd(np.asarray(population.columns[shifted])))

    def change(column: str, how: Callable[[NDArray[Any], np.random.Generator], Any]) -> Any:
        def act(rows: pa.Table, truth: NDArray[Any], chance: np.random.Generator) -> tuple[pa.Table, NDArray[Any]]:
            values = rows[column].to_pandas().to_numpy(copy=True)
            place = rows.column_names.index(column)
            return rows.set_column(place, column, pa.array(how(values, chance), from_pandas=True)), truth

        return act

    def relabel(rows: pa.Table, truth: NDArray[Any], chance: np.random.Generator) -> tuple[pa.Table, NDArray[Any]]:
        share = 0.1 / max(1 - truth.mean(), 0.1)
        return rows, np.where((truth == 0) & (chance.random(len(truth)) < share), 1, truth)

    found = {
        f"{shifted} + 0.3 sd": (shifted, change(shifted, lambda v, _: v.astype(float) + 0.3 * spread)),
        f"{flipped} in km, not miles": (flipped, change(flipped, lambda v, _: v.astype(float) * 1.609344)),
        f"{emptied}: 20 % missing": (
            emptied,
            change(emptied, lambda v, c: np.where(c.random(len(v)) < 0.2, np.nan, v.astype(float))),
        ),
    }
    if category:
        new = change(category, lambda v, c: np.where(c.random(len(v)) < 0.05, "ZZ", v.astype(object)))
        found[f"{category}: 5 % a new word"] = (category, new)
    if population.target.task == "binary":
        found[f"{population.target.name} + 10 points"] = (population.target.name, relabel)
    return found


def power(population: Population, draws: int, chance: np.random.Generator) -> dict[str, tuple[float, float]]:
    """Of each plant the share of windows in which anything was found, and in which its column stood on top."""
    told: dict[str, tuple[float, float]] = {}
    for name, (column, act) in plants(population).items():
        raised = named = 0
        for _ in range(draws):
            own = chance.integers(0, len(population.truth), POWER_ROWS)
            rows, truth = act(population.rows.take(pa.array(own)), population.truth[own], chance)
            answers = population.scored(rows) if column in population.kinds else population.told[own]
            columns = counted_columns(rows, population.kinds)
            tally = population.teller.count(len(rows), columns, told_columns(population.target, answers))
            found = population.judge(tally, observe(population.target, truth, answers))
            raised += bool(found)
            named += bool(found) and found[0].name == column
        told[name] = (raised / draws, named / draws)
    return told


def evidently_flags(population: Population) -> Callable[[pa.Table], tuple[bool, list[str]]]:
    """Whether evidently's own preset says that the data set drifted, and the columns that it says drifted."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    numbers = [name for name, kind in population.kinds.items() if kind == "number"]
    words = [name for name, kind in population.kinds.items() if kind == "category"]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=words)
    places = np.linspace(0, len(population.truth) - 1, PEER_ROWS).astype(int)
    before = Dataset.from_pandas(frame(population, population.rows.take(pa.array(places))), data_definition=definition)

    def flag(rows: pa.Table) -> tuple[bool, list[str]]:
        now = Dataset.from_pandas(frame(population, rows), data_definition=definition)
        flagged, whole = [], False
        for metric in Report([DataDriftPreset()]).run(now, before).dict()["metrics"]:
            config, value = metric["config"], metric["value"]
            if "drift_share" in config:
                whole = value["share"] >= config["drift_share"]
            elif "column" in config:
                odds = "p_value" in str(config.get("method"))
                if (value < config["threshold"]) if odds else (value >= config["threshold"]):
                    flagged.append(config["column"])
        return whole, flagged

    return flag


def tfdv_flags(population: Population) -> Callable[[pa.Table], tuple[bool, list[str]]]:
    """The columns beyond params.yaml's validate.drift, by TFDV's comparators: L-infinity of words, Jensen-Shannon of numbers."""
    from tasks import statistics
    from tasks.frozen import load_schema

    limits = Params.load(Path("params.yaml")).validate_.drift
    numbers = [name for name, kind in population.kinds.items() if kind == "number"]
    words = [name for name, kind in population.kinds.items() if kind == "category"]

    def describe(rows: pa.Table) -> Any:
        chosen = statistics.as_described(rows.select([*numbers, *words]), floats=numbers, time=None)
        return statistics.describe(statistics.sketch(chosen, texts=[]), chosen.column_names)

    schema, before = load_schema(BUNDLE / "schema.pbtxt"), describe(population.rows)

    def flag(rows: pa.Table) -> tuple[bool, list[str]]:
        measured = statistics.find_drift(
            describe(rows),
            before,
            schema,
            categories=dict.fromkeys(words, limits.categories),
            numbers=dict.fromkeys(numbers, limits.numbers),
        )
        flagged = [one.column for one in sorted(measured, key=lambda one: -one.value / (one.threshold or 1e-9)) if one.beyond]
        return bool(flagged), flagged

    return flag


def frame(population: Population, rows: pa.Table) -> pd.DataFrame:
    return rows.select(list(population.kinds)).to_pandas()


def peer(
    population: Population,
    flag: Callable[[pa.Table], tuple[bool, list[str]]],
    draws: int,
    sizes: list[int],
    chance: np.random.Generator,
) -> Table:
    """What a peer says of windows without change, and of the plants in the columns that it looks at."""
    table = Table("window", "drawn", "raises", "flags a column", "flags the right one", "and no other", box=None)
    for rows in sizes:
        found = [flag(population.rows.take(pa.array(chance.integers(0, len(population.truth), rows)))) for _ in range(draws)]
        raised, flagged = np.mean([whole for whole, _ in found]), np.mean([bool(some) for _, some in found])
        table.add_row(f"no change, {rows:,} rows", f"{draws}", f"{raised:.0%}", f"{flagged:.0%}", "", "")
    for plant, (column, act) in plants(population).items():
        if column in population.kinds:
            found = []
            for _ in range(draws):
                own = chance.integers(0, len(population.truth), POWER_ROWS)
                found.append(flag(act(population.rows.take(pa.array(own)), population.truth[own], chance)[0]))
            shares = [[whole for whole, _ in found], [bool(some) for _, some in found], [column in some for _, some in found]]
            alone = [some == [column] for _, some in found]
            table.add_row(f"{plant}, {POWER_ROWS:,} rows", f"{draws}", *(f"{np.mean(one):.0%}" for one in (*shares, alone)))
    return table


def write_log(population: Population, place: Path, version: str, rows: int, chance: np.random.Generator) -> None:
    """A day of a prediction log as the service writes it, in files of 50,000 rows, and the truth of half of the rows."""
    model, day = Params.load(Path("params.yaml")).name, DAY.strftime("%Y-%m-%d")
    each = min(LOG_ROWS, -(-rows // 24))  # an hour without a file would be taken for lost
    for number, start in enumerate(range(0, rows, each)):
        count = min(each, rows - start)
        hour = DAY + timedelta(hours=24 * start // rows)
        own = np.sort(chance.integers(0, len(population.truth), count))
        drawn = population.rows.take(pa.array(own))
        micro = np.int64(hour.timestamp() * 1e6) + chance.integers(0, 3_600_000_000, count)
        times, ids = pa.array(micro).cast(pa.timestamp("us", tz="UTC")), pa.array([f"row-{start + i}" for i in range(count)])
        whole: dict[str, Any] = {"model": model, "version": version, "channel": "production"}
        columns = {"id": ids, "time": times, **{name: pa.array([value] * count) for name, value in whole.items()}}
        for name, kind in population.kinds.items():
            columns[f"feature_{name}"] = drawn[name].cast(pa.float64() if kind == "number" else pa.string())
        columns["prediction"] = pa.array(population.told[own])
        half = chance.random(count) < 0.5
        came = pa.array(population.truth[own][half].astype(int)).cast(pa.string())
        truths = {"id": ids.filter(pa.array(half)), "truth": came, "received": times.filter(pa.array(half))}
        for folder, table in ((f"date={day}/hour={hour:%H}", columns), (f"feedback/date={day}", truths)):
            path = place / model / folder / f"{number}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_parquet(pa.table(table), path)


JUDGE = """
import resource, sys, time
from datetime import timedelta
from pathlib import Path
from benchmarks.drift import DAY
from tasks.ledger import Span
from tasks.watch import Watch
watch, span = Watch(Path(sys.argv[1]), DAY + timedelta(days=30)), Span(DAY, DAY + timedelta(days=1))
for look in ("rows", "truth"):
    started = time.monotonic()
    report = watch.judge(span, look).report
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(f"{look}\t{report.rows}\t{report.labelled}\t{report.verdict}\t{time.monotonic() - started:.1f}\t{peak:.0f}")
"""


def judge_log(population: Population, rows: int, chance: np.random.Generator) -> Table:
    """Both looks at a window of a log of so many rows, in a process of its own: seconds, and megabytes at most."""
    table = Table("a window of the log", "rows", "with truth", "verdict", "seconds", "peak MB", box=None)
    with tempfile.TemporaryDirectory(prefix="drift-") as name:
        workspace = Path(name)
        (workspace / "params.yaml").write_text(
            with_values(Path("params.yaml").read_text(), ["release.store=releases", "monitor.log=log"])
        )
        releases = open_releases(workspace)
        version = releases.put(BUNDLE)
        releases.promote(version, None, now=None, by="benchmark", why="")
        write_log(population, workspace / "log", version, rows, chance)
        done = subprocess.run([sys.executable, "-c", JUDGE, name], capture_output=True, text=True, check=True)
        for line in done.stdout.splitlines():
            look, counted, labelled, *rest = line.split("\t")
            table.add_row(look, f"{int(counted):,}", f"{int(labelled):,}", *rest)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift", description=__doc__)
    parser.add_argument("--windows", type=int, default=500, help="without change, of each size")
    parser.add_argument("--draws", type=int, default=200, help="of each planted change")
    parser.add_argument("--tfdv", type=int, default=20, help="draws for TFDV; 0: none")
    parser.add_argument(
        "--evidently", type=int, default=3, help="draws for evidently, which takes up to half a minute for each; 0: none"
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--log", type=int, default=10_000_000, help="rows of a window of a log on disk; 0: none")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    population, chance, console = Population(), np.random.default_rng(args.seed), Console(width=200)
    drawn = Drawn(population)
    table = Table("windows without change", "drawn", "raise drift", "seconds", box=None)
    for rows in args.rows:
        started = time.monotonic()
        raised = sum(bool(drawn.findings(rows, chance)) for _ in range(args.windows))
        table.add_row(
            f"{rows:,} rows", f"{args.windows}", f"{raised} ({raised / args.windows:.1%})", f"{time.monotonic() - started:.0f}"
        )
    console.print(table)
    table = Table(f"planted in {POWER_ROWS:,} rows", "drawn", "found", "named first", box=None)
    for name, (found, named) in power(population, args.draws, chance).items():
        table.add_row(name, f"{args.draws}", f"{found:.1%}", f"{named:.1%}")
    console.print(table)
    if args.log:
        console.print(judge_log(population, args.log, chance))
    sizes = [rows for rows in args.rows if rows <= 100_000]
    said = {"TFDV": "by the thresholds of params.yaml, validate.drift", "evidently": "by its own defaults"}
    for name, draws, make in (("TFDV", args.tfdv, tfdv_flags), ("evidently", args.evidently, evidently_flags)):
        if draws:
            console.print(f"{name}, {said[name]}", peer(population, make(population), draws, sizes, chance), sep="\n")


if __name__ == "__main__":
    main()

"""One pass over the table: each row judged by the rules, the good ones written, described, and held against the schema."""

import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks import statistics
from tasks.core.contract import Allowed, Violation, offenders, violation
from tasks.core.target import as_text
from tasks.parallel import each_shard
from tasks.params import Table
from tasks.rules import Demand, Mask, Shard, free_name
from tasks.shards import read_parquet, write_parquet
from tasks.statistics import Sketch

STRANGE = 1000  # words of a column that the schema does not know, kept at most


@dataclass
class Scan:
    """What the pass found, small whatever the number of rows: tallies with examples, and a sketch of the good rows."""

    rows: int = 0
    valid: int = 0
    broken: dict[str, Violation] = field(default_factory=dict)  # by the rule as it is told
    offences: dict[str, Violation] = field(default_factory=dict)  # by column: values that the schema does not allow
    strange: dict[str, Counter[str]] = field(default_factory=dict)  # by column: words that it does not know
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)  # by column with a range in the schema
    no_class: Violation | None = None
    classes: Counter[str] = field(default_factory=Counter)
    sketch: Sketch = field(default_factory=Sketch)
    seconds: float = 0.0  # of work, all processes together

    def add(self, other: "Scan") -> None:
        """What was found of the next rows counts here too."""
        self.rows += other.rows
        self.valid += other.valid
        self.seconds += other.seconds
        for mine, theirs in ((self.broken, other.broken), (self.offences, other.offences)):
            for key, found in theirs.items():
                mine[key] = mine[key].plus(found) if key in mine else found
        for column, words in other.strange.items():
            self.strange.setdefault(column, Counter()).update(words)
        for column, (low, high) in other.ranges.items():
            old = self.ranges.get(column, (low, high))
            self.ranges[column] = (min(old[0], low), max(old[1], high))
        if other.no_class:
            self.no_class = self.no_class.plus(other.no_class) if self.no_class else other.no_class
        self.classes.update(other.classes)
        self.sketch.add(other.sketch)


def scan(
    raw: Path,
    table: Table,
    demands: Sequence[Demand],
    allowed: Mapping[str, Allowed],
    *,
    valid: Path | None = None,
    quarantine: Path | None = None,
) -> Scan:
    """What the rows of `raw` are; those that break a demand lie in `quarantine`, the others in `valid`, where these are given."""
    for folder in (valid, quarantine):
        if folder:
            folder.mkdir(parents=True)

    def look(path: Path, start: int) -> Scan:
        return scan_shard(path, start, table, demands, allowed, valid, quarantine)

    whole = Scan()
    for found in each_shard(raw, look, "validate"):
        whole.add(found)
    return whole


def scan_shard(
    path: Path,
    start: int,
    table: Table,
    demands: Sequence[Demand],
    allowed: Mapping[str, Allowed],
    valid: Path | None,
    quarantine: Path | None,
) -> Scan:
    """What the rows of one shard are, which begins with the row of number `start`."""
    started = time.perf_counter()
    stored = read_parquet(path)
    shard = Shard(as_plain(stored), start, path)
    masks = [demand.breaks(shard) for demand in demands]
    bad = np.any(masks, axis=0) if masks else np.zeros(len(shard.rows), bool)
    good = as_roles(shard.rows.filter(pa.array(~bad)) if bad.any() else shard.rows, table)
    if valid and good is stored:
        shutil.copyfile(path, valid / path.name)
    elif valid and (len(good) or start == 0):
        write_parquet(good, valid / path.name)
    if quarantine and (bad.any() or start == 0):
        write_parquet(quarantined(shard, demands, masks, bad), quarantine / path.name)

    found = Scan(rows=len(shard.rows), valid=len(good))
    found.broken = {one.told: one.tell(shard, mask) for one, mask in zip(demands, masks, strict=True) if mask.any()}
    _hold_against_schema(found, good, shard.numbers[~bad], allowed)
    _count_classes(found, good, shard.numbers[~bad], table)
    floats = (*table.numbers, *((table.target,) if table.task == "regression" else ()))
    described = statistics.as_described(good, floats=floats, time=table.time)
    found.sketch = statistics.sketch(described, texts=table.texts)
    found.seconds = time.perf_counter() - started
    return found


def as_plain(shard: pa.Table) -> pa.Table:
    """The shard with NaN as a missing value, decimals as float64 and dictionaries as text; itself when it has none."""
    for place, name in enumerate(shard.column_names):
        values = shard.column(name)
        if (plain := _plain(values)) is not values:
            shard = shard.set_column(place, name, plain)
    return shard


def _plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = values.type
    if pa.types.is_decimal(kind):
        return values.cast(pa.float64(), safe=False)
    if pa.types.is_dictionary(kind) or pa.types.is_large_string(kind):
        return values.cast(pa.string())
    if pa.types.is_floating(kind) and pc.any(pc.is_nan(values)).as_py():
        return pc.if_else(pc.is_nan(values), pa.scalar(None, kind), values)
    return values


def as_roles(shard: pa.Table, table: Table) -> pa.Table:
    """The shard with whole numbers and truth values as text where params.yaml has a category; itself when there are none."""
    for name in table.categories:
        if not pa.types.is_string(shard.schema.field(name).type):
            shard = shard.set_column(shard.column_names.index(name), name, shard.column(name).cast(pa.string()))
    return shard


def quarantined(shard: Shard, demands: Sequence[Demand], masks: Sequence[Mask], bad: Mask) -> pa.Table:
    """The bad rows as they came, with their number in the table and the rules that each broke."""
    places = np.flatnonzero(bad)
    names = ["; ".join(demand.told for demand, mask in zip(demands, masks, strict=True) if mask[place]) for place in places]
    rows = shard.rows.filter(pa.array(bad))
    for name, values in (("row", pa.array(shard.numbers[bad], pa.int64())), ("rule", pa.array(names, pa.string()))):
        rows = rows.append_column(free_name(name, rows.column_names), values)
    return rows


def _hold_against_schema(found: Scan, good: pa.Table, numbers: NDArray[np.int64], allowed: Mapping[str, Allowed]) -> None:
    """Count what the schema does not allow of each column."""
    for column, limits in allowed.items():
        if column not in good.column_names or not len(good):
            continue
        values = good.column(column)
        broken = offenders(values, limits)
        if broken.any():
            found.offences[column] = violation(column, "", values, broken, numbers)
            if limits.words is not None:
                counts = pc.value_counts(values.filter(pa.array(broken)).drop_null().cast(pa.string()))
                words = zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True)
                found.strange[column] = Counter(dict(sorted(words, key=lambda pair: (-pair[1], pair[0]))[:STRANGE]))
        if limits.ranged and pa.types.is_primitive(values.type) and values.null_count < len(values):
            extremes = pc.min_max(values.cast(pa.float64(), safe=False)).as_py()
            found.ranges[column] = (extremes["min"], extremes["max"])


def _count_classes(found: Scan, good: pa.Table, numbers: NDArray[np.int64], table: Table) -> None:
    """Count the target's classes, and values that are none; of a regression two values tell that it is not constant."""
    if not len(good):
        return
    values = good.column(table.target)
    if table.task == "regression":
        extremes = pc.min_max(values).as_py()
        found.classes = Counter({str(one): 1 for one in extremes.values()})
        return
    counts = pc.value_counts(values.combine_chunks())
    labels = dict(zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True))
    classes = {as_text(label) for label in table.classes}
    found.classes = Counter({as_text(label): count for label, count in labels.items() if as_text(label) in classes})
    if strange := [label for label in labels if as_text(label) not in classes]:
        broken = np.asarray(pc.is_in(values, value_set=pa.array(strange, values.type)))
        found.no_class = violation(table.target, "", values, broken, numbers)

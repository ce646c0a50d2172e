"""Reads a window of live rows, from the prediction log or a table, file by file and batch by batch, and counts it.

Nothing but the batch at hand is in memory, and 16 bytes for each truth. What could not be looked at is said, never skipped.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pyarrow_hotfix  # noqa: F401  closes CVE-2023-47248 in pyarrow 10: a crafted file ran code when it was opened
from numpy.typing import NDArray

from tasks.cloud.storage import Missing, Storage
from tasks.columns import as_floats, counted_columns
from tasks.core.errors import DataError
from tasks.core.quality import Quality, empty, observe
from tasks.core.reference import Reference, count_truth, told_columns
from tasks.core.tally import Tally, Teller
from tasks.core.target import Target, as_text
from tasks.shards import read_shards

BATCH_ROWS = 100_000
PREFIX, MARKS, FEEDBACK = "feature_", ("id", "time", "version", "channel"), ("id", "truth", "received")
HOUR = timedelta(hours=1)
TOLERANCE = timedelta(minutes=5)  # by which a row's time may lie outside the hour that its file is of
LEAST_NEIGHBOUR = 30  # rows in the hours on both sides of one without a file, from which on it is taken for lost
TOLD = 5  # of a list in a sentence
UNREADABLE = (pa.lib.ArrowException, OSError, UnicodeDecodeError)
STRANGE = (DataError, *UNREADABLE)  # of a file of the log, which then is not what the service wrote

ReferenceOf = Callable[[str], Reference | None]


@dataclass
class Window:
    """What was counted of the rows of one version, and what else there was. `reasons` are why nothing can be said, those of
    `broken` of the window as a whole: it is not all there, so that what it shows may be an artefact of the rest."""

    start: datetime
    end: datetime
    version: str = ""
    tally: Tally | None = None
    versions: Counter[tuple[str, str]] = field(default_factory=Counter)  # rows by version and channel
    hours: Counter[str] = field(default_factory=Counter)  # rows by hour, ISO 8601, of all versions
    broken: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    labelled: int = 0
    truth: NDArray[np.int64] | None = None
    quality: dict[str, Quality] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.tally.rows if self.tally else 0


class Truths:
    """What became true, by the hash of the row's id; of several truths of a row the last one received."""

    def __init__(self, ids: NDArray[np.uint64], values: NDArray[np.float64], received: NDArray[np.float64], strange: int) -> None:
        order = np.lexsort((received, ids))
        ids, values, received = ids[order], values[order], received[order]
        last = np.append(ids[1:] != ids[:-1], True) if len(ids) else np.zeros(0, bool)
        self.ids, self.values, self.received = ids[last], values[last], received[last]
        self.strange = strange  # of no class of the model's
        self.matched = np.zeros(len(self.ids), bool)

    def of(self, ids: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Which of the rows have a truth, and that of those."""
        if not len(self.ids):
            return np.zeros(len(ids), bool), np.zeros(0)
        places = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        there = self.ids[places] == ids
        self.matched[places[there]] = True
        return there, self.values[places[there]]


@dataclass
class _Found:
    """One version's rows as they are counted."""

    reference: Reference | None
    teller: Teller | None
    rows: int = 0
    tally: Tally | None = None
    seen: set[str] = field(default_factory=set)  # columns
    strange: set[str] = field(default_factory=set)  # columns that the reference does not have
    unanswered: int = 0  # rows without an answer that is a number
    labelled: int = 0
    truth: NDArray[np.int64] | None = None
    quality: dict[str, Quality] = field(default_factory=dict)


def read_log(
    storage: Storage,
    model: str,
    start: datetime,
    end: datetime,
    reference_of: ReferenceOf,
    channel: str,
    *,
    truths: Truths | None = None,
    only: frozenset[str] | None = None,
    quiet_hours: frozenset[int] = frozenset(),
) -> Window:
    """The rows of the channel from `start` until before `end`, of the version that answered most of them.

    With `truths` the quality of the rows that have one is summed. Of features `only` these are read, and then none is counted.
    `quiet_hours`: of the day (UTC), in which no rows are usual.
    """
    window, found, skewed = Window(start, end), dict[str, _Found](), 0
    around = Counter[datetime]()
    for key, hour in log_files(storage, model, start - HOUR, end + HOUR):
        inside = hour + HOUR > start and hour < end
        try:
            content = storage.read(key)[0]
            file = pq.ParquetFile(pa.BufferReader(content))
            around[hour] += file.metadata.num_rows
            if not inside:
                continue
            for rows in _batches(file, only):
                skewed += _take(rows, hour, window, found, reference_of, channel, truths, only is None)
        except Missing:
            window.broken.append(f"log file gone while it was read: {key}")
        except STRANGE as error:
            if inside:
                window.broken.append(f"corrupt log file: {key} ({_line(error)})")
    if skewed:
        window.broken.append(f"clock skew: the time of {skewed:,} rows is not of the hour that their files are of")
    window.broken += _lost_hours(around, start, end, quiet_hours)
    _settle(window, found)
    return window


def log_files(storage: Storage, model: str, start: datetime, end: datetime) -> Iterator[tuple[str, datetime]]:
    """The files of the log whose hour overlaps the time between, with their hour."""
    for day in days(start, end):
        for key in storage.keys(f"{model}/date={day:%Y-%m-%d}/"):
            parts = dict(part.partition("=")[::2] for part in key.split("/") if "=" in part)
            try:
                hour = datetime.fromisoformat(f"{parts['date']}T{parts['hour']}:00+00:00")
            except (KeyError, ValueError):
                continue
            if key.endswith(".parquet") and hour + HOUR > start and hour < end:
                yield key, hour


def days(start: datetime, end: datetime) -> Iterator[date]:
    """Every day that the time between touches."""
    day = start.date()
    while datetime(day.year, day.month, day.day, tzinfo=UTC) < end:
        yield day
        day += timedelta(days=1)


def _batches(file: pq.ParquetFile, only: frozenset[str] | None) -> Iterator[pa.Table]:
    names = file.schema_arrow.names
    _require(names, MARKS)
    wanted = [
        name
        for name in names
        if only is None or name.startswith("prediction") or name.removeprefix(PREFIX) in only or name in MARKS
    ]
    for batch in file.iter_batches(BATCH_ROWS, columns=wanted):
        yield pa.Table.from_batches([batch])


def _require(names: list[str], wanted: Sequence[str]) -> None:
    if lacking := [name for name in wanted if name not in names]:
        raise DataError(f"it has no column {lacking}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"there are several columns {twice}")


def _take(
    rows: pa.Table,
    hour: datetime,
    window: Window,
    found: dict[str, _Found],
    reference_of: ReferenceOf,
    channel: str,
    truths: Truths | None,
    features: bool,
) -> int:
    """The batch's rows are counted, those in the window; returns how many have a time that is not of the hour."""
    times = as_floats(rows["time"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())) / 1e6
    first, last = (hour - TOLERANCE).timestamp(), (hour + HOUR + TOLERANCE).timestamp()
    odd = ~((times >= first) & (times < last))  # NaN is in no hour
    own = ~odd & (times >= window.start.timestamp()) & (times < window.end.timestamp())
    if not own.all():
        rows = rows.filter(pa.array(own))
    if rows.num_rows:
        window.hours[hour.isoformat()] += rows.num_rows
        if rows["version"].null_count or rows["channel"].null_count:
            raise DataError("it has rows without a version or a channel")
        for pair in rows.group_by(["version", "channel"]).aggregate([("id", "count", pc.CountOptions(mode="all"))]).to_pylist():
            version, name, count = str(pair["version"]), str(pair["channel"]), pair["id_count"]
            window.versions[version, name] += count
            if name == channel:
                own = pc.and_(pc.equal(rows["version"], pair["version"]), pc.equal(rows["channel"], pair["channel"]))
                mine = rows if count == rows.num_rows else rows.filter(own)
                if version not in found:
                    found[version] = _begin(reference_of(version))
                _count(found[version], mine, PREFIX, truths, features)
    return int(odd.sum())


def _begin(reference: Reference | None) -> _Found:
    return _Found(reference, reference.teller() if reference else None)


def _count(found: _Found, rows: pa.Table, prefix: str, truths: Truths | None, features: bool) -> None:
    """The rows are counted in the cells of their version's reference, if it has one."""
    found.rows += rows.num_rows
    reference = found.reference
    if reference is None or found.teller is None:
        return
    told = answers(rows, reference.target)
    found.unanswered += _unanswered(rows, told)
    if features:
        kinds = {name: cells.kind for name, cells in reference.cells.items()}
        columns = counted_columns(rows, kinds, prefix)
        found.seen |= columns.keys()
        if prefix:
            found.strange |= {name.removeprefix(prefix) for name in rows.column_names if name.startswith(prefix)} - kinds.keys()
        scores = {} if told is None else told_columns(reference.target, told)
        _add(found, found.teller.count(rows.num_rows, columns, scores))
    if truths is not None and told is not None:
        there, values = truths.of(hashed(rows["id"]))
        if there.any():
            _observe(found, reference, rows.filter(pa.array(there)), values, told[there], prefix)


def _add(found: _Found, tally: Tally) -> None:
    if found.tally is None:
        found.tally = tally
    else:
        found.tally.add(tally)


def _observe(
    found: _Found, reference: Reference, rows: pa.Table, values: NDArray[np.float64], told: NDArray[np.float64], prefix: str
) -> None:
    """The quality of the answers to rows with these truths is summed, of all and by slice; of none that is no number."""
    whole = np.isfinite(told.reshape(len(told), -1)).all(axis=1)
    if not whole.all():
        rows, values, told = rows.filter(pa.array(whole)), values[whole], told[whole]
    found.labelled += len(values)
    counted = count_truth(reference.target, reference.truth_cells, values)
    found.truth = counted if found.truth is None else found.truth + counted
    masks = {"": np.ones(len(values), bool)} | slice_masks(rows, reference.slices, prefix)
    for name, own in masks.items():
        if own.any():
            found.quality.setdefault(name, empty(reference.target)).add(observe(reference.target, values[own], told[own]))


def slice_masks(rows: pa.Table, slices: Mapping[str, Sequence[str]], prefix: str = "") -> dict[str, NDArray[np.bool_]]:
    """Which rows each slice "carrier=AA" has, of the columns that the rows have."""
    found = {}
    for column, values in slices.items():
        if prefix + column in rows.column_names:
            words = rows[prefix + column].cast(pa.string())
            for value in values:
                found[f"{column}={value}"] = pc.fill_null(pc.equal(words, value), False).to_numpy()
    return found


def answers(rows: pa.Table, target: Target) -> NDArray[np.float64] | None:
    """The answers [row] or [row, class] that the rows hold; None when they hold none."""
    names = [f"prediction_{as_text(label)}" for label in target.classes] if target.task == "multiclass" else ["prediction"]
    if any(name not in rows.column_names for name in names):
        return None
    columns = [as_floats(rows[name]) for name in names]
    return np.column_stack(columns) if target.task == "multiclass" else columns[0]


def _unanswered(rows: pa.Table, told: NDArray[np.float64] | None) -> int:
    """How many of the rows have no answer that is a number."""
    return rows.num_rows if told is None else int((~np.isfinite(told.reshape(len(told), -1))).any(axis=1).sum())


def hashed(ids: pa.ChunkedArray) -> NDArray[np.uint64]:
    """64 bits of each id: of ten million, two share them with odds of 3 in a million."""
    found: NDArray[np.uint64] = pd.util.hash_array(ids.cast(pa.string()).to_numpy(), categorize=False)
    return found


def _settle(window: Window, found: Mapping[str, _Found]) -> None:
    """The window is that of the version with most rows, and says what else there was and what was lacking."""
    if not found:
        return
    window.version = max(found, key=lambda version: (found[version].rows, version))
    mine = found[window.version]
    window.tally = mine.tally if mine.reference else Tally(mine.rows, {}, {})
    window.labelled, window.truth, window.quality = mine.labelled, mine.truth, mine.quality
    if mine.unanswered:
        window.reasons.append(f"no answer: {mine.unanswered:,} rows have none that is a number")
    if mine.reference and mine.tally:
        lacking = [name for name in mine.reference.cells if name not in mine.seen]
        window.reasons += [f"missing column: {name!r} is not in the rows" for name in lacking]
        window.reasons += [f"unseen column: {name!r} is not known to release {window.version}" for name in sorted(mine.strange)]
        for name, count in mine.tally.columns.items():
            count.missing += mine.rows - mine.reference.cells[name].rows(count)  # in files without the column
            was = mine.reference.tally.columns[name]
            if count.missing == mine.rows and was.present:
                window.reasons.append(f"all-null column: {name!r} has no value in any row")
    others = {pair: rows for pair, rows in window.versions.items() if pair[0] != window.version}
    if others:
        said = ", ".join(f"{rows:,} of {version} ({channel})" for (version, channel), rows in sorted(others.items())[:TOLD])
        window.notes.append(f"rows of other releases, which do not count: {said}")
    aside = {
        channel: rows for (version, channel), rows in window.versions.items() if version == window.version and rows != mine.rows
    }
    if aside:
        window.notes.append(
            f"rows of the release in other channels: {', '.join(f'{rows:,} of {name}' for name, rows in sorted(aside.items()))}"
        )


def _lost_hours(around: Counter[datetime], start: datetime, end: datetime, quiet: frozenset[int]) -> list[str]:
    """Hours of the window without rows between two that have LEAST_NEIGHBOUR at least, unless the hour is usually quiet."""
    hour = start.replace(minute=0, second=0, microsecond=0)
    lost: list[datetime] = []
    gap: list[datetime] = []
    before = around[hour - HOUR]
    while hour < end + HOUR:
        if around[hour]:
            if min(before, around[hour]) >= LEAST_NEIGHBOUR:
                lost += [one for one in gap if one.hour not in quiet and one < end]
            before, gap = around[hour], []
        else:
            gap.append(hour)
        hour += HOUR
    if not lost:
        return []
    said = ", ".join(f"{one:%Y-%m-%d %H}:00" for one in lost[:TOLD]) + (f" and {len(lost) - TOLD} more" if len(lost) > TOLD else "")
    return [f"missing log hours: no rows at {said} (UTC), while the hours around them have some"]


def read_truths(storage: Storage, model: str, target: Target, start: datetime, until: datetime, window: Window) -> Truths:
    """The truths that were received between the two times; what cannot be read is among the window's reasons."""
    codes = {as_text(label): float(code) for code, label in enumerate(target.classes)}
    ids, values, received, strange = [], [], [], 0
    for day in days(start, until):
        for key in storage.keys(f"{model}/feedback/date={day:%Y-%m-%d}/"):
            try:
                rows = pq.read_table(pa.BufferReader(storage.read(key)[0]))
                _require(rows.column_names, FEEDBACK)
                came = as_floats(rows["received"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())) / 1e6
                value = _encoded(rows["truth"], codes) if codes else as_floats(rows["truth"])
                own = (came >= start.timestamp()) & (came < until.timestamp()) & np.isfinite(value)
                strange += int((~np.isfinite(value)).sum())
                ids.append(hashed(rows["id"])[own])
            except STRANGE as error:
                window.reasons.append(f"corrupt feedback file: {key} ({_line(error)})")
                continue
            values.append(value[own])
            received.append(came[own])
    if not ids:
        return Truths(np.zeros(0, np.uint64), np.zeros(0), np.zeros(0), strange)
    return Truths(np.concatenate(ids), np.concatenate(values), np.concatenate(received), strange)


def _encoded(labels: pa.ChunkedArray, codes: Mapping[str, float]) -> NDArray[np.float64]:
    words = labels.cast(pa.string()).combine_chunks().dictionary_encode()
    array = (
        words
        if isinstance(words, pa.DictionaryArray)
        else words.chunk(0)
        if words.num_chunks
        else pa.array([], pa.string()).dictionary_encode()
    )
    known = np.array([*(codes.get(word, np.nan) for word in array.dictionary.to_pylist()), np.nan])
    found: NDArray[np.float64] = known[pc.fill_null(array.indices, len(known) - 1).to_numpy(zero_copy_only=False)]
    return found


def count_unknown(storage: Storage, model: str, truths: Truths, start: datetime, end: datetime, back: timedelta) -> tuple[int, int]:
    """Of the truths that were received in the window: how many, and how many of them have an id of no row until then.

    Rows are looked for backwards, as far as a truth takes to come, until every id is found.
    """
    own = (truths.received >= start.timestamp()) & (truths.received < end.timestamp())
    left = set(truths.ids[own & ~truths.matched].tolist())
    for key, _ in sorted(log_files(storage, model, start - back, end), key=lambda pair: pair[1], reverse=True) if left else ():
        try:
            file = pq.ParquetFile(pa.BufferReader(storage.read(key)[0]))
            _require(file.schema_arrow.names, MARKS)
            for batch in file.iter_batches(BATCH_ROWS, columns=["id"]):
                left -= set(hashed(pa.Table.from_batches([batch])["id"]).tolist())
        except (Missing, *STRANGE):
            continue  # which the window that it is of tells
        if not left:
            break
    return int(own.sum()), len(left)


def sample_log(storage: Storage, model: str, window: Window, channel: str, most: int) -> pa.Table:
    """About so many of the window's rows, of its version, as evenly over its files as they allow, under the features' names."""
    files = list(log_files(storage, model, window.start, window.end))
    share, parts = max(1, most // max(len(files), 1)), []
    for key, _ in files:
        try:
            rows = pq.read_table(pa.BufferReader(storage.read(key)[0]))
            _require(rows.column_names, MARKS)
            rows = rows.filter(pc.and_(pc.equal(rows["version"], window.version), pc.equal(rows["channel"], channel)))
        except (Missing, *STRANGE):
            continue  # which the look at the window told
        own = [name for name in rows.column_names if name.startswith(PREFIX)]  # a feature may be called as a column of the log is
        parts.append(_evenly(rows.select(own), share))
    whole = pa.concat_tables(parts, promote=True) if parts else pa.table({})
    return whole.rename_columns([name.removeprefix(PREFIX) for name in whole.column_names])


def sample_table(path: Path, reference: Reference, most: int, missing: Sequence[str]) -> pa.Table:
    """So many rows of the table at most, of its first batches."""
    parts: list[pa.Table] = []
    for rows in _table_batches(path, reference, missing):
        parts.append(rows)
        if sum(map(len, parts)) >= most:
            break
    return pa.concat_tables(parts).slice(0, most) if parts else pa.table({})


def count_between(folder: Path, column: str, start: datetime, end: datetime, reference: Reference) -> Tally | None:
    """The rows of a table in shards whose time lies between, counted; None when there are none."""
    whole: Tally | None = None
    teller, kinds = reference.teller(), {name: cells.kind for name, cells in reference.cells.items()}
    first, last = (pa.scalar(when.replace(tzinfo=None), pa.timestamp("us")) for when in (start, end))
    for rows in read_shards(folder):
        times = rows[column].cast(pa.timestamp("us"))
        rows = rows.filter(pc.and_(pc.greater_equal(times, first), pc.less(times, last)))
        if rows.num_rows:
            tally = teller.count(rows.num_rows, counted_columns(rows, kinds), {})
            if whole is None:
                whole = tally
            else:
                whole.add(tally)
    return whole


def _evenly(rows: pa.Table, most: int) -> pa.Table:
    return rows if len(rows) <= most else rows.take(pa.array(np.linspace(0, len(rows) - 1, most).astype(np.int64)))


Score = Callable[[pa.Table], NDArray[np.float64]]


def read_table(path: Path, reference: Reference, version: str, score: Score | None, missing: Sequence[str]) -> Window:
    """The rows of a Parquet, Arrow or CSV file with the release's columns, and perhaps its target and answers; those that it has
    no answers to are answered by `score`."""
    found, target, teller = _begin(reference), reference.target, reference.teller()
    window = Window(datetime.fromtimestamp(0, UTC), datetime.fromtimestamp(path.stat().st_mtime, UTC))
    codes = {as_text(label): float(code) for code, label in enumerate(target.classes)}
    try:
        for rows in _table_batches(path, reference, missing):
            _require(rows.column_names, ())
            told = answers(rows, target)
            if told is None and score is not None:
                told = score(rows)
            found.unanswered += _unanswered(rows, told)
            columns = counted_columns(rows, {name: cells.kind for name, cells in reference.cells.items()})
            found.rows += rows.num_rows
            found.seen |= columns.keys()
            _add(found, teller.count(rows.num_rows, columns, {} if told is None else told_columns(target, told)))
            if target.name in rows.column_names and told is not None:
                value = _encoded(_labels(rows[target.name]), codes) if codes else as_floats(rows[target.name])
                there = np.isfinite(value)
                if there.any():
                    _observe(found, reference, rows.filter(pa.array(there)), value[there], told[there], "")
    except UNREADABLE as error:
        raise DataError(
            f"{path} cannot be read: {_line(error)}; expected Parquet, Arrow or CSV with the columns of the model"
        ) from error
    window.versions[version, "table"] = found.rows
    _settle(window, {version: found})
    if not found.rows:
        window.version = version
    return window


def _labels(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Class labels as text as the target has them: 1.0 is 1, true is 1."""
    if pa.types.is_boolean(column.type):
        return column.cast(pa.int64())
    if pa.types.is_floating(column.type):
        return column.cast(pa.int64(), safe=False) if pc.all(pc.equal(pc.floor(column), column)).as_py() else column
    return column


def _table_batches(path: Path, reference: Reference, missing: Sequence[str]) -> Iterator[pa.Table]:
    """The table's rows; of a CSV empty fields and the words of `missing` are no value."""
    match path.suffix.lower():
        case ".parquet" | ".pq":
            for batch in pq.ParquetFile(path).iter_batches(BATCH_ROWS):
                yield pa.Table.from_batches([batch])
        case ".arrow" | ".feather" | ".ipc":
            with pa.OSFile(str(path)) as source, pa.ipc.open_file(source) as file:
                for i in range(file.num_record_batches):
                    yield pa.Table.from_batches([file.get_batch(i)])
        case ".csv":
            types = {name: pa.float64() if cells.kind == "number" else pa.string() for name, cells in reference.cells.items()}
            options = pacsv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=["", *missing])
            with pacsv.open_csv(path, convert_options=options) as reader:
                for batch in reader:
                    yield pa.Table.from_batches([batch])
        case other:
            raise DataError(f"{path}: files of kind {other or '(none)'!r} are not read here; expected .parquet, .arrow or .csv")


def _line(error: Exception) -> str:
    said = " ".join(str(error).split())
    return said if len(said) <= 160 else f"{said[:157]}..."

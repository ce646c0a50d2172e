"""Rows of the prediction log as Arrow columns, and these as Parquet."""

import hashlib
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter

from serving.bundle import Bundle
from serving.privacy import withhold
from tasks.core.images import from_text


@dataclass(slots=True)  # frozen ones take three times as long to make, and one is made for each request
class Answered:
    """A request for predictions and its scores, as the network gave them."""

    time: float
    bundle: Bundle
    request: str
    rows: Sequence[Mapping[str, Any]]
    scores: NDArray[Any]
    channel: str
    key: str | None

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Truth:
    """What became true of the row of that id; `told` is when, in seconds since 1970, if the client said so."""

    time: float
    bundle: Bundle
    id: str
    truth: float | str
    told: float | None

    def __len__(self) -> int:
        return 1


def answered_batch(entries: Sequence[Answered], withheld: Counter) -> Any:
    """The rows as an Arrow record batch: `id`, `time`, `model`, `version`, `channel`, `key`, `feature_COLUMN`, and the answer."""
    from arro3.core import RecordBatch  # what follows is imported by a service that keeps a log alone

    from serving.arrow import FLOAT64, STRING, answer_columns, times

    bundle = entries[0].bundle
    rows = [row for entry in entries for row in entry.rows]
    counts = [len(entry) for entry in entries]
    columns = {
        "id": _array(row_ids(entries), STRING),
        "time": times(np.repeat([entry.time for entry in entries], counts)),
        "model": _array([bundle.name] * len(rows), STRING),
        "version": _array([bundle.version] * len(rows), STRING),
        "channel": _array([entry.channel for entry in entries for _ in entry.rows], STRING),
        "key": _array([entry.key for entry in entries for _ in entry.rows], STRING),
    }
    numbers = {column.name for column in bundle.encoder.numbers}
    images = {column.name for column in bundle.encoder.images}
    for name in bundle.encoder.names:
        values = [row.get(name) for row in rows]
        if name in images:
            values = [hashlib.sha256(from_text(value)).hexdigest() for value in values]
        elif name in bundle.privacy:
            values, raw = withhold(values, bundle.privacy[name])
            if raw:
                withheld.labels(name).inc(raw)
        columns[f"feature_{name}"] = _array(values, FLOAT64 if name in numbers else STRING)
    columns |= answer_columns(bundle.encoder.target, np.concatenate([entry.scores for entry in entries]))
    return RecordBatch.from_pydict(columns)


def row_ids(entries: Sequence[Answered]) -> list[str]:
    """An id for each row: its request's, and where that has several rows the row's number behind it."""
    return [
        one
        for entry in entries
        for one in ([entry.request] if len(entry) == 1 else [f"{entry.request}-{i}" for i in range(len(entry))])
    ]


def truth_batch(entries: Sequence[Truth]) -> Any:
    """The truths as an Arrow record batch: `id`, `truth` (a class as text, or a number), `time` if told, `received`."""
    from arro3.core import RecordBatch

    from serving.arrow import FLOAT64, STRING, times

    regression = entries[0].bundle.encoder.target.task == "regression"
    return RecordBatch.from_pydict(
        {
            "id": _array([entry.id for entry in entries], STRING),
            "truth": _array([entry.truth for entry in entries], FLOAT64 if regression else STRING),
            "time": times(np.array([np.nan if entry.told is None else entry.told for entry in entries])),
            "received": times(np.array([entry.time for entry in entries])),
        }
    )


def parquet(batches: Sequence[Any]) -> bytes:
    """The record batches, which are alike, as one Parquet file."""
    from arro3.core import RecordBatchReader
    from arro3.io import write_parquet

    def pieces() -> Iterator[Any]:
        for batch in batches:
            time.sleep(0.0005)  # arro3 holds Python's lock while it writes
            yield batch

    file = io.BytesIO()
    write_parquet(RecordBatchReader.from_batches(batches[0].schema, pieces()), file, compression="zstd(1)")
    return file.getvalue()


def _array(values: list[Any], type_: Any) -> Any:
    from arro3.core import Array

    return Array(values, type=type_)

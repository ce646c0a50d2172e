"""Compares two bundles, the champion's and the challenger's, on rows that the challenger never saw; a process of its own.

These are the newest rows of the prediction log whose truth has come back, or, where these are too few or may be among those that it
learned on, its test part.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.columns import raw_columns
from tasks.core.encoder import Encoder
from tasks.core.errors import DataError, TidemillError
from tasks.core.metrics import measure
from tasks.core.paired import compare
from tasks.core.retraining import Challenge
from tasks.core.runtime import Network
from tasks.core.target import Target, as_text
from tasks.labelled import Labelled, read_labelled
from tasks.params import Params, TimeSplit
from tasks.parts import test_start
from tasks.shards import read_shards
from tasks.stage import replacing
from tasks.times import parse_time

BLOCK_ROWS = 4096  # encoded at a time
VALID, TEST_ROWS = Path("data/valid"), Path("data/features/test_rows")


class IncomparableError(DataError):
    """One of the two cannot answer the rows of the other."""


@dataclass(frozen=True)
class Side:
    """A bundle that answers."""

    role: str
    encoder: Encoder
    network: Network

    def tell(self, columns: dict[str, Any]) -> NDArray[np.float64]:
        """Probabilities, or numbers in the target's unit."""
        return self.encoder.target.decode(self.network(self.encoder.encode(columns)))


def challenge(
    params: Params, champion: Path, challenger: Path, log: str | None, start: datetime | None, end: datetime | None
) -> Challenge:
    """The comparison of two verified bundles in this workspace. IncomparableError when one cannot answer the other's rows."""
    sides = [open_side("champion", champion), open_side("challenger", challenger)]
    old, new = (side.encoder.target for side in sides)
    if (old.task, [as_text(one) for one in old.classes]) != (new.task, [as_text(one) for one in new.classes]):
        raise IncomparableError(
            f"the champion tells {old.meaning} of {list(old.classes)}, the challenger {new.meaning} of {list(new.classes)}"
        )
    found, instead = find_rows(params, sides, log, start, end)
    if found is not None:
        truth, told = score_log(sides, found.rows)
        on: Literal["log", "test part"] = "log"
    else:
        truth, told = score_test(sides)
        on = "test part"
    plain = Target(new.task, new.name, new.classes)
    codes = truth if new.task == "regression" else plain.encode(truth)
    again = params.retrain
    result = compare(
        new.task, codes, told[0], told[1], resamples=again.resamples, confidence=params.evaluate.confidence, seed=params.seed
    )
    quality = {side.role: measure(plain, codes, one) for side, one in zip(sides, told, strict=True)}
    spans = (found.start, found.end) if found else ("", "")
    return Challenge(on, *spans, instead, result, quality)


def open_side(role: str, folder: Path) -> Side:
    encoder = Encoder.from_json(json.loads((folder / "encoder.json").read_text()))
    return Side(role, encoder, Network((folder / "model.tflite").read_bytes()))


def find_rows(
    params: Params, sides: list[Side], log: str | None, start: datetime | None, end: datetime | None
) -> tuple[Labelled | None, str]:
    """The rows of the log to compare on, or None and why not."""
    table, split, least = params.table, params.preprocess.split, params.retrain.rows
    if log is None:
        return None, "no prediction log is named"
    if table.images:
        return None, "the log holds the hashes of images, and no images"
    if not isinstance(split, TimeSplit) or table.time is None:
        return None, f"rows are split by {split.by}: rows of the log may be among those that the challenger learned on"
    unseen = test_start(VALID, table.time, split).astype("datetime64[us]").item().replace(tzinfo=UTC)
    try:
        found = read_labelled(log, params.name, days=params.retrain.window_days, start=start, end=end, not_before=unseen)
    except DataError as error:
        return None, str(error)
    if found is not None:
        found = replace(found, rows=_known(found.rows, sides[0].encoder.target))
    since = f"since {unseen:%Y-%m-%d %H:%M}, from when on the challenger learned nothing"
    if found is None or not len(found.rows):
        return None, f"no row {since}, has a truth"
    if len(found.rows) < least:
        return None, f"{len(found.rows):,} rows {since}, have a truth; retrain.rows asks for {least:,}"
    for side in sides:
        lacking = [name for name in side.encoder.names if f"feature_{name}" not in found.rows.column_names]
        if lacking:
            return None, f"the log lacks {lacking[:3]}, which the {side.role} reads"
    return found, ""


def _known(rows: pa.Table, target: Target) -> pa.Table:
    """The rows whose truth is a class of the target, or a number: a log may hold others."""
    truth = rows.column("truth").to_pandas()
    if target.task == "regression":
        return rows.filter(pa.array(np.isfinite(truth.to_numpy(np.float64, na_value=np.nan))))
    classes = {as_text(label) for label in target.classes}
    return rows.filter(pa.array([as_text(label) in classes for label in truth], pa.bool_()))


def score_log(sides: list[Side], rows: pa.Table) -> tuple[NDArray[Any], list[NDArray[Any]]]:
    """The truth of the rows, and what each side says of them."""
    features = rows.select([name for name in rows.column_names if name.startswith("feature_")])
    features = features.rename_columns([name.removeprefix("feature_") for name in features.column_names])

    def blocks() -> Iterator[Callable[[Side], dict[str, Any]]]:
        for start in range(0, len(features), BLOCK_ROWS):
            listed = features.slice(start, BLOCK_ROWS).to_pylist()
            yield lambda side, listed=listed: dict(side.encoder.columns(listed))  # type: ignore[misc]

    return rows.column("truth").to_pandas().to_numpy(), _tell(sides, blocks())


def score_test(sides: list[Side]) -> tuple[NDArray[Any], list[NDArray[Any]]]:
    """The same of the challenger's test part."""
    truths: list[NDArray[Any]] = []
    target = sides[0].encoder.target.name

    def blocks() -> Iterator[Callable[[Side], dict[str, Any]]]:
        for shard in read_shards(TEST_ROWS):
            for side in sides:
                if lacking := [name for name in (*side.encoder.names, target) if name not in shard.column_names]:
                    raise IncomparableError(f"the table lacks {lacking[:3]}, which the {side.role} reads")
            for start in range(0, len(shard), BLOCK_ROWS):
                block = shard.slice(start, BLOCK_ROWS)
                truths.append(block.column(target).to_pandas().to_numpy())
                yield lambda side, block=block: dict(raw_columns(block, side.encoder))  # type: ignore[misc]

    told = _tell(sides, blocks())
    return np.concatenate(truths), told


def _tell(sides: list[Side], blocks: Iterator[Callable[[Side], dict[str, Any]]]) -> list[NDArray[Any]]:
    """What each side says of all blocks of rows, of which it takes the columns that it knows."""
    told: list[list[NDArray[Any]]] = [[] for _ in sides]
    for columns in blocks:
        for side, answers in zip(sides, told, strict=True):
            answers.append(side.tell(columns(side)))
    return [np.concatenate(answers) for answers in told]


def main() -> None:
    """Write the challenge of the workspace in the current folder as JSON, or {"incomparable": why}."""
    parser = argparse.ArgumentParser(prog="python -m tasks.challenge", description=__doc__)
    for name in ("champion", "challenger", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--log", help="the prediction log: a folder, or s3://BUCKET/PREFIX")
    for name in ("start", "end"):
        parser.add_argument(f"--{name}", help="of the window, ISO 8601")
    args = parser.parse_args()
    try:
        params = Params.load(Path("params.yaml"))
        start, end = (parse_time(text, what) if text else None for text, what in ((args.start, "--start"), (args.end, "--end")))
        try:
            found: dict[str, Any] = challenge(params, args.champion, args.challenger, args.log, start, end).to_json()
        except IncomparableError as error:
            found = {"incomparable": str(error)}
        with replacing(args.out) as aside:
            aside.write_text(json.dumps(found, indent=1))
    except TidemillError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

"""Stage preprocess: splits by time, fits the encoder on the training part alone, writes encoded arrays."""

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from tasks import stage
from tasks.core.contract import required_columns
from tasks.core.encoder import fit_encoder
from tasks.core.errors import DataError
from tasks.features import save_rows
from tasks.frozen import load_schema
from tasks.params import Preprocess, Table
from tasks.shards import read_shards, write_shards

log = logging.getLogger("tasks.preprocess")


def preprocess(table: Table, preprocess: Preprocess, *, valid: Path, schema: Path, features: Path) -> None:
    """`features` holds encoder.json, arrays of the three parts, and the test part's raw rows."""
    rows = pa.concat_tables(read_shards(valid))
    frame = rows.to_pandas()
    parts = split_by_time(frame[table.time], preprocess)
    check_parts(frame, parts, table)

    columns = {name: frame[name].to_numpy() for name in (*table.numbers, *table.categories)}
    encoder = fit_encoder(
        {name: values[parts["train"]] for name, values in columns.items()},
        numbers=table.numbers,
        categories=table.categories,
        required=required_columns(load_schema(schema)),
        bins=preprocess.quantiles,
        min_count=preprocess.min_count,
    )
    encoded = encoder.encode(columns)
    target = frame[table.target].to_numpy()

    with stage.replacing(features) as folder:
        for part, chosen in parts.items():
            save_rows(folder / part, {name: array[chosen] for name, array in encoded.items()}, target[chosen])
            log.info("%s: %s rows, %.1f%% positive", part, f"{chosen.sum():,}", 100 * target[chosen].mean())
        write_shards([rows.filter(pa.array(parts["test"]))], folder / "test_rows", rows.schema)
        (folder / "encoder.json").write_text(json.dumps(encoder.to_json(), indent=1, ensure_ascii=False))
    known = {column.name: len(column.vocabulary) for column in encoder.categories}
    log.info("encoder: %s numbers, %s flags, known words %s", len(encoder.numbers), encoder.width - len(encoder.numbers), known)


def split_by_time(time: pd.Series, preprocess: Preprocess) -> dict[str, NDArray[np.bool_]]:
    """Which rows train, validate and test: whole days validate, so that rows of one morning do not stand on both sides."""
    test = (time >= pd.Timestamp(preprocess.test_from)).to_numpy()
    days = (time - pd.Timestamp(0)).dt.days.to_numpy()
    validation = ~test & (days % preprocess.validation_every_days == 0)
    return {"train": ~test & ~validation, "validation": validation, "test": test}


def check_parts(frame: pd.DataFrame, parts: dict[str, NDArray[np.bool_]], table: Table) -> None:
    """DataError unless each part has rows of both classes."""
    for part, chosen in parts.items():
        classes = sorted(frame[table.target][chosen].unique())
        if len(classes) < 2:
            span = f"the table runs from {frame[table.time].min()} to {frame[table.time].max()}"
            raise DataError(
                f"the {part} part has {int(chosen.sum()):,} rows and the classes {classes}; expected both 0 and 1. "
                f"{span}: move preprocess.test_from or validation_every_days"
            )


if __name__ == "__main__":
    stage.main(preprocess)

"""Infers data/schema.pbtxt once, from the first table; from then on it is a contract that people change, in git."""

import logging
from pathlib import Path

import pyarrow as pa
from google.protobuf import text_format

from tasks import stage, statistics
from tasks.core.errors import DataError
from tasks.params import Table
from tasks.shards import read_shards

log = logging.getLogger("tasks.schema")


def infer_schema(table: Table, *, raw: Path, schema: Path) -> None:
    """`schema` exists; one that was there before is left as it is."""
    if schema.exists():
        raise DataError(f"{schema} exists and is frozen; edit it, or delete it to infer it anew")
    frame = statistics.to_frame(pa.concat_tables(read_shards(raw)), time=str(table.time), numbers=table.numbers)
    inferred = statistics.infer_schema(statistics.describe(frame))
    with stage.replacing(schema) as aside:
        aside.write_text(text_format.MessageToString(inferred))
    log.info("inferred %s columns; review %s and commit it", len(inferred.feature), schema)


if __name__ == "__main__":
    stage.main(infer_schema)

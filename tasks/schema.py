"""Infers data/schema.pbtxt once, from the first table; from then on it is a contract that people change, in git."""

import logging
from pathlib import Path

from google.protobuf import text_format

from tasks import stage, statistics
from tasks.core.errors import DataError
from tasks.params import Table, Validate
from tasks.scan import scan
from tasks.shards import table_schema
from tasks.validate import prepare

log = logging.getLogger("tasks.schema")


def infer_schema(table: Table, validate: Validate, *, raw: Path, sets: Path, schema: Path) -> None:
    """`schema` exists, inferred from the rows that keep the rules; one that was there before is left as it is."""
    if schema.exists():
        raise DataError(f"{schema} exists and is frozen; see what it says with python -m flows.schema, or delete it")
    demanded, _ = prepare(table, validate, raw, sets)
    found = scan(raw, table, demanded, {})
    if not found.valid:
        raise DataError(f"no row of {found.rows:,} keeps the rules of params.yaml; correct them, or the source")
    described = statistics.describe(found.sketch, table_schema(raw).names)
    inferred = statistics.infer_schema(described, found.sketch.words, texts=table.texts)
    with stage.replacing(schema) as aside:
        aside.write_text(text_format.MessageToString(inferred, as_utf8=True))
    log.info("inferred %s columns; review %s and commit it", len(inferred.feature), schema)


if __name__ == "__main__":
    stage.main(infer_schema)

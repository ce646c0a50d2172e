"""Compares the table that is there with data/schema.pbtxt, for flows.schema: in a process of its own, since TFDV is heavy."""

import html
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks import stage, statistics
from tasks.core import contract
from tasks.core.change import Change
from tasks.core.errors import DataError
from tasks.core.evolution import differences, replaced
from tasks.core.pbtxt import find_edits
from tasks.frozen import load_schema
from tasks.params import Table, Validate
from tasks.scan import scan
from tasks.shards import table_schema
from tasks.validate import prepare


def compare_table(table: Table, validate: Validate, *, raw: Path, sets: Path, schema: Path, changes: Path) -> None:
    """`changes` holds every column whose valid rows are not as the schema says; the schema is as it was."""
    frozen, text = load_schema(schema), schema.read_bytes().decode()
    demanded, _ = prepare(table, validate, raw, sets)
    limits = {feature.name: contract.allowed(feature, frozen) for feature in frozen.feature}
    found = scan(raw, table, demanded, limits)
    if not found.valid:
        raise DataError(f"no row of {found.rows:,} keeps the rules of params.yaml; correct them, or the source")

    described = statistics.describe(found.sketch, table_schema(raw).names)
    inferred = statistics.infer_schema(described, found.sketch.words, texts=table.texts)
    anomalies = statistics.find_anomalies(described, frozen)
    told = differences(
        frozen, inferred, described, strange=found.strange, ranges=found.ranges, most_words=statistics.DOMAIN
    )  # fmt: skip
    explained = {one.column for one in told}
    told += [replaced(name, _in_words(anomaly), inferred) for name, anomaly in anomalies.items() if name not in explained]

    listed = [
        Change(one.column, role, one.said, _verdict(one.column in anomalies, role), tuple(find_edits(text, frozen, one)))
        for one in told
        if one.column != table.time
        for role in [_role(one.column, table)]
    ]
    with stage.replacing(changes) as aside:
        aside.write_text(json.dumps({"schema": stage.content_hash(schema), "changes": [asdict(one) for one in listed]}))


def _in_words(anomaly: Any) -> str:
    return html.unescape(f"{anomaly.short_description}: {anomaly.description}")


def _role(column: str, table: Table) -> str:
    """What the column is for, "" when params.yaml gives it no role."""
    roles = {
        **dict.fromkeys(table.slices, "slice"),
        **dict.fromkeys(table.numbers, "number"),
        **dict.fromkeys(table.categories, "category"),
        **dict.fromkeys(table.dates, "date"),
        **dict.fromkeys(table.texts, "text"),
        table.target: "target",
    }
    return roles.get(column, "")


def _verdict(forbidden: bool, role: str) -> str:
    """What a run does about a column that differs."""
    if not forbidden:
        return "passes"
    return "stops the run" if role else "warns"


if __name__ == "__main__":
    stage.main(compare_table)

"""What a table must be: the kind that each role demands, the frozen schema, the row rules; and which rows break them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from tensorflow_metadata.proto.v0 import schema_pb2


@dataclass(frozen=True)
class Violation:
    """One way in which a column breaks the contract: in how many rows, and what three of them hold."""

    column: str
    rule: str
    rows: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        shown = f"; for example {', '.join(self.examples)}" if self.examples else ""
        return f"column {self.column!r}: {self.rule}: {self.rows:,} rows{shown}"


def violation(column: str, rule: str, values: Sequence[Any] | NDArray[Any], broken: NDArray[np.bool_]) -> Violation:
    """The violation of `rule` by the rows where `broken` is true, the first three shown with their row number."""
    places = np.flatnonzero(broken)
    return Violation(column, rule, len(places), tuple(f"row {place}: {values[place]!r}" for place in places[:3]))


def check_kinds(table: pa.Table, *, time: str, target: str, numbers: Sequence[str], categories: Sequence[str]) -> list[Violation]:
    """Columns whose type is not what their role in params.yaml demands, by how many values cannot be read as that."""
    kinds = {
        time: "a timestamp",
        target: "a number",
        **dict.fromkeys(numbers, "a number"),
        **dict.fromkeys(categories, "text"),
    }
    found = []
    for column, kind in kinds.items():
        values = table.column(column)
        if not _is_kind(values.type, kind):
            broken, rule = _unreadable(values, kind), f"expected {kind}, found {values.type}"
            if values.null_count == len(values):
                broken, rule = np.ones(len(values), bool), f"expected {kind}, every value is missing"
            found.append(violation(column, rule, values.to_pylist(), broken))
    return found


def _is_kind(type_: pa.DataType, kind: str) -> bool:
    if pa.types.is_null(type_):
        return kind != "a timestamp"
    match kind:
        case "a timestamp":
            return bool(pa.types.is_timestamp(type_) or pa.types.is_date(type_))
        case "a number":
            return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_boolean(type_))
        case "text":
            return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))
        case _:
            raise AssertionError(kind)


def _unreadable(values: pa.ChunkedArray, kind: str) -> NDArray[np.bool_]:
    """Rows with a value that is not of the kind; all rows with a value where no single one is to blame."""
    frame = values.to_pandas()
    present: NDArray[np.bool_] = frame.notna().to_numpy()
    if kind == "a number":
        broken = present & pd.to_numeric(frame, errors="coerce").isna().to_numpy()
    elif kind == "a timestamp":
        broken = present & pd.to_datetime(frame, errors="coerce").isna().to_numpy()
    else:
        broken = present
    return broken if broken.any() else present


def offenders(frame: pd.DataFrame, column: str, schema: schema_pb2.Schema) -> NDArray[np.bool_]:
    """Rows whose value of the column the schema does not allow: missing where it is required, or outside its domain."""
    feature = next((feature for feature in schema.feature if feature.name == column), None)
    if feature is None or column not in frame:
        return np.ones(len(frame), bool)
    values = frame[column]
    needed = feature.presence.min_fraction == 1.0 or bool(values.isna().all())  # a column that is wholly missing is told whole
    broken = values.isna().to_numpy() if needed else np.zeros(len(frame), bool)
    match feature.WhichOneof("domain_info"):
        case "domain":
            words = next(set(domain.value) for domain in schema.string_domain if domain.name == feature.domain)
            broken |= (values.notna() & ~values.isin(words)).to_numpy()
        case "string_domain":
            broken |= (values.notna() & ~values.isin(set(feature.string_domain.value))).to_numpy()
        case "bool_domain":
            broken |= (values.notna() & ~values.isin([0, 1])).to_numpy()
        case "int_domain" | "float_domain" as kind:
            values = pd.to_numeric(values, errors="coerce")  # text that is no number is another fault than its range
            domain = getattr(feature, kind)
            low = domain.min if domain.HasField("min") else -np.inf
            high = domain.max if domain.HasField("max") else np.inf
            broken |= (values.notna() & ~values.between(low, high)).to_numpy()
        case _:
            pass
    return broken


def required_columns(schema: schema_pb2.Schema) -> frozenset[str]:
    """Columns that the schema demands in every row."""
    return frozenset(feature.name for feature in schema.feature if feature.presence.min_fraction == 1.0)

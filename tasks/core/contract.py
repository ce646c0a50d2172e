"""What a table must be: the kind that each role demands, and the frozen schema; and which rows break them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tensorflow_metadata.proto.v0 import schema_pb2

Kind = Literal["a timestamp", "a number", "text", "text or whole numbers", "a number or text", "the bytes of image files"]

EXAMPLES = 3
SHOWN = 120  # characters of an example


@dataclass(frozen=True)
class Violation:
    """One way in which a column, or "" for whole rows, breaks the contract: in how many rows, and what three of them hold."""

    column: str
    rule: str
    rows: int | None  # None where it is no matter of rows
    examples: tuple[str, ...]
    budget: float | None = None  # share of the rows that may break this rule

    def __str__(self) -> str:
        where = f"column {self.column!r}: " if self.column else ""
        rows = f": {self.rows:,} rows" if self.rows is not None else ""
        shown = f"; for example {', '.join(self.examples)}" if self.examples else ""
        return f"{where}{self.rule}{rows}{shown}"

    def plus(self, other: "Violation") -> "Violation":
        """The same of these rows and of later ones."""
        rows = None if self.rows is None or other.rows is None else self.rows + other.rows
        return replace(self, rows=rows, examples=(self.examples + other.examples)[:EXAMPLES])


def violation(
    column: str,
    rule: str,
    values: Sequence[Any] | Mapping[int, Any] | pa.ChunkedArray,
    broken: NDArray[np.bool_],
    numbers: NDArray[np.int64] | None = None,
) -> Violation:
    """The violation of `rule` by the rows where `broken` is true, the first three shown with their number in the table."""
    places = np.flatnonzero(broken)
    rows = np.arange(len(broken)) if numbers is None else numbers
    return Violation(column, rule, len(places), tuple(f"row {rows[place]}: {shown(values[place])}" for place in places[:EXAMPLES]))


def shown(value: Any) -> str:
    """A value as an error message holds it."""
    text = repr(value.as_py() if isinstance(value, pa.Scalar) else value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def check_kinds(shards: Iterable[pa.Table], kinds: Mapping[str, Kind]) -> list[Violation]:
    """Columns whose type is not of the kind that they should be, by how many values cannot be read as that.

    The types of the first shard are those of all; the others are only looked at when one is wrong.
    """
    shards = iter(shards)
    shard = next(shards)
    wrong = {column: kind for column, kind in kinds.items() if not _is_kind(shard.schema.field(column).type, kind)}
    found: dict[str, tuple[Violation, Violation]] = {}
    start = 0
    while wrong and shard is not None:
        for column, kind in wrong.items():
            values = shard.column(column)
            rule, numbers = f"expected {kind}, found {values.type}", np.arange(start, start + len(values))
            present = np.asarray(values.is_valid())
            pair = tuple(violation(column, rule, values, rows, numbers) for rows in (_unreadable(values, kind), present))
            old = found.get(column)
            found[column] = (old[0].plus(pair[0]), old[1].plus(pair[1])) if old else (pair[0], pair[1])
        start += len(shard)
        shard = next(shards, None)
    return [_told(column, *found[column], rows=start, kind=kind) for column, kind in wrong.items()]


def _told(column: str, unreadable: Violation, present: Violation, *, rows: int, kind: Kind) -> Violation:
    """The values to blame: those that cannot be read, or all where no single one is at fault."""
    if not present.rows:
        return Violation(column, f"expected {kind}, every value is missing", rows, ())
    return unreadable if unreadable.rows else present


def _is_kind(type_: pa.DataType, kind: Kind) -> bool:
    is_ = pa.types
    if is_.is_null(type_):
        return kind != "a timestamp"
    if is_.is_dictionary(type_):
        type_ = type_.value_type
    text = is_.is_string(type_) or is_.is_large_string(type_)
    whole = is_.is_integer(type_) or is_.is_boolean(type_)
    number = whole or is_.is_floating(type_) or is_.is_decimal(type_)
    match kind:
        case "a timestamp":
            return bool(is_.is_timestamp(type_) or is_.is_date(type_))
        case "a number":
            return bool(number)
        case "text":
            return bool(text)
        case "text or whole numbers":
            return bool(text or whole)
        case "a number or text":
            return bool(number or text)
        case "the bytes of image files":
            return bool(is_.is_binary(type_) or is_.is_large_binary(type_))


def _unreadable(values: pa.ChunkedArray, kind: Kind) -> NDArray[np.bool_]:
    """Rows with a value that is not of the kind; all rows with a value where the kind says nothing of single ones."""
    frame = values.to_pandas()
    broken: NDArray[np.bool_] = frame.notna().to_numpy()
    if kind == "a number":
        broken &= pd.to_numeric(frame, errors="coerce").isna().to_numpy()
    elif kind == "a timestamp":
        broken &= pd.to_datetime(frame, errors="coerce").isna().to_numpy()
    return broken


@dataclass(frozen=True)
class Allowed:
    """What the schema allows of a column's values."""

    required: bool
    words: frozenset[str] | None = None
    low: float = -np.inf
    high: float = np.inf

    @property
    def ranged(self) -> bool:
        return (self.low, self.high) != (-np.inf, np.inf)


def allowed(feature: schema_pb2.Feature, schema: schema_pb2.Schema) -> Allowed:
    """What the schema allows of the feature's values."""
    required = feature.presence.min_fraction == 1.0
    match feature.WhichOneof("domain_info"):
        case "domain":
            words = next((domain.value for domain in schema.string_domain if domain.name == feature.domain), ())
            return Allowed(required, frozenset(words))
        case "string_domain":
            return Allowed(required, frozenset(feature.string_domain.value))
        case "bool_domain":
            return Allowed(required, low=0, high=1)
        case "int_domain" | "float_domain" as kind:
            domain = getattr(feature, kind)
            low = domain.min if domain.HasField("min") else -np.inf
            high = domain.max if domain.HasField("max") else np.inf
            return Allowed(required, low=low, high=high)
        case _:
            return Allowed(required)


def offenders(values: pa.ChunkedArray, allowed: Allowed) -> NDArray[np.bool_]:
    """Rows whose value is not allowed: missing where it is required, outside the words, or outside the range."""
    present: NDArray[np.bool_] = np.asarray(values.is_valid())
    broken = ~present if allowed.required else np.zeros(len(present), bool)
    if allowed.words is not None:
        known = pc.is_in(values.cast(pa.string()), value_set=pa.array(sorted(allowed.words), pa.string()))
        broken |= present & ~np.asarray(known)
    elif allowed.ranged and not pa.types.is_null(values.type):
        numbers = pd.to_numeric(values.to_pandas(), errors="coerce").to_numpy(np.float64, na_value=np.nan)
        broken |= present & ((numbers < allowed.low) | (numbers > allowed.high))
    return broken


def required_columns(schema: schema_pb2.Schema) -> frozenset[str]:
    """Columns that the schema demands in every row."""
    return frozenset(feature.name for feature in schema.feature if feature.presence.min_fraction == 1.0)

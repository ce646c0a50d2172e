"""A table or query of a database as batches of text with a DuckDB type for each column: by COPY from PostgreSQL, else a cursor."""

import io
import operator
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import sqlalchemy as sa

from tasks import engine
from tasks.core.errors import DataError
from tasks.params import SqlSource
from tasks.sources.database import table_of

Kind = Literal["BIGINT", "DOUBLE", "BOOLEAN", "DATE", "TIMESTAMP", "BLOB", "VARCHAR"]

BLOCK = 4 << 20  # bytes of one batch from COPY
ROWS = 20_000  # of one batch from a cursor at most
BYTES = 8 << 20  # of one batch from a cursor, about
STEP = 200  # rows that a cursor is asked for at most, as how wide they are is known only then
WHOLE_DIGITS = 18  # of a whole number that 64 bits hold whatever the digits are
NUMERIC = 1700  # PostgreSQL's oid of it
OIDS: dict[int, Kind] = {  # PostgreSQL's pg_type.dat; what is not here is text
    **dict.fromkeys((20, 21, 23, 26), "BIGINT"),
    **dict.fromkeys((700, 701, NUMERIC), "DOUBLE"),
    **dict.fromkeys((1114, 1184), "TIMESTAMP"),
    1082: "DATE",
    16: "BOOLEAN",
    17: "BLOB",
}


@dataclass(frozen=True)
class Cells:
    """What a source selects, and the kind of each of its columns; of `decimals` a double may hold not all digits."""

    name: str
    connection: sa.Connection
    rows: sa.FromClause
    kinds: dict[str, Kind]
    decimals: frozenset[str] = frozenset()

    def batches(self, statement: sa.Select[Any]) -> Iterator[pa.Table]:
        """The statement's rows as they come, every column text in the database's own way of writing."""
        if self.connection.dialect.driver == "psycopg":
            return _copied(self.name, self.connection, statement)
        return _fetched(self.name, self.connection, statement, self.kinds)

    def bound(self, column: str, text: str) -> sa.BindParameter[Any]:
        """The text as a value to compare the column with; PostgreSQL finds out itself what the text of a literal means."""
        reads = {"BIGINT": int, "DOUBLE": float} if self.connection.dialect.driver != "psycopg" else {}
        return sa.bindparam(None, reads.get(self.kinds[column], str)(text), sa.types.NullType(), unique=True)


def cells_of(name: str, source: SqlSource, connection: sa.Connection) -> Cells:
    """The source's columns by what the database declares of them, else by all of their values."""
    rows = _selected(source, connection)
    described: Any = connection.execute(sa.select(sa.text("*")).select_from(rows).limit(0)).cursor.description
    columns = [str(column[0]) for column in described]
    if not columns:
        raise DataError(f"source {name!r}: it has no column; expected at least one: name some in its query or table")
    lower = [column.lower() for column in columns]
    if twice := sorted({column for column in columns if lower.count(column.lower()) > 1}):
        raise DataError(f"source {name!r}: its columns {twice} share a name; name each apart: SELECT a.id AS a_id, ...")
    if connection.dialect.name == "postgresql":
        kinds = {column: _kind_of_oid(d[1], d[4], d[5]) for column, d in zip(columns, described, strict=True)}
        numeric = {column for column, d in zip(columns, described, strict=True) if d[1] == NUMERIC}
        return Cells(name, connection, rows, kinds, frozenset(numeric))
    declared = _declared(connection, rows)
    seen = _seen(connection, rows, [column for column in columns if column not in declared])
    found = {column: declared.get(column) or seen[column] for column in columns}
    decimals = {column for column, (_, is_decimal) in found.items() if is_decimal}
    return Cells(name, connection, rows, {column: kind for column, (kind, _) in found.items()}, frozenset(decimals))


def _kind_of_oid(oid: int, precision: int | None, scale: int | None) -> Kind:
    """The kind by what is declared alone, so that it is the same whatever rows there are."""
    if oid == NUMERIC and precision is not None and scale is not None:
        return _kind_of_decimal(precision, scale)
    return OIDS.get(oid, "VARCHAR")


def _kind_of_decimal(precision: int, scale: int) -> Kind:
    """Whole numbers are never doubles, which would make one of two large keys."""
    if scale > 0:
        return "DOUBLE"
    return "BIGINT" if precision - scale <= WHOLE_DIGITS else "VARCHAR"


def typed(db: duckdb.DuckDBPyConnection, batch: pa.Table, kinds: dict[str, Kind]) -> duckdb.DuckDBPyRelation:
    """The batch with each column in the type of its kind; what does not fit becomes NULL, for the caller to miss.

    DuckDB 2 takes no Arrow table of pyarrow 10, so the batch goes to it as Parquet, in memory.
    """
    memory = io.BytesIO()
    pq.write_table(batch, memory, compression="none", use_dictionary=False)
    memory.seek(0)
    return db.read_parquet(memory).select(
        ", ".join(f"{_cast(engine.quoted(column), kinds[column])} AS {engine.quoted(column)}" for column in batch.column_names)
    )


def _cast(text: str, kind: Kind) -> str:
    match kind:
        case "VARCHAR":
            return text
        case "BLOB":
            return f"upper(substr({text}, 3))"
        case "TIMESTAMP":  # with or without a zone; infinity has no microseconds
            return f"make_timestamp(epoch_us(TRY_CAST({text} AS TIMESTAMPTZ)))"
        case "DATE":
            day = f"TRY_CAST({text} AS DATE)"
            return f"CASE WHEN isfinite({day}) THEN {day} END"
        case "DOUBLE":  # what is too large reads as infinite
            number = f"TRY_CAST({text} AS DOUBLE)"
            return f"CASE WHEN isinf({number}) AND NOT contains(lower({text}), 'inf') THEN NULL ELSE {number} END"
        case _:
            return f"TRY_CAST({text} AS {kind})"


def _selected(source: SqlSource, connection: sa.Connection) -> sa.FromClause:
    """The table, or the query as one; SQLite declares the columns of a query only where it is a view."""
    if source.query is None:
        schema, table = table_of(source)
        return sa.table(table, schema=schema)
    query = _without_end(source.query)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"CREATE TEMP VIEW tidemill AS {query}")
        return sa.table("tidemill", schema="temp")
    # The colons are the query's own, as in x::date: SQLAlchemy would take some for parameters.
    return sa.text(query.replace(":", r"\:") + "\n").columns().subquery("tidemill")


# What a statement of SQL is made of; nothing is what a database passes over, and what ends the statement.
_WORD = re.compile(
    r"(?P<nothing>\s+|--[^\n]*|/\*.*?\*/|;)"
    r"|[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|(?P<dollar>\$\w*\$).*?(?P=dollar)|\w+|.",
    re.DOTALL,
)


def _without_end(query: str) -> str:
    """The query up to its last word: without the semicolon and the comments behind it, which a query within another cannot have."""
    return query[: max((word.end() for word in _WORD.finditer(query) if not word["nothing"]), default=0)]


def _declared(connection: sa.Connection, rows: sa.FromClause) -> dict[str, tuple[Kind, bool]]:
    """The kinds that the database declares of a table's columns, and whether they are decimals; of a query's none."""
    if not isinstance(rows, sa.TableClause):
        return {}
    columns = sa.inspect(connection).get_columns(rows.name, schema=rows.schema)
    free = connection.dialect.name == "sqlite"  # it declares digits and holds to none
    found = {column["name"]: (_kind_of_type(column["type"], free), _is_decimal(column["type"])) for column in columns}
    if free:
        dates = [column for column, (kind, _) in found.items() if kind == "DATE"]
        found |= dict.fromkeys(_with_time(connection, rows, dates), ("TIMESTAMP", False))
    return {column: (kind, is_decimal) for column, (kind, is_decimal) in found.items() if kind}


def _with_time(connection: sa.Connection, rows: sa.FromClause, columns: Sequence[str]) -> list[str]:
    """Those of SQLite's columns declared of dates that hold a time of day other than midnight."""
    if not columns:
        return []
    times = [sa.func.ltrim(sa.func.substr(sa.column(column), 11), "T 0:.Z") for column in columns]
    found = connection.execute(sa.select(*(sa.func.max(time != "") for time in times)).select_from(rows)).one()
    return [column for column, has_time in zip(columns, found, strict=True) if has_time]


def _is_decimal(declared: sa.types.TypeEngine[Any]) -> bool:
    return isinstance(declared, sa.Numeric) and not isinstance(declared, sa.Float)


def _kind_of_type(declared: sa.types.TypeEngine[Any], free: bool) -> Kind | None:
    match declared:
        case sa.types.NullType():
            return None
        case sa.Boolean():
            return "BOOLEAN"
        case sa.Integer():
            return "BIGINT"
        case sa.Numeric(precision=int() as precision, scale=int() as scale) if _is_decimal(declared) and not free:
            return _kind_of_decimal(precision, scale)
        case sa.Numeric():
            return "DOUBLE"
        case sa.DateTime():
            return "TIMESTAMP"
        case sa.Date():
            return "DATE"
        case _:
            return "VARCHAR"


def _seen(connection: sa.Connection, rows: sa.FromClause, columns: Sequence[str]) -> dict[str, tuple[Kind, bool]]:
    """The kinds of columns by all of their values, and whether there are decimals among these."""
    types: dict[str, set[type]] = {column: set() for column in columns}
    if columns:
        for part in _parts(connection, sa.select(*map(sa.column, columns)).select_from(rows)):
            for column, values in zip(columns, zip(*part, strict=True), strict=True):
                types[column].update(map(type, values))
    return {column: (_kind_of_values(found - {type(None)}), Decimal in found) for column, found in types.items()}


def _kind_of_values(types: set[type]) -> Kind:
    for kinds, kind in _VALUES:
        if types and types <= kinds:
            return kind
    return "VARCHAR"


_VALUES: list[tuple[set[type], Kind]] = [
    ({bool}, "BOOLEAN"),
    ({int}, "BIGINT"),
    ({int, float, Decimal}, "DOUBLE"),
    ({date}, "DATE"),
    ({datetime}, "TIMESTAMP"),
]


def _parts(connection: sa.Connection, statement: sa.Select[Any]) -> Iterator[Sequence[sa.Row[Any]]]:
    """The rows in batches that are bounded in rows and bytes."""
    options = {"stream_results": True, "max_row_buffer": STEP}
    with closing(connection.execute(statement, execution_options=options)) as result:
        held: list[sa.Row[Any]] = []
        size, step = 0, STEP // 10
        while rows := result.fetchmany(step):
            width = sum(_width(value) for row in rows for value in row)
            step = max(1, min(STEP, 2 * step, BYTES * len(rows) // max(1, width)))
            held += rows
            size += width
            if size >= BYTES or len(held) + step > ROWS:
                yield held
                held, size = [], 0
        if held:
            yield held


def _width(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes) else 16


def _fetched(name: str, connection: sa.Connection, statement: sa.Select[Any], kinds: dict[str, Kind]) -> Iterator[pa.Table]:
    columns = [column.name for column in statement.selected_columns]
    for part in _parts(connection, statement):
        texts = [
            pa.array(_texts(name, column, kinds.get(column, "VARCHAR"), values), pa.string())
            for column, values in zip(columns, zip(*part, strict=True), strict=True)
        ]
        yield pa.table(texts, names=columns)


def _texts(name: str, column: str, kind: Kind, values: Iterable[Any]) -> list[str | None]:
    try:
        if kind == "BIGINT":  # only what is an integer: DuckDB would round 1.5
            return [None if value is None else str(operator.index(value)) for value in values]
        return [None if value is None else value.hex().upper() if isinstance(value, bytes) else str(value) for value in values]
    except TypeError as error:
        raise DataError(
            f"source {name!r}: column {column!r} is declared of integers and holds others; CAST it in a query"
        ) from error


def _copied(name: str, connection: sa.Connection, statement: sa.Select[Any]) -> Iterator[pa.Table]:
    compiled = statement.compile(dialect=connection.dialect)
    columns = [column.name for column in statement.selected_columns]
    # psycopg halves the doubled per cent signs only where there are parameters.
    parameters = compiled.params or {"none": None}
    cursor = connection.connection.cursor()
    with closing(cursor), cursor.copy(f"COPY ({compiled}) TO STDOUT (FORMAT csv)", parameters) as copy:
        for block in _blocks(copy):
            yield _parsed(name, block, columns)


def _blocks(rows: Iterable[bytes]) -> Iterator[bytes]:
    """Whole rows, joined to about a block."""
    held: list[bytes] = []
    size = 0
    for row in rows:
        held.append(row)
        size += len(row)
        if size >= BLOCK:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


def _parsed(name: str, block: bytes, columns: list[str]) -> pa.Table:
    """COPY's CSV as text: an empty field is NULL, a quoted empty one is not, an empty line is a row of one NULL."""
    try:
        return pa_csv.read_csv(
            pa.BufferReader(block),
            read_options=pa_csv.ReadOptions(column_names=columns, block_size=len(block)),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        raise DataError(f"source {name!r}: its text is not UTF-8; set the database's encoding, or CAST in a query") from error

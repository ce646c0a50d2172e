"""Sources in a database: a table or query as a whole, or with a watermark only the rows that came since, as further parts."""

import hashlib
import logging
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from tasks import engine
from tasks.core.errors import DataError
from tasks.core.privacy import Guard, find_personal
from tasks.params import SqlSource
from tasks.progress import Meter
from tasks.sources import protect
from tasks.sources.cells import Cells, cells_of, typed
from tasks.sources.database import connected, persisting
from tasks.sources.lock import Mark, refuse_moved
from tasks.sources.store import Draft, Store

PART_ROWS = 50_000  # at least, of every part but the last; what is read again after a lost connection is not much more
MODULI = (1_000_003, 10_007)  # primes whose product of rests no sum over 900 million rows takes beyond 64 bits
DIGITS = 15  # of a decimal, which a double always keeps

log = logging.getLogger("tasks.ingest")


def look(name: str, source: SqlSource, guard: Guard, store: Store) -> Mark:
    """With a watermark its largest value, the rows and a sum over it; else rows and a hash of the content, landed thereby."""
    if source.watermark is None:
        return persisting(lambda: _land_whole(name, source, guard, store), lambda: 0)
    return persisting(lambda: _extent(name, source, guard, store), lambda: 0)


def land(name: str, source: SqlSource, mark: Mark, guard: Guard, store: Store) -> None:
    """The store holds what the mark names, of which only what it lacks is read; DataError when the database lacks it."""
    if source.watermark is None:
        if mark.get("content") in [part.mark for part in store.parts]:
            store.keep([str(mark["content"])])
        else:
            refuse_moved(name, look(name, source, guard, store), mark)
        return
    if not {"watermark", "rows"} <= mark.keys() <= {"watermark", "rows", "sum", "columns"}:
        refuse_moved(name, look(name, source, guard, store), mark)
    _rewind(store, str(mark["watermark"]))
    if _held(source, store, mark) != mark:
        persisting(lambda: _land_new(name, source, mark, guard, store), lambda: store.rows)
    if _held(source, store, mark) != mark:
        other = "others than" if store.rows == mark["rows"] else "not"
        log.info("%s: %s rows are %s the %s of sources.lock: reads all again", name, f"{store.rows:,}", other, f"{mark['rows']:,}")
        store.clear()
        persisting(lambda: _land_new(name, source, mark, guard, store), lambda: store.rows)
    refuse_moved(name, _held(source, store, mark), mark)


def _held(source: SqlSource, store: Store, wanted: Mark) -> Mark:
    """The mark of what the store holds, with the sum and the columns if that of `wanted` has them."""
    if not store.parts:
        return {"rows": 0}
    held: Mark = {"watermark": store.parts[-1].mark, "rows": store.rows}
    if "sum" in wanted:
        held["sum"] = _landed_sum(str(source.watermark), store)
    if "columns" in wanted:
        held["columns"] = _told_columns(store.schema)
    return held


def _schema(cells: Cells, guard: Guard) -> pa.Schema:
    """Columns and types that rows would land with."""
    columns = [column.name for column in _selection(cells, guard).selected_columns]
    nothing = pa.table({column: pa.array([], pa.string()) for column in columns})
    with engine.connect() as db:
        return protect.protected(db, typed(db, nothing, cells.kinds), guard).to_arrow_table().schema


def _told_columns(schema: pa.Schema) -> str:
    """A hash of names and types, in their order."""
    return hashlib.sha256(str([(field.name, str(field.type)) for field in schema]).encode()).hexdigest()[:16]


def _sum(column: sa.ColumnClause[Any], cells: Cells) -> sa.ColumnElement[Any] | None:
    """SQL of a sum over the watermark that hardly two sets of rows share, in whole numbers below what 64 bits hold; of text and
    fractions, and of times outside of PostgreSQL, there is none that says the same in every engine."""
    kind = cells.kinds[column.name]
    if kind in ("DATE", "TIMESTAMP") and cells.connection.dialect.name == "postgresql":
        value = sa.cast(sa.extract("epoch", column) * sa.literal_column("1000000"), sa.BigInteger)
    elif kind == "BIGINT":
        value = sa.cast(column, sa.BigInteger)
    else:
        return None
    one, other = (value % sa.literal_column(str(modulus)) for modulus in MODULI)
    return sa.func.sum(one * other)


def _landed_sum(watermark: str, store: Store) -> int:
    """What _sum says of the rows that landed."""
    column = engine.quoted(watermark)
    with engine.connect() as db:
        relation = db.read_parquet([str(path) for path in store.paths])
        of_time = dict(zip(relation.columns, map(str, relation.types), strict=True))[watermark] in ("DATE", "TIMESTAMP")
        value = f"epoch_us(CAST({column} AS TIMESTAMP))" if of_time else f"CAST({column} AS BIGINT)"
        return int(relation.aggregate(f"sum(({value} % {MODULI[0]}) * ({value} % {MODULI[1]}))").fetchall()[0][0])


def _rewind(store: Store, watermark: str) -> None:
    """Parts beyond the watermark are gone, where one ends at it: an older sources.lock wants the older rows."""
    marks = [part.mark for part in store.parts]
    if watermark in marks[:-1]:
        store.keep(marks[: marks.index(watermark) + 1])


def _extent(name: str, source: SqlSource, guard: Guard, store: Store) -> Mark:
    """The largest watermark, the rows that have one, a sum over them and the columns; DataError for rows that have none."""
    with connected(name, source, store.workspace) as connection:
        cells = cells_of(name, source, connection)
        column: sa.ColumnClause[Any] = sa.column(_watermark(name, source, cells, guard))
        counted = sa.select(sa.func.max(column).label("last"), sa.func.count(column).label("rows"), sa.func.count().label("all"))
        if (total := _sum(column, cells)) is not None:
            counted = counted.add_columns(total.label("sum"))
        [batch] = cells.batches(counted.select_from(cells.rows))
        columns = _told_columns(_schema(cells, guard))
    answer = batch.to_pylist()[0]
    last, rows, all_rows = answer["last"], int(answer["rows"]), int(answer["all"])
    if rows < all_rows:
        raise DataError(
            f"source {name!r}: {all_rows - rows:,} of {all_rows:,} rows have no {source.watermark!r}, its watermark; "
            "give them one, leave them out by a query, or remove watermark"
        )
    _refuse_empty(name, rows)
    protect.refuse_personal(name, find_personal({str(source.watermark): [last]}), guard)
    mark: Mark = {"watermark": last, "rows": rows, "columns": columns}
    return {**mark, "sum": int(answer["sum"])} if "sum" in answer else mark


def _watermark(name: str, source: SqlSource, cells: Cells, guard: Guard) -> str:
    """The watermark's column; DataError unless it is there and sources.lock may hold its largest value."""
    column = str(source.watermark)
    if column not in cells.kinds:
        raise DataError(f"source {name!r}: no column {column!r} for its watermark; its columns are {list(cells.kinds)}")
    if column in guard.decided - guard.keep:
        raise DataError(
            f"source {name!r}: privacy names its watermark {column!r}, whose largest value stands in sources.lock; "
            "take another column, or none"
        )
    return column


def _refuse_empty(name: str, rows: int) -> None:
    if not rows:
        raise DataError(f"source {name!r}: the database gives no row; expected at least one")


def _land_whole(name: str, source: SqlSource, guard: Guard, store: Store) -> Mark:
    """The store holds all rows as one part, whose mark is their content; one of the same content stays."""
    with connected(name, source, store.workspace) as connection, Draft(store) as draft, Meter(name) as meter:
        cells = cells_of(name, source, connection)
        for _, table in _landed(cells, _selection(cells, guard), guard):
            draft.write(table)
            meter.at(draft.rows, None)
        _refuse_empty(name, draft.rows)
        draft.close()
        mark: Mark = {"rows": draft.rows, "content": protect.content(draft.path)}
        if mark["content"] not in [part.mark for part in store.parts]:
            draft.end(str(mark["content"]))
    store.keep([str(mark["content"])])
    return mark


def _land_new(name: str, source: SqlSource, mark: Mark, guard: Guard, store: Store) -> None:
    """The store holds the rows up to the mark's watermark besides those that it held, in parts that no value is divided by."""
    with connected(name, source, store.workspace) as connection, Draft(store) as draft, Meter(name) as meter:
        cells = cells_of(name, source, connection)
        watermark = _watermark(name, source, cells, guard)
        if store.parts and not store.schema.equals(_schema(cells, guard)):
            log.info("%s: its columns, or their types, are others than those that landed: reads all again", name)
            store.clear()
        column: sa.ColumnClause[Any] = sa.column(watermark)
        wanted = _selection(cells, guard).where(column <= cells.bound(watermark, str(mark["watermark"]))).order_by(column)
        if store.parts:
            wanted = wanted.where(column > cells.bound(watermark, store.parts[-1].mark))
        last = None
        for values, table in _landed(cells, wanted, guard, watermark):
            cut = values.index(values[-1])
            before = values[cut - 1] if cut else last
            if draft.rows + cut >= PART_ROWS and before not in (None, values[-1]):
                draft.write(table[:cut])
                draft.end(before)
                table = table[cut:]
            draft.write(table)
            last = values[-1]
            meter.at(store.rows + draft.rows, int(mark["rows"]))
        if last is not None:
            draft.end(last)


def _selection(cells: Cells, guard: Guard) -> sa.Select[Any]:
    """All columns but those that would be dropped: they do not even leave the database."""
    kept = [column for column in cells.kinds if column not in guard.drop] or list(cells.kinds)
    return sa.select(*map(sa.column, kept)).select_from(cells.rows)


def _landed(
    cells: Cells, wanted: sa.Select[Any], guard: Guard, watermark: str | None = None
) -> Iterator[tuple[list[str], pa.Table]]:
    """The rows in the common types and protected, batch by batch, each with its values of the watermark as text."""
    checked = False
    doubled = {column for column in cells.decimals if cells.kinds[column] == "DOUBLE"} - guard.drop
    with engine.connect() as db:
        for batch in cells.batches(wanted):
            relation = typed(db, batch, cells.kinds)
            if not checked:
                protect.check_personal(cells.name, relation, guard)
                checked = True
                for column in sorted(cells.decimals - guard.drop):
                    if cells.kinds[column] == "VARCHAR":
                        log.info(
                            "%s: column %r stays text: it is declared of whole numbers with more digits than 64 bits hold; "
                            "CAST it in a query to read it as another type", cells.name, column,
                        )  # fmt: skip
            doubled -= _told_of_rounding(cells.name, batch, doubled, guard)
            table = protect.protected(db, relation, guard).to_arrow_table()
            _refuse_misfits(cells, batch, table, guard)
            yield (batch.column(watermark).to_pylist() if watermark else []), table


def _told_of_rounding(name: str, batch: pa.Table, columns: set[str], guard: Guard) -> set[str]:
    """Those of the columns of decimals that hold values with more digits than doubles keep, which the log tells."""
    told = set()
    for column in sorted(columns & set(batch.column_names)):
        long = (text for text in batch.column(column).to_pylist() if text is not None and len(text) > DIGITS)
        if found := next((text for text in long if Decimal(text) != Decimal(repr(float(text)))), None):
            shown = "" if column in guard.decided - guard.keep else f", for example {found[:40]!r}"
            log.warning(
                "%s: column %r holds decimals of more than %d digits%s, which are rounded to that many; "
                "CAST it to text in a query to keep them all", name, column, DIGITS, shown,
            )  # fmt: skip
            told.add(column)
    return told


def _refuse_misfits(cells: Cells, batch: pa.Table, table: pa.Table, guard: Guard) -> None:
    """DataError for values that their column's type does not hold: they became NULL."""
    for column in table.column_names:
        lost = table.column(column).null_count - batch.column(column).null_count
        if lost:
            kind = cells.kinds[column]
            text, fits = batch.column(column).to_pylist(), table.column(column).is_null().to_pylist()
            found = next(value for value, null in zip(text, fits, strict=True) if null and value is not None)
            example = "" if column in guard.decided - guard.keep else f", for example {found[:40]!r}"
            raise DataError(
                f"source {cells.name!r}: column {column!r} holds {lost:,} values in {batch.num_rows:,} rows that are no {kind} "
                f"that fits{example}; correct them, or CAST the column in a query"
            )

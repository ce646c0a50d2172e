"""Sources that are HTTP APIs answering in JSON: all their pages, or those since a watermark, as parts of one set of types."""

import json
import logging
import re
from pathlib import Path

import duckdb

from tasks import engine
from tasks.core.errors import DataError
from tasks.core.privacy import Guard
from tasks.params import ApiSource
from tasks.sources import dates
from tasks.sources.fetched import Fetched, Span, fetch
from tasks.sources.lock import Mark, refuse_moved
from tasks.sources.protect import protected
from tasks.sources.reading import told
from tasks.sources.request import MAX_BYTES
from tasks.sources.store import Store

log = logging.getLogger("tasks.ingest")

PLAIN = ("BIGINT", "DOUBLE", "BOOLEAN")  # all else that JSON holds is text, of which dates and times are judged here
NARROWER = {"DOUBLE": "BIGINT", "TIMESTAMP": "DATE"}  # by type what some of its values alone would be taken for
PAGES = "pages"
MODULUS = 2**128  # of the sum that a mark's content is


def look(name: str, source: ApiSource, guard: Guard, store: Store) -> Mark:
    """What the API holds now, which has landed thereby: rows and an order-independent hash of them, and the last watermark.

    With a watermark only rows from its largest value on are asked for, and those that are new become a further part. With a key
    a row that came before is replaced by what came last. A field that changes its type, or a new one, makes the whole be asked
    for again, so that parts that landed one by one equal what lands at once.
    """
    _refuse_protected_roles(name, source, guard)
    _settle(store)
    before = _mark(store)
    if source.watermark and before:
        fetched = fetch(name, source, guard, store.folder / PAGES, Span(since=str(before["watermark"])))
        try:
            if mark := _appended(name, source, fetched, guard, store, before):
                return mark
        finally:
            fetched.discard()
    fetched = fetch(name, source, guard, store.folder / PAGES, Span())
    try:
        return _replaced(name, source, fetched, guard, store, None)
    finally:
        fetched.discard()


def land(name: str, source: ApiSource, mark: Mark, guard: Guard, store: Store) -> None:
    """The store holds what the mark names, by itself or fetched again; DataError when the API no longer gives that."""
    _refuse_protected_roles(name, source, guard)
    _settle(store)
    marks = [part.mark for part in store.parts]
    if _text(mark) in marks:
        if marks[-1] != _text(mark):
            store.keep(marks[: marks.index(_text(mark)) + 1])
        return
    if not mark:
        refuse_moved(name, _mark(store), mark)
    upto = str(mark["watermark"]) if source.watermark and "watermark" in mark else None
    fetched = fetch(name, source, guard, store.folder / PAGES, Span(upto=upto))
    try:
        _replaced(name, source, fetched, guard, store, mark)
    finally:
        fetched.discard()


def _refuse_protected_roles(name: str, source: ApiSource, guard: Guard) -> None:
    """DataError where privacy takes away what paging needs; a pseudonym still tells rows apart."""
    coarse = {column for column, _ in guard.coarsen}
    if source.key in guard.drop | coarse:
        raise DataError(f"source {name!r}: privacy takes away its key {source.key!r}; pseudonymise it, or remove key")
    if source.watermark and source.watermark.column in guard.drop | guard.pseudonymise | coarse:
        raise DataError(f"source {name!r}: privacy takes away its watermark {source.watermark.column!r}; remove watermark")


def _settle(store: Store) -> None:
    """The parts begin with the last that holds all rows: a kill may have left those that it replaced."""
    whole = [i for i, part in enumerate(store.parts) if json.loads(part.mark)["rows"] == part.rows]
    if whole and whole[-1]:
        store.keep([part.mark for part in store.parts[whole[-1] :]])


def _mark(store: Store) -> Mark:
    """The mark of all that the store holds: each part's is of it and the parts before."""
    mark: Mark = json.loads(store.parts[-1].mark) if store.parts else {}
    return mark


def _text(mark: Mark) -> str:
    return json.dumps(mark, sort_keys=True)


def _replaced(name: str, source: ApiSource, fetched: Fetched, guard: Guard, store: Store, locked: Mark | None) -> Mark:
    """The store holds what was fetched and nothing else, unless it held that already; DataError if it is not what is locked."""
    if not fetched.rows:
        raise DataError(
            f"source {name!r}: {source.url.partition('?')[0]} gives no row; expected at least one: check query and rows"
        )
    with engine.connect() as db:
        whole = fetched.folder / "whole.parquet"
        told(name, guard, lambda: protected(db, _typed(name, db, source, fetched, guard, {}), Guard()).to_parquet(str(whole)))
        rows, content = _content(db.read_parquet(_literal(whole)))
    mark: Mark = {"rows": rows, "content": f"{content:032x}"}
    if source.watermark:
        mark["watermark"] = str(fetched.pages[-1].last)
    if locked is not None:
        why = f"below its watermark {mark['watermark']!r} rows came late, changed or went" if "watermark" in mark else ""
        refuse_moved(name, mark, locked, why)
    if [part.mark for part in store.parts] != [_text(mark)]:
        _become(store, whole, mark)
    return mark


def _appended(name: str, source: ApiSource, fetched: Fetched, guard: Guard, store: Store, before: Mark) -> Mark | None:
    """The store holds what is new of what was fetched besides what it held; None when that does not fit its types."""
    if not fetched.rows:
        return before
    with engine.connect() as db:
        landed = db.read_parquet([_literal(path) for path in store.paths])
        types = dict(zip(landed.columns, map(str, landed.types), strict=True))
        relation = told(name, guard, lambda: protected(db, _typed(name, db, source, fetched, guard, types), Guard()))
        if not told(name, guard, lambda: _fits(relation, landed, types)):
            return None
        columns = ", ".join(
            f"CAST({engine.quoted(column)} AS {type_}) AS {engine.quoted(column)}" for column, type_ in types.items()
        )
        landed.create_view("landed")
        fresh, new = fetched.folder / "fresh.parquet", fetched.folder / "new.parquet"
        relation.select(columns).create_view("fetched")
        told(name, guard, lambda: db.sql(_unknown(source)).to_parquet(str(fresh)))
        db.read_parquet(_literal(fresh)).create_view("fresh")
        rows, content = _content(db.table("fresh"))
        if not rows:
            return before
        replaces = (
            source.key and db.sql(f"SELECT 1 FROM landed SEMI JOIN fresh USING ({engine.quoted(source.key)}) LIMIT 1").fetchall()
        )
        if replaces:
            assert source.key is not None
            rest = f"SELECT * FROM landed ANTI JOIN fresh USING ({engine.quoted(source.key)})"
            db.sql(f"{rest} UNION ALL SELECT * FROM fresh").to_parquet(str(new))
            rows, content = _content(db.read_parquet(_literal(new)))
        else:
            rows, content = rows + int(before["rows"]), (content + int(str(before["content"]), 16)) % MODULUS
    mark: Mark = {"rows": rows, "content": f"{content:032x}", "watermark": str(fetched.pages[-1].last)}
    if replaces:
        _become(store, new, mark)
    else:
        with store.adding(_text(mark)) as aside:
            fresh.replace(aside)
    return mark


def _become(store: Store, whole: Path, mark: Mark) -> None:
    """The store's one part is the file."""
    with store.adding(_text(mark)) as aside:
        whole.replace(aside)
    store.keep([_text(mark)])


def _unknown(source: ApiSource) -> str:
    """Fetched rows that have not landed: a server may count the watermark's last value to what is new, or not."""
    assert source.watermark is not None
    column = engine.quoted(source.watermark.column)
    return f"FROM fetched EXCEPT ALL FROM landed WHERE {column} IN (SELECT {column} FROM fetched)"


def _fits(relation: duckdb.DuckDBPyRelation, landed: duckdb.DuckDBPyRelation, types: dict[str, str]) -> bool:
    """Whether all rows read at once would have the types that landed: then those of the new ones say nothing else."""
    for column, type_ in zip(relation.columns, map(str, relation.types), strict=True):
        if column not in types:
            return False
        if type_ in (types[column], NARROWER.get(types[column])) and type_ != "VARCHAR":
            continue
        if _is_empty(relation, column):
            continue
        if types[column] != "VARCHAR" or _is_empty(landed, column):
            return False
    return True


def _is_empty(relation: duckdb.DuckDBPyRelation, column: str) -> bool:
    return not relation.filter(f"{engine.quoted(column)} IS NOT NULL").limit(1).fetchall()


def _typed(
    name: str, db: duckdb.DuckDBPyConnection, source: ApiSource, fetched: Fetched, guard: Guard, landed: dict[str, str]
) -> duckdb.DuckDBPyRelation:
    """The fetched rows, each key once, with types read from all of them, but for columns that landed as text."""
    columns = list(dict.fromkeys([*fetched.columns, *landed]))
    if twice := sorted({column for column in columns if [other.lower() for other in columns].count(column.lower()) > 1}):
        raise DataError(f"source {name!r}: the fields {twice} differ in capitals alone; a table's columns cannot")
    line = next(word for word in (f"line{'_' * n}" for n in range(len(columns) + 1)) if word not in map(str.lower, columns))
    path = engine.literal(_literal(fetched.joined(line)))
    reading = f"read_json({path}, format='newline_delimited', maximum_object_size={2 * MAX_BYTES}, hive_partitioning=false"
    found = db.sql(f"FROM {reading}, sample_size=-1, map_inference_threshold=-1) LIMIT 0")
    types = _types(columns, dict(zip(found.columns, map(str, found.types), strict=True)), landed, guard)
    spec = ", ".join(f"{engine.literal(column)}: {engine.literal(type_)}" for column, type_ in {**types, line: "BIGINT"}.items())
    rows = db.sql(f"FROM {reading}, columns={{{spec}}})")
    judged = [column for column, type_ in types.items() if type_ == "VARCHAR" and column not in guard.pseudonymise]
    rows = _dated(rows, [column for column in judged if landed.get(column) != "VARCHAR" and column not in dict(guard.coarsen)])
    if source.key:
        _tell_replaced(name, rows, source.key, line)
        newest = f"{line} DESC"
        if source.watermark:  # numbers that came as text are ordered as numbers, as the largest of them was found
            column = engine.quoted(source.watermark.column)
            newest = f"TRY_CAST(CAST({column} AS VARCHAR) AS DOUBLE) DESC NULLS LAST, {column} DESC, {newest}"
        once = f"row_number() OVER (PARTITION BY {engine.quoted(source.key)} ORDER BY {newest}) = 1"
        rows = rows.query("fetched_rows", f"FROM fetched_rows QUALIFY {once}")
    return rows.select(f"* EXCLUDE ({line})")


def _tell_replaced(name: str, rows: duckdb.DuckDBPyRelation, key: str, line: str) -> None:
    """Logs how many rows give way to others with their key: that is right of rows that changed, and tells of a wrong key."""
    columns = ", ".join(engine.quoted(column) for column in rows.columns if column != line)
    every, apart = rows.aggregate(f"count(DISTINCT hash({columns})), count(DISTINCT {engine.quoted(key)})").fetchall()[0]
    if every > apart:
        log.warning(
            "%s: %s different rows have %s different values of %r, its key: of each only the newest row counts; "
            "if that is not what key is for, name a column that tells rows apart, or remove key",
            name, f"{every:,}", f"{apart:,}", key,
        )  # fmt: skip


def _dated(rows: duckdb.DuckDBPyRelation, texts: list[str]) -> duckdb.DuckDBPyRelation:
    """The rows, those of the columns of text as dates or times all of whose values are ISO's, in UTC where a zone is named.

    What is written otherwise stays text: DuckDB itself would take 24-01-15 for a day of the year 24, and 100-10-10 for one too.
    """
    names = {column: engine.quoted(column) for column in texts}
    if not names:
        return rows
    counting = [sql for name in names.values() for sql in (f"count({name})", *dates.counting(name))]
    counts = iter(rows.aggregate(", ".join(counting)).fetchall()[0])
    replaced = []
    for name in names.values():
        values, date, time, zoned = (next(counts) for _ in range(4))
        if values and date == values:
            replaced.append(f"CAST({name} AS DATE) AS {name}")
        elif values and date + time + zoned == values:
            in_utc = f"make_timestamp(epoch_us(CAST({name} AS TIMESTAMPTZ)))"
            has_zone = f"regexp_full_match({name}, '{dates.ISO['zoned']}')"
            replaced.append(f"CASE WHEN {has_zone} THEN {in_utc} ELSE CAST({name} AS TIMESTAMP) END AS {name}")
    return rows.select(f"* REPLACE ({', '.join(replaced)})") if replaced else rows


def _types(columns: list[str], found: dict[str, str], landed: dict[str, str], guard: Guard) -> dict[str, str]:
    """The type to read each column with; none for one that is empty because its object became columns of their own."""
    coarsen = dict(guard.coarsen)
    types = {}
    for column in columns:
        if found.get(column) == '"NULL"' and column not in landed and any(other.startswith(f"{column}_") for other in columns):
            continue
        if column in coarsen:
            types[column] = "VARCHAR" if isinstance(coarsen[column], int) else "DATE"
        elif column in guard.pseudonymise or landed.get(column) == "VARCHAR":
            types[column] = "VARCHAR"
        else:
            types[column] = _plain(found.get(column, "VARCHAR"))
    return types


def _plain(found: str) -> str:
    """The type to read a column with of which all values were found to be of that type; whole numbers fit in 64 bits by now."""
    return "BIGINT" if found in ("UBIGINT", "HUGEINT") else found if found in PLAIN else "VARCHAR"


def _content(relation: duckdb.DuckDBPyRelation) -> tuple[int, int]:
    """How many rows there are, and the sum of a hash of each, whatever their order and that of their columns."""
    fields = ", ".join(f"{engine.literal(column)}: {engine.quoted(column)}" for column in sorted(relation.columns))
    rows, content = relation.aggregate(
        f"count(*), coalesce(sum(CAST(md5_number_lower(CAST(to_json({{{fields}}}) AS VARCHAR)) AS HUGEINT)), 0)"
    ).fetchall()[0]
    return int(rows), int(content) % MODULUS


def _literal(path: Path) -> str:
    """The path for DuckDB, which would take brackets, stars and question marks for a pattern."""
    return re.sub(r"([\[\]*?])", r"[\1]", str(path))

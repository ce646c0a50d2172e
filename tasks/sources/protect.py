"""What stands between a source and the first byte that is written of it: one set of types, and personal columns dealt with."""

import hashlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path

import duckdb

from tasks import engine
from tasks.core.errors import DataError, PersonalError
from tasks.core.privacy import PSEUDONYM_LENGTH, SAMPLE, Coarsening, Guard, find_personal, undecided
from tasks.credentials import read_secret
from tasks.params import Privacy

log = logging.getLogger("tasks.sources.protect")

DECIMAL = re.compile(r"DECIMAL\(([0-9]+),([0-9]+)\)")
DIGITS = 15  # that DOUBLE keeps of any decimal
BIGINT_DIGITS = 18
BLOCK = 64  # bytes of SHA-256's block, for HMAC


def guard_of(name: str, privacy: Privacy) -> Guard:
    """What `privacy` in params.yaml says of the columns of this source: those named bare are meant wherever they stand."""

    def own(named: str) -> str | None:
        source, dot, column = named.partition(".")
        return column if dot and source == name else None if dot else named

    def of(names: tuple[str, ...]) -> frozenset[str]:
        return frozenset(column for column in map(own, names) if column)

    return Guard(
        drop=of(privacy.drop),
        pseudonymise=of(privacy.pseudonymise),
        coarsen=tuple((column, to) for key, to in privacy.coarsen.items() if (column := own(key))),
        keep=of(privacy.keep),
        key=read_secret(privacy.key).encode() if privacy.key and privacy.pseudonymise else b"",
    )


def write(
    db: duckdb.DuckDBPyConnection, relation: duckdb.DuckDBPyRelation, parquet: Path, guard: Guard, as_bytes: str | None = None
) -> None:
    """The relation's rows stand in the Parquet file, in their order, protected and in the common types."""
    protected(db, relation, guard, as_bytes).to_parquet(str(parquet))


def protected(
    db: duckdb.DuckDBPyConnection, relation: duckdb.DuckDBPyRelation, guard: Guard, as_bytes: str | None = None
) -> duckdb.DuckDBPyRelation:
    """The relation without dropped columns, with the others as `guard` says, and in types that do not depend on the source.

    Integers are BIGINT, other numbers DOUBLE, times TIMESTAMP (in UTC where they came with a zone), the rest text; so a table
    gives the same bytes from a file and from a database. Of BLOBs the column `as_bytes` alone stays one.
    """
    set_key(db, guard.key)
    coarsen = dict(guard.coarsen)
    types = dict(zip(relation.columns, map(str, relation.types), strict=True))
    kept = {column: type_ for column, type_ in types.items() if column not in guard.drop}
    if as_bytes in kept.keys() & guard.decided - guard.keep:
        raise DataError(f"privacy: column {as_bytes!r} holds whole files, which can be dropped or kept and nothing else")
    if not kept:
        raise DataError("privacy drops every column of a source; leave at least one")
    values = {c: engine.quoted(c) if c == as_bytes else _expression(c, t, guard, coarsen) for c, t in kept.items()}
    return relation.select(", ".join(f"{value} AS {engine.quoted(column)}" for column, value in values.items()))


def exact(where: str, relation: duckdb.DuckDBPyRelation, guard: Guard) -> duckdb.DuckDBPyRelation:
    """The relation with integers beyond 64 bits as text where their type is decimal; decimals that will be rounded are told.

    DataError for unsigned integers beyond 64 bits with a sign.
    """
    types = dict(zip(relation.columns, map(str, relation.types), strict=True))
    kept = [column for column in types if column not in guard.drop]
    counts = {column: count for column in kept if (count := _inexact(engine.quoted(column), types[column]))}
    if not counts:
        return relation
    found = dict(zip(counts, relation.aggregate(", ".join(counts.values())).fetchall()[0], strict=True))
    texts = set()
    for column, count in found.items():
        if not count:
            continue
        remedy = f"types: {{{column}: text}}"
        match DECIMAL.fullmatch(types[column]):
            case None:
                raise DataError(
                    f"{where}: column {column!r} holds {count:,} integers beyond 64 bits with a sign; keep them as text, {remedy}"
                )
            case decimal if decimal[2] == "0":
                log.info("%s: column %r stays text: it holds %s integers beyond 64 bits", where, column, f"{count:,}")
                texts.add(column)
            case _:
                log.warning(
                    "%s: column %r holds %s decimals of more than %s digits, which are rounded; %s keeps them as they are",
                    where, column, f"{count:,}", DIGITS, remedy,
                )  # fmt: skip
    quoted = {column: engine.quoted(column) for column in types}
    return relation.select(
        ", ".join(f"CAST({name} AS VARCHAR) AS {name}" if column in texts else name for column, name in quoted.items())
    )


def _inexact(value: str, type_: str) -> str | None:
    """SQL that counts the numbers that BIGINT or DOUBLE cannot hold, where the type has room for some."""
    beyond = f"{value} NOT BETWEEN -9223372036854775808 AND 9223372036854775807"
    if type_ == "UBIGINT":
        return f"count(*) FILTER (WHERE {beyond})"
    decimal = DECIMAL.fullmatch(type_)
    if decimal is None or int(decimal[1]) <= (DIGITS if decimal[2] != "0" else BIGINT_DIGITS):
        return None
    if decimal[2] == "0":
        return f"count(*) FILTER (WHERE {beyond})"
    digits = f"trim(regexp_replace(CAST({value} AS VARCHAR), '[-.]', '', 'g'), '0')"
    return f"count(*) FILTER (WHERE length({digits}) > {DIGITS})"


def check_personal(name: str, relation: duckdb.DuckDBPyRelation, guard: Guard) -> None:
    """PersonalError when columns look personal and params.yaml does not say what becomes of them; looks at the first rows."""
    rows = relation.limit(SAMPLE).fetchall()
    sample = {
        column: [str(row[i]) for row in rows if isinstance(row[i], str | int) and row[i] != ""]
        for i, column in enumerate(relation.columns)
    }
    refuse_personal(name, find_personal(sample), guard)


def refuse_personal(name: str, found: Mapping[str, str], guard: Guard) -> None:
    """PersonalError for what `found` says looks personal and is undecided."""
    open_ = undecided(found, guard)
    if open_:
        listing = "\n  ".join(f"column {column!r}: {found[column]}" for column in open_)
        raise PersonalError(
            f"source {name!r} has columns that look personal, and params.yaml does not say what becomes of them; "
            f"nothing of it was written\n  {listing}\n"
            "  Name each under privacy: drop, pseudonymise, coarsen, or keep if it harms nobody",
            {column: found[column] for column in open_},
        )


def set_key(db: duckdb.DuckDBPyConnection, key: bytes) -> None:
    """The connection knows HMAC's two pads, which the expressions name instead of holding them."""
    block = (hashlib.sha256(key).digest() if len(key) > BLOCK else key).ljust(BLOCK, b"\0")
    db.execute("SET VARIABLE inner_pad = ?", [bytes(b ^ 0x36 for b in block)])
    db.execute("SET VARIABLE outer_pad = ?", [bytes(b ^ 0x5C for b in block)])


def _expression(column: str, type_: str, guard: Guard, coarsen: Mapping[str, Coarsening]) -> str:
    value = _plain(engine.quoted(column), type_)
    if column in guard.pseudonymise:
        return _pseudonym(f"CAST({value} AS VARCHAR)")
    if column in coarsen:
        return _coarse(value, type_, coarsen[column], column)
    return value


def _pseudonym(text: str) -> str:
    """HMAC-SHA256 by its definition (RFC 2104): DuckDB has the hash, and vectorised."""
    inner = f"unhex(sha256(getvariable('inner_pad') || encode({text})))"
    return f"left(sha256(getvariable('outer_pad') || {inner}), {PSEUDONYM_LENGTH})"


def _coarse(value: str, type_: str, to: Coarsening, column: str) -> str:
    if isinstance(to, int):
        return f"left(CAST({value} AS VARCHAR), {to})"
    if not type_.startswith(("DATE", "TIMESTAMP")):
        raise DataError(
            f"privacy.coarsen: column {column!r} is {type_}, no date; give a number of characters to keep instead of {to!r}"
        )
    return f"CAST(date_trunc('{to}', {value}) AS DATE)"


def _plain(value: str, type_: str) -> str:
    """The value in the type that all sources share."""
    kind = type_.split("(")[0]
    match kind:
        case "TINYINT" | "SMALLINT" | "INTEGER" | "UTINYINT" | "USMALLINT" | "UINTEGER" | "UBIGINT" | "HUGEINT" | "UHUGEINT":
            return f"CAST({value} AS BIGINT)"
        case "DECIMAL" if type_.endswith(",0)"):
            return f"CAST({value} AS BIGINT)"
        case "FLOAT" | "DECIMAL":
            return f"CAST({value} AS DOUBLE)"
        case "TIMESTAMP WITH TIME ZONE" | "TIMESTAMPTZ_NS":
            return f"make_timestamp(epoch_us(CAST({value} AS TIMESTAMPTZ)))"
        case "TIMESTAMP_S" | "TIMESTAMP_MS" | "TIMESTAMP_NS":
            return f"CAST({value} AS TIMESTAMP)"
        case "BIGINT" | "DOUBLE" | "DATE" | "TIMESTAMP" | "BOOLEAN" | "VARCHAR":
            return value
        case "BLOB":
            return f"hex({value})"
        case _ if kind.startswith(("STRUCT", "MAP", "UNION", "LIST")) or type_.endswith("]"):
            return f"CAST(to_json({value}) AS VARCHAR)"
        case _:
            return f"CAST({value} AS VARCHAR)"


def content(parquet: Path) -> str:
    """A hash of the file's columns and rows, in hexadecimal, that does not depend on the rows' order."""
    with engine.connect() as db:
        relation = db.read_parquet(str(parquet), hive_partitioning=False)
        hashed = relation.aggregate(f"sum(hash({', '.join(map(engine.quoted, relation.columns))}))").fetchall()[0][0]
        told = f"{relation.columns} {list(map(str, relation.types))} {hashed}"
    return hashlib.sha256(told.encode()).hexdigest()[:32]

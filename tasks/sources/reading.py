"""Reads one file, whatever its format and packing, as a DuckDB relation: first as it stands, then in types found from all of it."""

import io
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TypeVar

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow_hotfix  # noqa: F401  closes CVE-2023-47248 in pyarrow 10: a crafted schema ran code when it was opened

from tasks.core.errors import DataError
from tasks.core.privacy import Guard
from tasks.engine import first_line, literal, quoted
from tasks.params import Reading
from tasks.sources import formats, packing, text
from tasks.sources.columns import Judge, Raw
from tasks.sources.dialect import Dialect, find_dialect, refuse_names
from tasks.sources.protect import DIGITS

LONGEST_LINE = 16_000_000  # bytes
BUFFER = 32_000_000  # bytes that DuckDB reads at a time, its own choice for lines of ordinary length
WIDEST = 38  # digits of DuckDB's decimals
T = TypeVar("T")
Element = tuple[str, int | None, int | None, int | None]  # of Parquet's schema: name, how many are in it, precision, scale


@contextmanager
def opened(
    where: str, how: Reading, path: Path, shown: str, spool: Path, db: duckdb.DuckDBPyConnection, guard: Guard
) -> Iterator[Raw]:
    """The file's rows, as they stand in it, for the length of the block; `shown` is its name, which may say what it holds."""
    with packing.unpacked(where, path, spool) as plain:
        match formats.find_format(where, plain, shown, how):
            case "csv":
                with text.in_utf8(where, plain, how.encoding, spool, guard) as utf8:
                    yield _with_rows(where, guard, _csv(where, utf8, how, db))
            case "json":
                with text.in_utf8(where, plain, how.encoding, spool, guard) as utf8:
                    yield _with_rows(where, guard, told(where, guard, lambda: _json(where, utf8, how, db)))
            case "parquet":
                raw = told(where, guard, lambda: _typed_already(_parquet(where, db, plain), how))
                yield _with_rows(where, guard, raw)
            case "arrow":
                with packing.spooled(where, spool, ()) as parquet:
                    _rewrite_arrow(where, plain, parquet)
                    yield _with_rows(where, guard, told(where, guard, lambda: _typed_already(_parquet(where, db, parquet), how)))


def typed(where: str, raw: Raw, how: Reading, guard: Guard) -> tuple[duckdb.DuckDBPyRelation, dict[str, str]]:
    """The rows with a type for each column, and which mark stands before decimals in those where one was found out."""
    judge = Judge(where, raw, how, guard)
    return told(where, guard, judge.typed), judge.styles


def told(where: str, guard: Guard, read: Callable[[], T]) -> T:
    """What `read` gives; what DuckDB cannot read a DataError says, without its words where they may quote a personal value."""
    try:
        return read()
    except duckdb.Error as error:
        raise DataError(f"{where} is not a table: {_said(str(error), guard)}") from error


def _said(error: str, guard: Guard) -> str:
    """The error in words of ours where it is one of a text's lines, which DuckDB would quote whole."""
    line = re.search(r"CSV Error on Line: (\d+)", error)
    if fields := re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", error):
        few = int(fields[2]) < int(fields[1])
        said = f"has {fields[2]} of the header's {fields[1]} fields" if few else f"has more fields than the header's {fields[1]}"
        cause = f"{said}; correct it, or name the delimiter:"
    elif "unterminated quote" in error:
        cause = "holds a quote that is not closed, or not doubled within a field; correct it"
    elif "Maximum line size" in error:
        cause = f"is longer than {LONGEST_LINE:,} bytes; is a quote not closed?"
    elif "state machine" in error:
        return "a quote is closed within a field, or the lines end in more than one way (CRLF, LF, CR); write the file anew"
    elif keys := re.search(r"the keys ('.*' and '.*') differ only in case", error):
        return f"its keys {keys[1]} differ only in case; expected each name once: rename one"
    elif "expected records" in error:
        return "its JSON holds no objects; expected one object for each row"
    elif json := re.search(r"(?:in line|in record/value) (\d+)", error):
        what = re.search(r"in (?:line|record/value) \d+: ([a-z ]+)", error)
        duplicate = re.search(r'has duplicate key ("[^"]*")', error)
        cause = f"a key twice, {duplicate[1]}" if duplicate else what[1].strip() if what else "it cannot be read"
        return f"line or record {json[1]} is broken JSON: {cause}; correct it"
    else:
        cause = "cannot be read"
        if not line:
            return "it cannot be read" if guard.changes else first_line(duckdb.Error(error))
    return f"line {line[1]} {cause}" if line else f"a line {cause}"


def _with_rows(where: str, guard: Guard, raw: Raw) -> Raw:
    if not told(where, guard, lambda: raw.relation.limit(1).fetchall()):
        raise DataError(f"{where} has a header and no row; expected at least one")
    return raw


def _csv(where: str, path: Path, how: Reading, db: duckdb.DuckDBPyConnection) -> Raw:
    """Every field as text. Nothing is left to DuckDB's own guesses, which may skip lines or change with their number."""
    found: Dialect = find_dialect(where, path, how.delimiter)
    columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in found.header)
    missing = ", ".join(map(literal, ("", *how.missing)))
    relation = db.sql(
        f"SELECT * FROM read_csv({literal(_literal(path))}, auto_detect = false, header = true, columns = {{{columns}}}, "
        f"delim = {literal(found.delimiter)}, quote = {literal(found.quote)}, escape = {literal(found.escape)}, "
        f"nullstr = [{missing}], skip = {found.skip}, strict_mode = true, max_line_size = {LONGEST_LINE}, buffer_size = {BUFFER}, "
        "compression = 'none', hive_partitioning = false)"
    )
    return Raw(relation, found.header)


def _json(where: str, path: Path, how: Reading, db: duckdb.DuckDBPyConnection) -> Raw:
    """Every value as text, objects and lists in JSON; strings are never taken for numbers, as their writer told the two apart."""
    with path.open("rb") as file:
        array = file.read(1 << 16).lstrip().startswith(b"[")
    relation = db.read_json(
        _literal(path),
        format="array" if array else "newline_delimited",
        sample_size=-1,
        maximum_depth=1,
        records="true",
        compression="none",
        hive_partitioning=False,
    )
    if set(map(str, relation.types)) != {"JSON"}:
        raise DataError(f"{where} is not a table: its JSON holds no objects; expected one object for each row")
    kinds = _kinds(relation)
    missing = ", ".join(map(literal, how.missing))
    values = {name: f"({quoted(name)}->>'$')" for name in relation.columns}
    if missing:
        values = {name: f"CASE WHEN {value} NOT IN ({missing}) THEN {value} END" for name, value in values.items()}
    text_of = relation.select(", ".join(f"{value} AS {quoted(name)}" for name, value in values.items()))
    strings = frozenset(name for name, kind in kinds.items() if kind == {"VARCHAR"} and name not in how.types)
    return Raw(text_of, tuple(name for name, kind in kinds.items() if not kind & {"OBJECT", "ARRAY"}), strings)


def _kinds(relation: duckdb.DuckDBPyRelation) -> dict[str, set[str]]:
    """What kinds of JSON's values stand in each column, null aside."""
    counts = [f"list(DISTINCT json_type({quoted(name)}))" for name in relation.columns]
    row = relation.aggregate(", ".join(counts)).fetchall()[0]
    return {name: set(kinds or ()) - {"NULL", None} for name, kinds in zip(relation.columns, row, strict=True)}


def _parquet(where: str, db: duckdb.DuckDBPyConnection, path: Path) -> duckdb.DuckDBPyRelation:
    """The file's own columns: a folder called `a=1` on the way to it would add to them, or take their place."""
    schema = db.sql(f"SELECT name, num_children, precision, scale FROM parquet_schema({literal(_literal(path))})")
    top = _top(schema.fetchall())
    refuse_names(where, [name for name, *_ in top], "it")
    relation = db.read_parquet(_literal(path), hive_partitioning=False)
    for name, _, precision, scale in top:
        if precision is not None and precision > WIDEST:
            _refuse_rounded(where, relation, str(name), int(precision), int(scale or 0))
    return relation


def _refuse_rounded(where: str, relation: duckdb.DuckDBPyRelation, name: str, precision: int, scale: int) -> None:
    """DataError for decimals that are wider than any that DuckDB has, and which it gives rounded."""
    large = relation.filter(f"abs({quoted(name)}) >= 1e{DIGITS - scale}").limit(1).fetchall()
    if large:
        raise DataError(
            f"{where}: column {name!r} is decimal({precision},{scale}) and holds more digits than can be read; "
            f"write it with a precision of at most {WIDEST}, or as text"
        )


def _top(elements: list[Element]) -> list[Element]:
    """The columns of Parquet's schema, which is a tree written from its root on."""
    columns = []
    inside = [elements[0][1] or 0]  # elements that are still to come, at each depth
    for element in elements[1:]:
        if len(inside) == 1:
            columns.append(element)
        inside[-1] -= 1
        inside.append(element[1] or 0)
        while inside and not inside[-1]:
            inside.pop()
    return columns


def _typed_already(relation: duckdb.DuckDBPyRelation, how: Reading) -> Raw:
    """Columns as their file says; those that params.yaml gives a type as text, to be judged by their values."""
    columns = dict(zip(relation.columns, map(str, relation.types), strict=True))
    missing = ", ".join(map(literal, how.missing))
    selected = []
    for name, type_ in columns.items():
        value = quoted(name)
        if name in how.types:
            value = f"CAST({value} AS VARCHAR)"
        if missing and (type_ == "VARCHAR" or name in how.types):
            value = f"CASE WHEN {value} NOT IN ({missing}) THEN {value} END"
        elif words := [word for word in how.missing if _is_of(word, type_)]:
            others = (f"{value} IS DISTINCT FROM TRY_CAST({literal(word)} AS {type_})" for word in words)
            value = f"CASE WHEN {' AND '.join(others)} THEN {value} END"
        selected.append(f"{value} AS {quoted(name)}")
    texts = [name for name, type_ in columns.items() if type_ == "VARCHAR"] if how.dates or how.decimal else []
    judged = dict.fromkeys([*(name for name in columns if name in how.types), *texts])
    return Raw(relation.select(", ".join(selected)), tuple(judged))


def _is_of(word: str, type_: str) -> bool:
    """Whether the word may be a value of the type, which is not rounded to be one."""
    if type_ == "BOOLEAN":
        return word.lower() in ("true", "false")
    if type_.startswith(("DATE", "TIME")):
        return True  # what is none is cast to NULL
    decimal = re.fullmatch(r"DECIMAL\([0-9]+,([0-9]+)\)", type_)
    try:
        number = Decimal(word.strip())
        if decimal or type_.endswith(("INT", "INTEGER")):
            return number.is_finite() and number == round(number, int(decimal[1]) if decimal else 0)
    except InvalidOperation:
        return False
    return type_ in ("FLOAT", "DOUBLE")


def _rewrite_arrow(where: str, path: Path, parquet: Path) -> None:
    """Arrow's batches, in the order of the file, as Parquet, which can be read more than once."""
    try:
        with pa.memory_map(str(path)) as file:
            if file.read(6) == b"ARROW1":
                whole = pa.ipc.open_file(file)
                batches = (whole.get_batch(number) for number in range(whole.num_record_batches))
                _write_batches(where, batches, whole.schema, parquet)
            else:
                file.seek(0)
                stream = pa.ipc.open_stream(file)
                _write_batches(where, stream, stream.schema, parquet)
    except (pa.ArrowException, ValueError, OSError, RuntimeError) as error:  # the hotfix raises the last
        raise DataError(
            f"{where} is not whole Arrow IPC: {(str(error).splitlines() or ['cut off'])[0][:200]}; fetch it again"
        ) from error


def _write_batches(where: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema, parquet: Path) -> None:
    with ExitStack() as stack:
        try:
            writer = stack.enter_context(pq.ParquetWriter(parquet, schema, version="2.6"))  # 2.6 is the first with nanoseconds
        except (pa.ArrowException, OSError) as error:
            field = next((field for field in schema if not _has_counterpart(field)), None)
            if field is None:
                raise
            raise DataError(
                f"{where}: column {field.name!r} is of Arrow's kind {str(field.type)[:60]}, which is not read; "
                "write it as another one, float or text"
            ) from error
        for batch in batches:
            writer.write_table(pa.Table.from_batches([batch]))


def _has_counterpart(field: pa.Field) -> bool:
    """Whether Parquet has a type for it."""
    try:
        pq.ParquetWriter(io.BytesIO(), pa.schema([field])).close()
    except (pa.ArrowException, OSError):
        return False
    return True


def _literal(path: Path) -> str:
    """The path for DuckDB, which would take brackets, stars and question marks for a pattern."""
    return re.sub(r"([\[\]*?])", r"[\1]", str(path))

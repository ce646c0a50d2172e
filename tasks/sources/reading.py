"""Reads a file, whatever its format, as a DuckDB relation with types read from all of its values."""

import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import duckdb

from tasks.core.errors import DataError
from tasks.core.privacy import Guard
from tasks.engine import first_line
from tasks.params import FileSource, PackageSource

T = TypeVar("T")


@contextmanager
def opened(
    name: str, source: PackageSource | FileSource, path: Path, db: duckdb.DuckDBPyConnection, guard: Guard
) -> Iterator[duckdb.DuckDBPyRelation]:
    """The file's rows as a relation of the connection, for the length of the block."""
    with _plain(name, path) as csv:
        if csv.stat().st_size == 0:
            raise DataError(f"source {name!r}: {path} is empty (0 bytes); expected a header line and rows")
        relation = told(name, guard, lambda: _read(name, db, csv, source))
        if not relation.limit(1).fetchall():
            raise DataError(f"source {name!r}: {path} has a header and no row; expected at least one")
        yield relation


def told(name: str, guard: Guard, read: Callable[[], T]) -> T:
    """What `read` gives; what DuckDB cannot read a DataError says, without its words where they may quote a personal value."""
    try:
        return read()
    except duckdb.Error as error:
        line = re.search(r"[Ll]ine:? (\d+)", str(error))
        said = first_line(error) if not guard.changes else f"line {line[1]} cannot be read" if line else "it cannot be read"
        raise DataError(f"source {name!r}: not a table: {said}") from error


def _read(name: str, db: duckdb.DuckDBPyConnection, csv: Path, source: PackageSource | FileSource) -> duckdb.DuckDBPyRelation:
    check_header(name, db, csv)
    return db.read_csv(_literal(csv), header=True, na_values=["", *source.missing], sample_size=-1)


def check_header(name: str, db: duckdb.DuckDBPyConnection, csv: Path) -> None:
    """DataError when two columns have one name: DuckDB would number them, and a query would take the first."""
    header = db.read_csv(_literal(csv), header=False, all_varchar=True).limit(1).fetchall()[0]
    if twice := sorted({word for word in header if word and header.count(word) > 1}):
        raise DataError(f"source {name!r}: its header names the columns {twice} more than once; expected each name once")


def _literal(path: Path) -> str:
    """The path for DuckDB, which would take brackets, stars and question marks for a pattern."""
    return re.sub(r"([\[\]*?])", r"[\1]", str(path))


@contextmanager
def _plain(name: str, path: Path) -> Iterator[Path]:
    """The file itself, or the only member of a zip, unpacked for as long as it is needed (DuckDB reads gzip by itself)."""
    if not zipfile.is_zipfile(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        if len(members) != 1:
            raise DataError(f"source {name!r}: {path} holds {len(members)} files; expected a zip of exactly one")
        target = Path(folder) / "member.csv"
        try:
            with archive.open(members[0]) as packed, target.open("wb") as plain:
                shutil.copyfileobj(packed, plain)
        except (zlib.error, zipfile.BadZipFile, RuntimeError, EOFError) as error:
            raise DataError(f"source {name!r}: {path} cannot be unpacked: {error}") from error
        yield target

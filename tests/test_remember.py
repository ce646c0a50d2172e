"""What of the last release is kept for the next table to be held against."""

import json
import shutil
from pathlib import Path

import pytest

from tasks.releases import ReleaseError, open_releases
from tasks.remember import RELEASED, remember
from tasks.stage import content_hash
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def params(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)


def record(workspace: Path, table: str) -> None:
    """DVC has made the table of that hash."""
    (workspace / "dvc.lock").write_text(f"schema: '2.0'\nstages:\n  ingest:\n    outs:\n    - path: data/raw\n      md5: {table}\n")


def release(workspace: Path, version: str, table: str) -> None:
    """The version, which learned on the table of that hash, is in production."""
    bundle, releases = workspace / version, open_releases(workspace)
    bundle.mkdir()
    (bundle / "reference.pb").write_bytes(f"statistics of {table}".encode())
    (bundle / "lineage.json").write_text(json.dumps({"stages": {"ingest": {"data/raw": table}}}))
    files = {path.name: {"sha256": content_hash(path)} for path in bundle.iterdir()}
    (bundle / "manifest.json").write_text(json.dumps({"name": "n", "version": version, "chosen": "c", "files": files}))
    releases.put(bundle)
    now, tag = releases.channel("production") or (None, None)
    releases.promote(version, tag, now=now, by="a test", why="")


def remembered(workspace: Path) -> str:
    return (workspace / RELEASED).read_bytes().decode()


def test_before_the_first_release_there_is_nothing(tmp_path: Path) -> None:
    record(tmp_path, "a")
    assert remember(tmp_path) is None
    assert remembered(tmp_path) == ""


def test_table_that_is_new_is_held_against_the_release(tmp_path: Path) -> None:
    record(tmp_path, "a")
    remember(tmp_path)
    release(tmp_path, "1", "a")
    record(tmp_path, "b")
    assert remember(tmp_path) == "1"
    assert remembered(tmp_path) == "statistics of a"
    assert remember(tmp_path) is None


def test_run_with_nothing_new_leaves_the_file_untouched(tmp_path: Path) -> None:
    record(tmp_path, "a")
    remember(tmp_path)
    release(tmp_path, "1", "a")
    before = (tmp_path / RELEASED).stat()
    assert remember(tmp_path) is None
    after = (tmp_path / RELEASED).stat()
    assert (remembered(tmp_path), after.st_mtime_ns, after.st_ino) == ("", before.st_mtime_ns, before.st_ino)


def test_each_new_table_is_held_against_the_release_before_it(tmp_path: Path) -> None:
    release(tmp_path, "1", "a")
    record(tmp_path, "b")
    remember(tmp_path)
    release(tmp_path, "2", "b")
    assert remember(tmp_path) is None
    assert remembered(tmp_path) == "statistics of a"
    record(tmp_path, "c")
    assert remember(tmp_path) == "2"
    assert remembered(tmp_path) == "statistics of b"


def test_release_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    release(tmp_path, "1", "a")
    record(tmp_path, "b")
    (tmp_path / "releases/1/reference.pb").unlink()
    with pytest.raises(ReleaseError, match=r"reference\.pb is missing; publish the version again"):
        remember(tmp_path)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("releases/channels/production.json", "cannot be read"),
        ("releases/1/manifest.json", "cannot be read"),
        ("releases/1/lineage.json", "is not what the manifest says"),
    ],
)
def test_record_of_a_release_that_cannot_be_read_is_refused(tmp_path: Path, path: str, words: str) -> None:
    release(tmp_path, "1", "a")
    record(tmp_path, "b")
    (tmp_path / path).write_text("{not json")
    with pytest.raises(ReleaseError, match=words):
        remember(tmp_path)
    assert not (tmp_path / RELEASED).exists()


def test_workspace_that_dvc_knows_nothing_of_has_nothing_to_compare(tmp_path: Path) -> None:
    release(tmp_path, "1", "a")
    assert remember(tmp_path) is None
    assert remembered(tmp_path) == ""

"""What a push writes into .dvc/config, which a colleague's clone pulls by."""

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.core.errors import TidemillError
from tasks.push import has_remote, set_remote


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    subprocess.run(["git", "init", "-q"], cwd=tmp_path / "work", check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=tmp_path / "work", check=True)
    return tmp_path / "work"


def test_remote_is_written_once_and_follows_params(workspace: Path) -> None:
    config = workspace / ".dvc/config"
    assert not has_remote(workspace)
    assert set_remote(workspace, "../far", None) == "release"
    assert has_remote(workspace)
    assert "url = ../../far" in config.read_text()  # from where the file is
    before = config.stat()
    assert set_remote(workspace, "../far", None) == "release"
    assert config.stat().st_mtime_ns == before.st_mtime_ns
    set_remote(workspace, "s3://bucket/x", "alias/mill")
    text = config.read_text()
    assert all(line in text for line in ("url = s3://bucket/x", "sse = aws:kms", "sse_kms_key_id = alias/mill"))
    assert "far" not in text
    set_remote(workspace, "s3://bucket/x", None)
    assert "sse" not in config.read_text()


def test_remote_of_the_users_own_keeps_its_name_and_settings(workspace: Path) -> None:
    config = workspace / ".dvc/config"
    config.write_text("['remote \"ours\"']\n    url = s3://bucket/x\n    endpointurl = https://s3.example.com\n")
    config.write_text(config.read_text() + "    sse = AES256\n")
    assert set_remote(workspace, "s3://bucket/x", None) == "ours"
    assert "sse = AES256" in config.read_text()
    assert set_remote(workspace, "s3://bucket/x", "alias/mill") == "ours"
    text = config.read_text()
    assert all(line in text for line in ("remote = ours", "endpointurl = https://s3.example.com", "sse_kms_key_id = alias/mill"))


def test_remote_that_dvc_does_not_know_is_refused(workspace: Path) -> None:
    before = (workspace / ".dvc/config").read_text()
    with pytest.raises(TidemillError, match=r"release\.remote 'nonsense://x'"):
        set_remote(workspace, "nonsense://x", None)
    assert (workspace / ".dvc/config").read_text() == before

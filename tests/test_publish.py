"""A colleague's fresh clone of a workspace whose data and models lie in S3: the same model, and nothing to compute."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flows.train import STAGES
from tasks.stage import content_hash
from tests.conftest import Workspace, free_port, states
from tests.s3 import S3, serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with serving() as s3:
        client = s3.client()
        client.create_bucket(Bucket="mill")
        client.close()
        yield s3


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com"]
    return subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def published(trained: Workspace, s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace that released to S3, with all that git shall hold of it committed; not to be changed."""
    here = Workspace(tmp_path_factory.mktemp("published") / "small", {**trained.environment, **s3.environment})
    shutil.copytree(trained.path, here.path, symlinks=True)
    ignored = here.path / ".gitignore"
    ignored.write_text(ignored.read_text() + "!/data/released.pb\n")
    here.set("release.store=s3://mill/releases", "release.remote=s3://mill/dvc", "release.kms_key=alias/mill")
    done = here.train()
    assert done.returncode == 0, done.stdout + done.stderr
    assert states(done.stdout) == dict.fromkeys(STAGES, "Cached")
    git(here.path, "add", "-A")
    git(here.path, "commit", "-q", "-m", "Release")
    return here


def clone(published: Workspace, folder: Path) -> Workspace:
    """What git holds of the workspace; the sources are at the same place beside it, as a database would be."""
    git(published.path.parent, "clone", "-q", str(published.path), str(folder))
    shutil.copytree(published.path / "sources", folder / "sources")
    return replace(published, path=folder)


def test_fresh_clone_has_the_same_model_and_nothing_to_do(published: Workspace, tmp_path: Path, s3: S3) -> None:
    tracked = git(published.path, "ls-files").split()
    assert {"params.yaml", "dvc.yaml", "dvc.lock", "sources.lock", "data/schema.pbtxt", "data/released.pb"} <= set(tracked)
    config = (published.path / ".dvc/config").read_text()
    assert "url = s3://mill/dvc" in config
    client = s3.client()
    pushed = [one["Key"] for one in client.list_objects_v2(Bucket="mill", Prefix="dvc/files/")["Contents"]]
    assert {client.head_object(Bucket="mill", Key=key)["SSEKMSKeyId"] for key in pushed} == {"alias/mill"}
    client.close()
    assert not any(secret in config for secret in s3.environment.values() if len(secret) > 15)

    colleague = clone(published, tmp_path / "colleague")
    pulled = colleague.run("-m", "dvc", "pull")
    assert pulled.returncode == 0, pulled.stderr
    assert content_hash(colleague.path / "models/release") == content_hash(published.path / "models/release")
    done = colleague.train()
    assert done.returncode == 0, done.stdout + done.stderr
    assert states(done.stdout) == dict.fromkeys(STAGES, "Cached")
    assert "publish: Cached" in done.stdout
    assert colleague.run("-m", "dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    assert git(colleague.path, "status", "--porcelain") == ""

    version = json.loads((colleague.path / "models/release/manifest.json").read_text())["version"]
    for flags in (["--bundle", "models/release"], ["--store", "s3://mill/releases"]):
        with colleague.start("-m", "serving", *flags, "--port", str(free_port())) as service:
            try:
                assert service.stdout
                assert any(version in line for line in service.stdout)  # until it ends, were there none
            finally:
                service.terminate()


def test_fresh_worker_restores_every_stage_from_the_remote(published: Workspace, tmp_path: Path) -> None:
    worker = clone(published, tmp_path / "worker")
    done = worker.train()
    assert done.returncode == 0, done.stdout + done.stderr
    assert states(done.stdout) == dict.fromkeys(STAGES, "Restored")
    assert content_hash(worker.path / "models/release") == content_hash(published.path / "models/release")


def test_remote_that_does_not_answer_releases_nothing(workspace: Workspace, s3: S3) -> None:
    here = replace(workspace, environment={**workspace.environment, **s3.environment, "AWS_SECRET_ACCESS_KEY": "hunter2hunter2"})
    before = content_hash(here.path / "releases")
    done = here.train("--set", "release.remote=s3://mill/dvc")
    assert done.returncode == 1
    assert "dvc push to s3://mill/dvc failed" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert content_hash(here.path / "releases") == before

"""`python -m flows.rollout`: which release is served, by hand; and what the flow's publish makes of it."""

import fcntl
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.rollout import main
from tasks.params import Params, with_values
from tasks.publish import put
from tasks.releases import Releases, open_releases
from tests.conftest import ROOT
from tests.core.test_signature import KEY, PUBLIC, new_key
from tests.test_releases import bundle, sha256

Said = Callable[..., tuple[int, str, str]]


def lineage(weights: str, auc: float) -> dict[str, Any]:
    figures = {"auc": {"value": auc}, "log_loss": {"value": 0.5}}
    return {
        "git": {"revision": f"rev {weights}", "changed": []},
        "snapshot": {"rows": 100, "sources": {"a": {"sha256": f"of {weights}"}}},
        "params": {"seed": 1, "train": {"epochs": len(weights)}},
        "quality": {"task": "binary", "candidates": {"student": figures}},
    }


def make_release(workspace: Path, weights: str, auc: float = 0.7) -> str:
    """models/release holds a bundle of these weights; returns its version."""
    folder = workspace / "models/release"
    shutil.rmtree(folder, ignore_errors=True)
    bundle(folder, weights)
    (folder / "lineage.json").write_text(json.dumps(lineage(weights, auc)))
    manifest = json.loads((folder / "manifest.json").read_text())
    content = (folder / "lineage.json").read_text()
    manifest["files"]["lineage.json"] = {"sha256": sha256(content), "bytes": len(content)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return str(manifest["version"])


def publish(workspace: Path) -> tuple[str, str, bool]:
    """The version that was made, the one that is served, and whether anything was done."""
    release, new = put(workspace, Params.load(workspace / "params.yaml").release)
    return release.version, release.served, new


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def change(workspace: Path, *settings: str) -> None:
    path = workspace / "params.yaml"
    path.write_text(with_values(path.read_text(), settings))


@pytest.fixture
def releases(workspace: Path) -> Releases:
    return open_releases(workspace)


@pytest.fixture
def said(workspace: Path, capsys: pytest.CaptureFixture[str]) -> Said:
    """Runs the command in the workspace; exit code, what it said, and what it said of errors."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([words[0], "--workspace", str(workspace), *words[1:]])
        return code, *capsys.readouterr()

    return run


def test_publish_releases_once_and_a_rollback_stands(workspace: Path, said: Said) -> None:
    one = make_release(workspace, "one")
    assert publish(workspace) == (one, one, True)
    assert publish(workspace) == (one, one, False)
    two = make_release(workspace, "two!")
    assert publish(workspace) == (two, two, True)

    code, out, _ = said("rollback", "--why", "it was late too often")
    assert (code, out) == (0, f"production serves mill {one} (student); before it, {two}\n")
    assert publish(workspace) == (two, one, False)  # the next run, with nothing new, does not bring it back
    three = make_release(workspace, "three")
    assert publish(workspace) == (three, three, True)
    make_release(workspace, "one")  # params as they once were
    assert publish(workspace) == (one, one, True)

    code, out, _ = said("history", "--json")
    moves = [(move["version"], move["why"]) for move in json.loads(out)]
    usual = "released by python -m flows.train"
    assert moves == [(one, usual), (three, usual), (one, "it was late too often"), (two, usual), (one, usual)]


def test_rollback_takes_less_than_a_minute_and_verifies_first(workspace: Path, releases: Releases, said: Said) -> None:
    one, two = make_release(workspace, "one"), ""
    publish(workspace)
    code, _, err = said("rollback")
    assert (code, "production served nothing before" in err) == (1, True)
    two = make_release(workspace, "two")
    publish(workspace)
    weights = workspace / "releases" / one / "model.tflite"
    weights.write_text("0ne")
    code, _, err = said("rollback")
    assert code == 1
    assert err.startswith("error: ")
    assert "model.tflite has changed" in err
    found = releases.channel("production")
    assert found
    assert found[0].version == two
    weights.write_text("one")
    started = time.monotonic()
    assert said("rollback")[0] == 0
    assert time.monotonic() - started < 60
    assert (workspace / "releases" / one / "model.tflite").read_text() == "one"
    assert said("rollback")[1] == f"production serves mill {two} (student); before it, {one}\n"


def test_canary_and_shadow_open_and_end(workspace: Path, releases: Releases, said: Said) -> None:
    one = make_release(workspace, "one")
    code, _, err = said("canary", "production")
    assert (code, "production serves nothing" in err) == (2, True)
    publish(workspace)
    two = releases.put(bundle(workspace / "two", "two"))
    assert said("canary", one)[0] == 1
    code, out, _ = said("canary", two[:5], "--header", "X-Canary: yes")
    assert (code, out) == (0, f"canary serves mill {two} (student); 0.1 of the requests, and those with 'x-canary: yes'\n")
    canary = releases.channel("canary")
    assert canary
    assert canary[0].rule == {"requests": 500, "minutes": 10.0, "errors": 0.01, "latency": 1.5, "shift": 0.1}
    assert said("canary", two, "--share", "0.5")[0] == 0  # again, with more
    document = json.loads(said("shadow", two, "--json")[1])
    assert (document["channel"], document["share"], document["rule"]) == ("shadow", 1.0, None)
    assert said("close", "shadow")[1] == "shadow is closed\n"
    code, _, err = said("close", "shadow")
    assert (code, err) == (1, "error: shadow serves nothing already\n")
    assert said("promote", "canary")[0] == 0
    assert releases.channel("canary") is None
    found = releases.channel("production")
    assert found
    assert (found[0].version, found[0].previous) == (two, one)


@pytest.mark.parametrize(
    "words",
    [
        ["canary", "abc", "--share", "0"],
        ["canary", "abc", "--share", "1.5"],
        ["canary", "abc", "--share", "nan"],
        ["canary", "abc", "--header", "no colon"],
        ["canary", "abc", "--header", "a: b\nc: d"],
        ["close", "production"],
        ["history", "--most", "0"],
        ["explode"],
    ],
)
def test_flags_out_of_bounds_are_refused(workspace: Path, words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([words[0], "--workspace", str(workspace), *words[1:]])
    assert ended.value.code == 2


def test_version_that_is_none_is_refused_with_those_that_are(workspace: Path, said: Said) -> None:
    code, _, err = said("promote", "abc")
    assert (code, "'abc' is no version; expected one of: none" in err) == (2, True)
    one = make_release(workspace, "one")
    publish(workspace)
    code, _, err = said("promote", "zzz")
    assert (code, err) == (2, f"error: 'zzz' is no version; expected one of: {one}\n")
    change(workspace, "release.store=s3://")
    code, _, err = said("list")
    assert (code, "release: store 's3://' is no place to release to" in err) == (2, True)


def test_list_and_diff_tell_versions_apart(workspace: Path, said: Said) -> None:
    one = make_release(workspace, "one", 0.7)
    publish(workspace)
    two = make_release(workspace, "other", 0.71)
    publish(workspace)
    listed = {row["version"]: row for row in json.loads(said("list", "--json")[1])}
    assert set(listed) == {one, two}
    assert listed[two]["metrics"] == {"auc": 0.71, "log_loss": 0.5}
    assert (listed[two]["channels"], listed[one]["channels"]) == (["production"], [])
    assert (listed[two]["network_bytes"], listed[two]["signed"]) == (5, False)
    code, out, _ = said("list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["version", two, one, "2"]
    assert "0.7100" in out

    document = json.loads(said("diff", one, "production", "--json")[1])
    found = {(row["of"], row["what"]): (row["before"], row["after"]) for row in document["differences"]}
    assert found["code", "git revision"] == ("rev one", "rev other")
    assert found["data", "sources.a.sha256"] == ("of one", "of other")
    assert found["params", "train.epochs"] == (3, 5)
    assert found["metrics", "auc"] == (0.7, 0.71)
    assert found["size", "network, bytes"] == (3, 5)
    assert ("params", "seed") not in found
    assert ("data", "rows") not in found
    assert "train.epochs" in said("diff", one, two)[1]


def test_only_signed_releases_are_rolled_out_where_a_key_is_trusted(
    workspace: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make_release(workspace, "one")
    publish(workspace)
    (workspace / "release.pub").write_bytes(PUBLIC)
    monkeypatch.setenv("MILL_KEY", KEY.decode())
    change(workspace, "release.sign=env:MILL_KEY", "release.verify=release.pub")
    assert publish(workspace) == (one, one, True)  # it gets a signature, and no second one
    assert publish(workspace) == (one, one, False)
    monkeypatch.delenv("MILL_KEY")
    assert publish(workspace) == (one, one, False)  # as in a colleague's clone, who has no key
    assert json.loads(said("list", "--json")[1])[0]["signed"]

    two = make_release(workspace, "two")
    with pytest.raises(Exception, match="the environment variable MILL_KEY is not set"):
        publish(workspace)
    monkeypatch.setenv("MILL_KEY", new_key().decode())
    with pytest.raises(Exception, match=r"release\.verify is not the public key of release\.sign"):
        publish(workspace)
    monkeypatch.setenv("MILL_KEY", KEY.decode())
    assert publish(workspace) == (two, two, True)
    signature = workspace / "releases" / one / "model.sig"
    signature.unlink()
    code, _, err = said("rollback")
    assert (code, "is not signed" in err) == (1, True)
    shutil.copy(workspace / "releases" / two / "model.sig", signature)
    code, _, err = said("promote", one)
    assert (code, "was changed after it was signed" in err) == (1, True)
    assert KEY.decode().splitlines()[1] not in err


def test_lost_race_is_told_with_its_own_exit_code(workspace: Path, releases: Releases) -> None:
    """Another moves production between this one's look at it and its move."""
    make_release(workspace, "one")
    publish(workspace)
    two = releases.put(bundle(workspace / "two", "two"))
    channel = workspace / "releases/channels/production.json"
    command = [sys.executable, "-m", "flows.rollout", "promote", two, "--workspace", str(workspace)]
    with (workspace / "releases/.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        late = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        while len(releases.storage.keys("history/")) < 2:  # it has looked, and is about to move
            assert late.poll() is None
            time.sleep(0.01)
        channel.write_text(json.dumps({**json.loads(channel.read_text()), "by": "another"}))
    _, err = late.communicate(timeout=60)
    assert (late.returncode, "production was moved by another meanwhile" in err) == (5, True), err
    assert json.loads(channel.read_text())["by"] == "another"
    assert len(releases.storage.keys("history/")) == 1

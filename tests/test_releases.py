"""The release store, in a folder and in S3: whole versions, one winner, a true history, whatever is killed or fails meanwhile."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tasks.cloud.storage import Conflict, Missing, Storage, StorageError, open_storage
from tasks.core.errors import TidemillError
from tasks.releases import CHANNELS, Channel, ReleaseError, Releases, open_releases
from tests.conftest import ROOT
from tests.s3 import S3, serving

NOW = timedelta(0)


@pytest.fixture(scope="module")
def service() -> Iterator[S3]:
    with serving() as s3:
        client = s3.client()
        client.create_bucket(Bucket="mill")
        client.close()
        yield s3


@pytest.fixture
def s3(service: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """The service, without a fault at first, and the environment of its user."""
    for name, value in service.environment.items():
        monkeypatch.setenv(name, value)
    yield service
    service.fault = lambda method, path: None


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place to store in, of both kinds."""
    if request.param == "folder":
        return str(tmp_path / "releases")
    request.getfixturevalue("s3")
    return f"s3://mill/{tmp_path.name}/releases"


@pytest.fixture
def storage(place: str) -> Storage:
    return open_storage(place)


@pytest.fixture
def releases(storage: Storage) -> Releases:
    return Releases(storage)


def bundle(folder: Path, weights: str) -> Path:
    """A bundle as export leaves it, of three files."""
    contents = {"model.tflite": weights, "lineage.json": json.dumps({"of": weights}), "saved_model/graph.pb": f"graph of {weights}"}
    for path, content in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    files = {path: {"sha256": sha256(content), "bytes": len(content)} for path, content in contents.items()}
    manifest = {"name": "mill", "version": sha256(weights)[:12], "chosen": "student", "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def versions(releases: Releases) -> list[str]:
    return [one.version for one in releases.versions()]


def production(releases: Releases) -> Channel:
    found = releases.channel("production")
    assert found
    return found[0]


def publish(releases: Releases, folder: Path) -> str:
    """As the flow does it: the bundle in the store, production on it, the rest swept."""
    version = releases.put(folder)
    now, tag = releases.channel("production") or (None, None)
    if now is None or now.version != version:
        releases.promote(version, tag, now=now, by="a test", why="released")
    return version


def start(code: str, *words: str | Path) -> subprocess.Popen[str]:
    """Python with the code, which may import what this file does."""
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_storage_keeps_its_conditions(storage: Storage) -> None:
    tag = storage.create("a/b.json", b"one")
    assert storage.read("a/b.json") == (b"one", tag)
    assert storage.create("a/b.json", b"one") == tag  # the same again is no conflict
    with pytest.raises(Conflict):
        storage.create("a/b.json", b"two")
    new = storage.replace("a/b.json", b"two", tag)
    assert storage.replace("a/b.json", b"two", tag) == new
    with pytest.raises(Conflict):
        storage.replace("a/b.json", b"three", tag)
    with pytest.raises(Conflict):
        storage.replace("a/none.json", b"three", tag)
    assert storage.read("a/b.json") == (b"two", new)
    storage.create("a/c/d", b"")
    assert storage.keys() == ["a/b.json", "a/c/d"]
    assert storage.keys("a/c") == ["a/c/d"]
    assert [entry.bytes for entry in storage.entries("a/b")] == [3]
    storage.delete("a/b.json")
    storage.delete("a/b.json")
    assert storage.keys() == ["a/c/d"]
    with pytest.raises(Missing):
        storage.read("a/b.json")
    for key in ("../x", "a//b", "/etc/passwd", "a/../../b", "", "a\nb"):
        with pytest.raises(StorageError, match="is no key"):
            storage.create(key, b"x")


def test_large_file_goes_up_and_down_in_pieces(storage: Storage, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        for i in range(40):
            file.write(bytes([i]) * 1_000_000)
    tag = storage.create("large", source)
    assert storage.download("large", target) == tag
    assert target.read_bytes() == source.read_bytes()
    assert storage.create("large", source) == tag
    with pytest.raises(Missing):
        storage.download("none", target)


def test_version_is_put_whole_and_fetched_whole(releases: Releases, tmp_path: Path) -> None:
    version = releases.put(bundle(tmp_path / "b", "one"))
    assert releases.put(tmp_path / "b") == version
    assert versions(releases) == [version]
    home = releases.fetch(version, tmp_path / "into")
    assert (home / "saved_model/graph.pb").read_text() == "graph of one"
    assert releases.fetch(version, tmp_path / "into") == home
    assert releases.read(version, "model.tflite") == b"one"
    with pytest.raises(ReleaseError, match="holds no version abc"):
        releases.fetch("abc", tmp_path / "into")
    with pytest.raises(ReleaseError, match="is no version"):
        releases.fetch("../b", tmp_path / "into")


def test_file_that_is_not_what_the_manifest_says_is_refused(releases: Releases, storage: Storage, tmp_path: Path) -> None:
    version = releases.put(bundle(tmp_path / "b", "one"))
    key = f"{version}/model.tflite"
    storage.delete(key)
    with pytest.raises(ReleaseError, match=r"model\.tflite"):
        releases.fetch(version, tmp_path / "into")
    storage.create(key, b"two")
    with pytest.raises(ReleaseError, match=r"model\.tflite has changed"):
        releases.fetch(version, tmp_path / "into")
    with pytest.raises(ReleaseError, match="is not what the manifest says"):
        releases.read(version, "model.tflite")
    assert not list((tmp_path / "into").glob("*")) if (tmp_path / "into").exists() else True


def test_bundle_that_is_not_what_its_manifest_says_is_not_put(releases: Releases, tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b", "one")
    (folder / "model.tflite").write_text("two")
    with pytest.raises(ReleaseError, match=r"model\.tflite has changed"):
        releases.put(folder)
    manifest = json.loads((bundle(folder, "one") / "manifest.json").read_text())
    manifest["files"]["../outside"] = manifest["files"].pop("model.tflite")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ReleaseError, match="which is no file of a bundle"):
        releases.put(folder)
    assert releases.storage.keys() == []


def test_channels_move_and_history_tells(releases: Releases, tmp_path: Path) -> None:
    one, two = (releases.put(bundle(tmp_path / name, name)) for name in ("one", "two"))
    assert releases.channel("production") is None
    with pytest.raises(ReleaseError, match="holds no version 0123"):
        releases.move("production", Channel(name="mill", version="0123", chosen="student"), None)
    tag = releases.promote(one, None, now=None, by="ann", why="first")
    now = releases.channel("production")
    assert now
    assert now[1] == tag
    assert (now[0].version, now[0].previous, now[0].by) == (one, None, "ann")
    releases.promote(two, tag, now=now[0], by="bob", why="better")
    better = production(releases)
    assert (better.version, better.previous) == (two, one)
    for stale in (tag, None):
        with pytest.raises(Conflict, match="moved by another"):
            releases.promote(one, stale, now=now[0], by="late", why="late")

    rule = {"requests": 500, "errors": 0.01}
    opened = releases.move("canary", Channel(name="mill", version=one, chosen="student", share=0.1, rule=rule, by="ann"), None)
    canary = releases.channel("canary")
    assert canary
    assert (canary[0].share, canary[0].rule, canary[0].header) == (0.1, rule, None)
    releases.close("canary", opened, "the rule", "errors 0.2")
    assert releases.channel("canary") is None
    with pytest.raises(Conflict):
        releases.close("canary", opened, "the rule", "again")
    releases.move("canary", Channel(name="mill", version=one, chosen="student"), None)
    told = [(move.channel, move.version, move.why) for move in releases.history()]
    assert told == [
        ("canary", one, ""),
        ("canary", None, "errors 0.2"),
        ("canary", one, ""),
        ("production", two, "better"),
        ("production", one, "first"),
    ]
    assert len(releases.history(most=1)) == 2
    assert len(releases.storage.keys("history/")) == 5  # those who lost left nothing


RACE = """
import sys, time
from pathlib import Path
from tasks.cloud.storage import Conflict, open_storage
from tasks.releases import Releases
place, version, gate = sys.argv[1:]
releases = Releases(open_storage(place))
now, tag = releases.channel("production") or (None, None)
print("ready", flush=True)
while not Path(gate).exists():
    time.sleep(0.001)
try:
    releases.promote(version, tag, now=now, by=version, why="race")
    print("won")
except Conflict as error:
    print("lost" if "moved by another" in str(error) else error)
"""


@pytest.mark.parametrize("opened", [False, True])
def test_of_rollouts_at_once_exactly_one_wins(releases: Releases, place: str, tmp_path: Path, opened: bool) -> None:
    there = [releases.put(bundle(tmp_path / str(i), str(i))) for i in range(5)]
    if opened:
        releases.promote(there[0], None, now=None, by="before", why="before")
    racers = [start(RACE, place, version, tmp_path / "gate") for version in there[1:]]
    for racer in racers:
        assert racer.stdout
        assert racer.stdout.readline() == "ready\n"
    (tmp_path / "gate").touch()
    said = [racer.communicate(timeout=60) for racer in racers]
    outcomes = [out.strip() for out, _ in said]
    assert sorted(outcomes) == ["lost"] * 3 + ["won"], said
    assert production(releases).version == there[1:][outcomes.index("won")]
    assert [move.version for move in releases.history()] == [production(releases).version, *there[: int(opened)]]


# Killed at the n-th step that changes the store, before or after it: from outside, by what the storage is called with.
KILLED = """
import os, signal, sys
from pathlib import Path
from tasks.cloud import storage
from tasks.releases import Releases
place, folder, at, when = sys.argv[1:]
opened, steps = storage.open_storage(place), 0
def dying(method):
    def call(*words):
        global steps
        steps += 1
        if steps == int(at) and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        found = method(*words)
        if steps == int(at):
            os.kill(os.getpid(), signal.SIGKILL)
        return found
    return call
for name in ("create", "replace", "delete"):
    setattr(opened, name, dying(getattr(opened, name)))
if when == "within":
    os.fsync = lambda number: os.kill(os.getpid(), signal.SIGKILL)
releases = Releases(opened)
version = releases.put(Path(folder))
now, tag = releases.channel("production")
releases.promote(version, tag, now=now, by="killed", why="released")
"""


@pytest.mark.parametrize(
    ("place", "at", "when"),
    [
        *(("folder", *step) for step in [(1, "within"), (2, "before"), (3, "after"), (4, "after"), (5, "after"), (6, "after")]),
        *(("s3", *step) for step in [(3, "after"), (5, "after")]),
    ],
    indirect=["place"],
)
def test_publish_killed_anywhere_leaves_the_store_whole_and_the_next_cleans_up(
    releases: Releases, place: str, tmp_path: Path, at: int, when: str
) -> None:
    one = publish(releases, bundle(tmp_path / "one", "one"))
    killed = start(KILLED, place, bundle(tmp_path / "two", "two"), str(at), when)
    said = killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL, said
    two = sha256("two")[:12]
    done = (at, when) == (6, "after")  # three files, the manifest, the record of the move, and the move
    assert production(releases).version == (two if done else one)
    assert [move.version for move in releases.history()] == ([two, one] if done else [one])
    for version in versions(releases):
        releases.fetch(version, tmp_path / "into")
    assert (two in versions(releases)) == (at >= 4)

    if at < 4:
        assert releases.sweep() == []  # somebody may be at it still
        assert releases.sweep(NOW) == ([two] if at > 1 else [])
        assert not [key for key in releases.storage.keys() if key.startswith(two)]  # noqa: SIM118
    if place == str(tmp_path / "releases"):
        assert not [path for path in Path(place).rglob(".*.partial") if at < 4]
    assert publish(releases, tmp_path / "two") == two
    now = production(releases)
    assert (now.version, now.previous) == (two, one)
    assert [move.version for move in releases.history()] == [two, one]
    releases.fetch(two, tmp_path / "into")


@pytest.mark.parametrize("fault", ["500 after", "503 before"])
def test_answer_that_was_lost_changes_nothing(s3: S3, tmp_path: Path, fault: str) -> None:
    """Every third write is reported as failed, after it was done or before; with its second try, each comes to be one."""
    count = 0

    def every_third(method: str, path: str) -> str | None:
        nonlocal count
        count += method in ("PUT", "DELETE")
        return fault if method in ("PUT", "DELETE") and count % 3 == 0 else None

    s3.fault = every_third  # type: ignore[assignment]
    releases = open_releases(tmp_path, f"s3://mill/{tmp_path.name}")
    one = publish(releases, bundle(tmp_path / "one", "one"))
    two = publish(releases, bundle(tmp_path / "two", "two"))
    assert count > 16
    now = production(releases)
    assert (now.version, now.previous) == (two, one)
    assert [move.version for move in releases.history()] == [two, one]
    assert len(releases.storage.keys("history/")) == 2
    releases.fetch(two, tmp_path / "into")


def test_body_that_breaks_off_is_asked_for_again(s3: S3, tmp_path: Path) -> None:
    releases = open_releases(tmp_path, f"s3://mill/{tmp_path.name}")
    version = releases.put(bundle(tmp_path / "one", "one"))
    cut: list[str] = []

    def once(method: str, path: str) -> str | None:
        if method != "GET" or "list-type" in path or path in cut:
            return None
        cut.append(path)
        return "cut"

    s3.fault = once  # type: ignore[assignment]
    home = releases.fetch(version, tmp_path / "into")
    assert (home / "saved_model/graph.pb").read_text() == "graph of one"
    assert len(cut) == 5  # three files, the manifest, and that there is no signature


def test_service_that_fails_is_told_in_a_sentence_without_a_secret(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    releases = open_releases(tmp_path, "s3://trains/x")
    with pytest.raises(StorageError, match="there is no bucket 'trains'"):
        releases.channel("production")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")
    with pytest.raises(StorageError, match="refused") as refused:
        open_releases(tmp_path, "s3://mill/x").channel("production")
    assert "hunter2" not in str(refused.value)
    s3.fault = lambda method, path: "500 before"
    with pytest.raises(StorageError, match="the service answered"):
        open_releases(tmp_path, "s3://mill/x").channel("production")
    for wrong in ("s3://", "s3://a b", "gs://bucket/x"):
        with pytest.raises(StorageError, match="expected"):
            open_storage(wrong)


def test_service_that_does_not_keep_conditions_is_refused(s3: S3, tmp_path: Path) -> None:
    releases = open_releases(tmp_path, f"s3://mill/{tmp_path.name}")
    version = releases.put(bundle(tmp_path / "one", "one"))
    s3.fault = lambda method, path: "deaf" if method == "PUT" else None
    with pytest.raises(StorageError, match="does not keep conditional writes"):
        releases.promote(version, None, now=None, by="", why="")
    assert releases.channel("production") is None
    assert releases.history() == []


def test_key_of_kms_encrypts_what_is_written(s3: S3, tmp_path: Path) -> None:
    place = f"s3://mill/{tmp_path.name}"
    publish(Releases(open_storage(place, "alias/mill")), bundle(tmp_path / "one", "one"))
    client = s3.client()
    keys = [one["Key"] for one in client.list_objects_v2(Bucket="mill", Prefix=f"{tmp_path.name}/")["Contents"]]
    heads = [client.head_object(Bucket="mill", Key=key) for key in keys]
    client.close()
    assert len(keys) == 6
    assert {(head["ServerSideEncryption"], head["SSEKMSKeyId"]) for head in heads} == {("aws:kms", "alias/mill")}


def test_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    releases = open_releases(tmp_path)
    one = publish(releases, bundle(tmp_path / "one", "one"))
    code = (
        "import resource, sys; from pathlib import Path; from tests.test_releases import publish; import signal;"
        "from tasks.releases import open_releases; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000));"
        "publish(open_releases(Path(sys.argv[1])), Path(sys.argv[2]))"
    )
    limited = start(code, tmp_path, bundle(tmp_path / "two", "two" * 1000))
    _, said = limited.communicate(timeout=60)
    assert "StorageError: File too large: " in said
    assert production(releases).version == one
    assert versions(releases) == [one]
    assert not list((tmp_path / "releases").rglob(".*.partial"))


def test_retention_never_takes_what_a_channel_names(tmp_path: Path) -> None:
    releases, there = open_releases(tmp_path), []
    for i in range(7):
        there.append(releases.put(bundle(tmp_path / str(i), str(i))))
        time.sleep(0.01)
    tag = releases.promote(there[0], None, now=None, by="", why="")
    now = releases.channel("production")
    releases.promote(there[2], tag, now=now and now[0], by="", why="")
    releases.move("canary", Channel(name="mill", version=there[1], chosen="student", share=0.5), None)
    assert sorted(releases.retain(2)) == sorted(there[3:5])
    assert sorted(versions(releases)) == sorted([*there[:3], *there[5:]])
    assert releases.retain(2) == []
    for version in versions(releases):
        releases.fetch(version, tmp_path / "into")
    assert not [key for key in releases.storage.keys() if key.startswith(tuple(there[3:5]))]  # noqa: SIM118
    with pytest.raises(ReleaseError, match="holds no version"):
        releases.promote(there[3], tag, now=None, by="", why="")


def test_version_that_is_removed_while_it_is_promoted_is_not_served(tmp_path: Path) -> None:
    releases = open_releases(tmp_path)
    one, two = (releases.put(bundle(tmp_path / name, name)) for name in ("one", "two"))
    releases.promote(one, None, now=None, by="", why="")
    storage = releases.storage
    replace = storage.replace

    def removing(key: str, content: bytes, tag: str) -> str:
        storage.delete(f"{two}/manifest.json")
        return replace(key, content, tag)

    storage.replace = removing  # type: ignore[method-assign]
    now = releases.channel("production")
    assert now
    with pytest.raises(ReleaseError, match="was removed from"):
        releases.promote(two, now[1], now=now[0], by="", why="")
    assert production(releases).version == one


UNFIT = b'{"name": "mill", "version": 3, "chosen": "student"}'


@pytest.mark.parametrize("content", [b"[]", b"3", b"", b"{}", b'{"version": "1"}', b"\xff", UNFIT])
def test_channel_that_cannot_be_read_is_told(tmp_path: Path, content: bytes) -> None:
    releases = open_releases(tmp_path)
    releases.storage.create("channels/production.json", content)
    with pytest.raises(ReleaseError, match=r"production\.json"):
        releases.channel("production")
    with pytest.raises(ReleaseError, match="is no channel"):
        releases.channel("staging")
    assert CHANNELS == ("production", "canary", "shadow")
    assert issubclass(ReleaseError, TidemillError)


def test_processes_that_are_killed_hold_no_lock(tmp_path: Path) -> None:
    code = (
        "import fcntl, sys, time; lock = open(sys.argv[1], 'ab'); fcntl.flock(lock, fcntl.LOCK_EX);"
        "print('held', flush=True); time.sleep(60)"
    )
    releases = open_releases(tmp_path)
    releases.storage.create("a", b"one")
    holder = start(code, tmp_path / "releases/.lock")
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    releases.storage.replace("a", b"two", releases.storage.read("a")[1])
    assert releases.storage.read("a")[0] == b"two"

"""The release store: immutable versions, channels that say which of them is served, and the history of their moves.

<version>/...           a bundle; it is there once its manifest.json is, which is written last
channels/<name>.json    the version of the channel, moved by conditional write: of two moves at once one wins
history/<time>-<id>.json   one move each; each names the one before, and the channel the last one
"""

import getpass
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from tasks.cloud.storage import Conflict, Entry, Folder, Missing, Storage, StorageError, open_storage
from tasks.core.errors import TidemillError

CHANNELS = ("production", "canary", "shadow")
STORE = "releases"  # of a workspace, unless its params.yaml names another place
VERSION = re.compile(r"[0-9a-f]{1,64}")  # the hash of the content
MANIFEST, SIGNATURE = "manifest.json", "model.sig"
FETCHED = Path(".cache/releases")  # of a workspace: copies of what lies in a bucket
ABANDONED = timedelta(hours=1)  # since the last file of a version without a manifest came: nobody uploads it any more


class ReleaseError(TidemillError):
    """A release is not there, not whole, or not what it should be."""


class LostError(ReleaseError):
    """Another moved the channel first."""

    exit_code = 5


@dataclass(frozen=True, kw_only=True)
class Channel:
    """Which version a channel serves, since when, and why."""

    name: str  # the model's
    version: str
    chosen: str
    share: float = 1.0  # of the requests that a canary or shadow sees
    header: str | None = None  # "x-canary: yes": requests with it go to the canary, whatever the share
    rule: Mapping[str, float] | None = None  # a canary's: requests, minutes, errors, latency, shift
    by: str = ""
    why: str = ""
    previous: str | None = None  # the version before, which a rollback goes to
    withdrawn: str | None = None  # the version that a rollback took away, which no publish brings back
    since: str = ""  # ISO 8601, UTC; of the move, which sets it
    record: str = ""  # the key of the move in the history, likewise


@dataclass(frozen=True)
class Move:
    """A move of a channel that took effect; without a version the channel was closed."""

    channel: str
    version: str | None
    since: str
    by: str
    why: str


@dataclass(frozen=True)
class Stored:
    """A whole version of the store."""

    version: str
    bytes: int
    published: datetime  # UTC


def open_releases(workspace: Path, store: str = STORE, kms_key: str | None = None) -> "Releases":
    """The store, of whose places a folder is meant from the workspace."""
    return Releases(open_storage(store if "://" in store else workspace / store, kms_key))


@contextmanager
def telling() -> Iterator[None]:
    """What the store's place says against a command is told as any other error of it: 5 where another was first."""
    try:
        yield
    except Conflict as error:
        raise LostError(str(error)) from error
    except StorageError as error:
        raise ReleaseError(str(error)) from error


def who() -> str:
    """Who moves a channel: the user and the machine."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # of a container without names for its users
        return f"{os.getuid()}@{socket.gethostname()}"


class Releases:
    """The release store in a folder or bucket. StorageError when that does not answer, Conflict when another was first."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def channel(self, name: str) -> tuple[Channel, str] | None:
        """What the channel serves, with its tag for the next move; None where it was never opened or is closed."""
        found = self._document(name)
        if found is None or found[0]["version"] is None:
            return None
        document, tag = found
        known = {one.name for one in fields(Channel)}
        try:
            channel = Channel(**{key: value for key, value in document.items() if key in known})
            fits = VERSION.fullmatch(channel.version) and 0 < channel.share <= 1
        except TypeError:
            fits = None
        if not fits:
            where = f"{self.storage.place}/{_channel_key(name)}"
            raise ReleaseError(f"{where} is no channel; restore it, or delete it and promote a version")
        return channel, tag

    def production(self) -> tuple[Channel, str]:
        """What the channel production serves, with its tag; ReleaseError where it serves nothing."""
        if (found := self.channel("production")) is None:
            raise ReleaseError(
                f"{self.storage.place} has no release in production; `python -m flows.train` makes one, --store names another place"
            )
        return found

    def move(self, name: str, channel: Channel, tag: str | None) -> str:
        """The channel serves the version, and the history says so; returns the new tag.

        `tag` is that of what the channel served until now, None where nothing. Conflict when it serves another one by now, and
        ReleaseError when the version is not there; then all is as it was. Killed at any moment, both or neither took place.
        """
        self.manifest(channel.version)
        before = self._document(name)
        new = self._write(name, asdict(channel), tag, before)
        # retain takes a manifest away first and looks at the channels again after: of the two, one sees the other.
        if not self._has(channel.version):
            former = before[0] if before else {"version": None}
            with suppress(Conflict):
                self._write(name, {**former, "by": channel.by, "why": f"{channel.version} was removed"}, new, self._document(name))
            raise ReleaseError(f"{channel.version} was removed from {self.storage.place} meanwhile; choose another version")
        return new

    def promote(
        self, version: str, tag: str | None, *, now: Channel | None, by: str, why: str, withdrawn: str | None = None
    ) -> str:
        """Production, which serves `now` with that tag, serves the version, and a rollback goes to the one before. As move."""
        manifest, previous = self.manifest(version), None
        if now is not None:
            previous = now.previous if now.version == version else now.version
        moved = Channel(
            name=manifest["name"],
            version=version,
            chosen=manifest["chosen"],
            by=by,
            why=why,
            previous=previous,
            withdrawn=withdrawn,
        )
        return self.move("production", moved, tag)

    def close(self, name: str, tag: str, by: str, why: str) -> None:
        """The canary or shadow serves nothing any more; Conflict when it serves another version than that of the tag by now."""
        assert name != "production"
        self._write(name, {"version": None, "by": by, "why": why}, tag, self._document(name))

    def history(self, most: int | None = None) -> list[Move]:
        """The moves that took effect, newest first, at most so many of each channel.

        A record that no channel leads to is of a move that was killed or lost before it took effect, and is none.
        """
        moves = [move for name in CHANNELS for move in self._moves(name, most)]
        return sorted(moves, key=lambda move: move.since, reverse=True)

    def versions(self) -> list[Stored]:
        """Every whole version, the latest published first."""
        groups = self._groups()
        whole = [
            Stored(version, sum(entry.bytes for entry in group), manifest.modified)
            for version, group in groups.items()
            if (manifest := next((entry for entry in group if entry.key == f"{version}/{MANIFEST}"), None))
        ]
        return sorted(whole, key=lambda one: (one.published, one.version), reverse=True)

    def manifest(self, version: str) -> dict[str, Any]:
        """What the version's manifest says; ReleaseError when it is not there, or none."""
        if not VERSION.fullmatch(version):
            raise ReleaseError(f"{version!r} is no version; expected one of `python -m flows.rollout list`")
        where = f"{self.storage.place}/{version}/{MANIFEST}"
        try:
            return read_manifest(self.storage.read(f"{version}/{MANIFEST}")[0], where)
        except Missing:
            raise ReleaseError(
                f"{self.storage.place} holds no version {version}; `python -m flows.rollout list` names those that are there"
            ) from None

    def read(self, version: str, path: str) -> bytes:
        """The content of one file of the version, held against its hash in the manifest; ReleaseError when it is not that."""
        mark = self.manifest(version)["files"].get(path)
        where = f"{self.storage.place}/{version}/{path}"
        try:
            content, _ = self.storage.read(f"{version}/{path}")
        except Missing:
            raise ReleaseError(f"{where} is missing; publish the version again, or choose another one") from None
        if mark is None or hashlib.sha256(content).hexdigest() != mark["sha256"]:
            raise ReleaseError(f"{where} is not what the manifest says; publish the version again, or choose another one")
        return content

    def put(self, bundle: Path, signature: bytes | None = None) -> str:
        """The store holds the bundle as a version of its own, whole; returns that.

        The manifest is written last: of an upload that is killed nothing is there. A version that is there already stays as it is,
        but for the signature, which may come later or from another key. ReleaseError when the bundle is not what its manifest says.
        """
        manifest = verify_files(bundle)
        version = str(manifest["version"])
        if not VERSION.fullmatch(version):
            raise ReleaseError(f"{bundle} names version {version!r}; expected letters a to f and digits: run export again")
        if not self._has(version):
            for path in manifest["files"]:
                self._place(f"{version}/{path}", bundle / path)
            there = {entry.key: entry.bytes for entry in self.storage.entries(f"{version}/")}
            sizes = {f"{version}/{path}": (bundle / path).stat().st_size for path in manifest["files"]}
            if lacking := [key for key, size in sizes.items() if there.get(key) != size]:
                raise ReleaseError(f"{self.storage.place} lost {lacking[:3]} during the upload; publish again")
        if signature is not None:
            self._sign(f"{version}/{SIGNATURE}", signature)
        self._place(f"{version}/{MANIFEST}", bundle / MANIFEST)
        return version

    def is_signed(self, version: str, public_key: bytes | None) -> bool:
        """Whether the version is there and signed: where a public key is given, by its owner, over what the manifest says."""
        try:
            signature, _ = self.storage.read(f"{version}/{SIGNATURE}")
            content, _ = self.storage.read(f"{version}/{MANIFEST}")
        except Missing:
            return False
        if public_key is None:
            return True
        from tasks.core.signature import SignatureError, verify  # 0.1 s that a service without a key need not wait for

        files = {path: mark["sha256"] for path, mark in self.manifest(version)["files"].items()}
        try:
            verify(signature, public_key, {**files, MANIFEST: hashlib.sha256(content).hexdigest()})
        except SignatureError:
            return False
        return True

    def fetch(self, version: str, into: Path, public_key: bytes | None = None) -> Path:
        """A folder with the whole version, each file as its manifest says: in place in a folder's store, else below `into`.

        With a public key, in PEM, its signature is by that key and over the very files. ReleaseError otherwise.
        """
        self.manifest(version)
        if isinstance(self.storage, Folder):
            home = self.storage.path(version)
        else:
            home = into / version
            if not self._is_copy(version, home):
                home = self._download(version, into)
        verify_files(home)
        if public_key is not None:
            verify_signature(home, public_key)
        return home

    def sweep(self, older: timedelta = ABANDONED) -> list[str]:
        """What publishes that were killed that long ago left is gone; returns the versions that it was of."""
        before = datetime.now(UTC) - older
        self.storage.drop_unfinished(before)
        named, swept = self.named(), []
        for version, group in self._groups().items():
            whole = any(entry.key == f"{version}/{MANIFEST}" for entry in group)
            if not whole and version not in named and max(entry.modified for entry in group) < before:
                for entry in group:
                    self.storage.delete(entry.key)
                swept.append(version)
        return swept

    def retain(self, keep: int) -> list[str]:
        """The latest `keep` versions are there, and all that a channel serves or a rollback goes to; returns those that went."""
        gone = []
        for old in self.versions()[keep:]:
            key = f"{old.version}/{MANIFEST}"
            if old.version in self.named():
                continue
            content, _ = self.storage.read(key)
            self.storage.delete(key)
            if old.version in self.named():  # moved there meanwhile
                self.storage.create(key, content)
                continue
            for entry in self.storage.entries(f"{old.version}/"):
                self.storage.delete(entry.key)
            gone.append(old.version)
        return gone

    def named(self) -> set[str]:
        """Every version that a channel serves, and those that production was before."""
        channels = [found[0] for name in CHANNELS if (found := self.channel(name))]
        return {version for one in channels for version in (one.version, one.previous) if version}

    def _document(self, name: str) -> tuple[dict[str, Any], str] | None:
        """The channel's document, also of a closed one, and its tag; None when there was never one."""
        if name not in CHANNELS:
            raise ReleaseError(f"{name!r} is no channel; expected one of {list(CHANNELS)}")
        try:
            content, tag = self.storage.read(_channel_key(name))
        except Missing:
            return None
        return _parse(content, f"{self.storage.place}/{_channel_key(name)}", "version"), tag

    def _write(self, name: str, document: dict[str, Any], tag: str | None, before: tuple[dict[str, Any], str] | None) -> str:
        """The channel is the document; its record in the history, which it names, stands there first."""
        serves = before is not None and before[0]["version"] is not None
        if serves != (tag is not None) or (before and tag not in (None, before[1])):
            raise Conflict(f"{self.storage.place}: {name} was moved by another meanwhile; look at it and decide again")
        since = datetime.now(UTC)
        record = f"history/{since:%Y%m%dT%H%M%S.%fZ}-{uuid4().hex[:8]}.json"
        moved = {**document, "since": since.isoformat(timespec="milliseconds"), "record": record}
        after = before[0].get("record") if before else None
        self.storage.create(record, _json({"channel": name, "after": after, **moved}))
        try:
            if before:
                return self.storage.replace(_channel_key(name), _json(moved), before[1])
            return self.storage.create(_channel_key(name), _json(moved))
        except Conflict:
            self.storage.delete(record)
            raise Conflict(f"{self.storage.place}: {name} was moved by another meanwhile; look at it and decide again") from None

    def _moves(self, name: str, most: int | None) -> list[Move]:
        """The channel's moves that took effect, newest first, each found by the one after it."""
        found = self._document(name)
        key, moves = found[0].get("record") if found else None, list[Move]()
        while key and (most is None or len(moves) < most):
            try:
                document = _parse(self.storage.read(str(key))[0], f"{self.storage.place}/{key}", "version")
            except Missing:
                break  # of a history that somebody cut
            since, by, why = (str(document.get(word) or "") for word in ("since", "by", "why"))
            moves.append(Move(name, document["version"], since, by, why))
            key = document.get("after")
        return moves

    def _groups(self) -> dict[str, list[Entry]]:
        """What is there of each version, whole or not."""
        groups: dict[str, list[Entry]] = {}
        for entry in self.storage.entries():
            version, slash, _ = entry.key.partition("/")
            if slash and VERSION.fullmatch(version):
                groups.setdefault(version, []).append(entry)
        return groups

    def _has(self, version: str) -> bool:
        try:
            self.storage.read(f"{version}/{MANIFEST}")
        except Missing:
            return False
        return True

    def _place(self, key: str, file: Path) -> None:
        """The store holds the file under the key, over what an upload that was never finished may have left there."""
        try:
            self.storage.create(key, file)
        except Conflict:
            if key.endswith(f"/{MANIFEST}"):
                raise ReleaseError(f"{self.storage.place}/{key} is another one's; run export again") from None
            self.storage.delete(key)
            self.storage.create(key, file)

    def _sign(self, key: str, signature: bytes) -> None:
        try:
            found, tag = self.storage.read(key)
        except Missing:
            self.storage.create(key, signature)
        else:
            if found != signature:
                self.storage.replace(key, signature, tag)

    def _is_copy(self, version: str, home: Path) -> bool:
        """Whether the folder, of an earlier fetch, holds the version as it is in the store."""
        try:
            verify_files(home)
            if (home / MANIFEST).read_bytes() != self.storage.read(f"{version}/{MANIFEST}")[0]:
                return False
            with suppress(Missing):  # a signature may have come, or be another one
                signature, _ = self.storage.read(f"{version}/{SIGNATURE}")
                aside = home / f".{uuid4().hex}.partial"
                aside.write_bytes(signature)
                aside.replace(home / SIGNATURE)
        except (ReleaseError, OSError):
            return False
        return True

    def _download(self, version: str, into: Path) -> Path:
        """The version's files in a folder below `into`, which is there whole or not at all."""
        manifest = self.manifest(version)
        aside, home = into / f".{version}-{uuid4().hex[:8]}.partial", into / version
        try:
            aside.mkdir(parents=True)
            for path in manifest["files"]:
                (aside / path).parent.mkdir(parents=True, exist_ok=True)
                self.storage.download(f"{version}/{path}", aside / path)
            with suppress(Missing):
                self.storage.download(f"{version}/{SIGNATURE}", aside / SIGNATURE)
            self.storage.download(f"{version}/{MANIFEST}", aside / MANIFEST)
            verify_files(aside)
            shutil.rmtree(home, ignore_errors=True)
            aside.rename(home)
        except Missing as error:
            raise ReleaseError(f"{error}: version {version} is not whole; publish it again, or choose another one") from error
        except OSError as error:
            if not home.is_dir():  # else another process fetched it meanwhile
                raise ReleaseError(
                    f"{error.strerror or error}: {error.filename or into}; make room, or name another folder"
                ) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return home


def read_manifest(content: bytes, where: str) -> dict[str, Any]:
    """The manifest as it is written; ReleaseError when it is none, or names a file outside its folder."""
    manifest = _parse(content, where, "name", "version", "chosen", "files")
    try:
        wrong = [path for path, mark in manifest["files"].items() if not _is_inside(path) or not isinstance(mark["sha256"], str)]
    except (AttributeError, TypeError, KeyError) as error:
        raise ReleaseError(f"{where} is no manifest ({error!r}); publish the version again") from error
    if wrong:
        raise ReleaseError(f"{where} names {wrong[0]!r}, which is no file of a bundle; do not use it")
    return manifest


def verify_files(bundle: Path) -> dict[str, Any]:
    """Every file that the folder's manifest names is there with its hash; returns the manifest. ReleaseError otherwise."""
    try:
        manifest = read_manifest((bundle / MANIFEST).read_bytes(), str(bundle / MANIFEST))
        for path, mark in manifest["files"].items():
            if (found := _sha256(bundle / path)) != mark["sha256"]:
                told = f"sha256 {found[:12]}, the manifest says {mark['sha256'][:12]}"
                raise ReleaseError(f"{bundle / path} has changed: {told}; it is not used")
    except OSError as error:
        raise ReleaseError(f"{error.filename or bundle}: {error.strerror or error}; the bundle is not whole") from error
    return manifest


def verify_signature(bundle: Path, public_key: bytes) -> None:
    """The bundle's signature is by the owner of the key, in PEM, and over all of the folder's files; ReleaseError otherwise."""
    from tasks.core.signature import SignatureError, verify

    path = bundle / SIGNATURE
    if not path.is_file():
        raise ReleaseError(f"{bundle} is not signed, and only signed releases are trusted here; publish it with release.sign set")
    files = {one.relative_to(bundle).as_posix(): _sha256(one) for one in sorted(bundle.rglob("*")) if one.is_file() and one != path}
    try:
        verify(path.read_bytes(), public_key, files)
    except SignatureError as error:
        raise ReleaseError(f"{bundle}: {error}; it is not used") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_inside(path: str) -> bool:
    parts = path.split("/")
    return path not in (MANIFEST, SIGNATURE) and "\\" not in path and not any(part in ("", ".", "..") for part in parts)


def _channel_key(name: str) -> str:
    return f"channels/{name}.json"


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=1, ensure_ascii=False).encode()


def _parse(content: bytes, where: str, *keys: str) -> dict[str, Any]:
    """The JSON object with these keys; ReleaseError when it is none."""
    try:
        document = json.loads(content)
    except ValueError as error:
        raise ReleaseError(f"{where} cannot be read ({error}); restore it") from error
    if not isinstance(document, dict) or any(key not in document for key in keys):
        raise ReleaseError(f"{where} cannot be read: expected {list(keys)} in it; restore it")
    return document

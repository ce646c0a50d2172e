"""Places that hold files by key, a folder or an S3 prefix, where of two writers at once exactly one wins."""

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar
from uuid import uuid4

CHUNK = 1 << 20  # bytes of a file held at a time
ATTEMPTS, CONNECT_SECONDS, READ_SECONDS = 5, 5, 30
CONFLICTS = 5  # times that two writers may meet halfway before one of them gives up
DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AllAccessDisabled"}
ABSENT = {"NoSuchKey", "404", "NotFound"}
Fetched = TypeVar("Fetched")
ASIDE = re.compile(r"\.[0-9a-f]{32}\.partial")  # what a write that was killed leaves in a folder


class StorageError(Exception):
    """The place cannot be used; the message says what to do, and holds no secret."""


class Missing(StorageError):  # noqa: N818  a state of the place, no fault
    """There is nothing under the key."""


class Conflict(StorageError):  # noqa: N818  the outcome for all writers but one
    """Another writer was first; nothing was written."""


@dataclass(frozen=True)
class Entry:
    """What a place holds under a key."""

    key: str
    bytes: int
    modified: datetime  # UTC, by the place's own clock


class Storage(Protocol):
    """Files by key, `a/b/c.json`. A file is there whole or not at all, and each operation is safe to repeat.

    A tag names the content that was read or written; StorageError when the place does not answer as it should.
    """

    place: str

    def read(self, key: str) -> tuple[bytes, str]:
        """The content and its tag; Missing when there is none."""

    def create(self, key: str, content: bytes | Path) -> str:
        """The key, which was free or held the same, holds the content, or that of the file; Conflict when it holds another."""

    def replace(self, key: str, content: bytes, tag: str) -> str:
        """The key, which held the content of that tag, holds this one; Conflict when it held another, or none."""

    def delete(self, key: str) -> None:
        """There is nothing under the key."""

    def download(self, key: str, path: Path) -> str:
        """The file holds the content, of which never more than a piece was in memory; returns the tag. Missing as for read."""

    def entries(self, prefix: str = "") -> list[Entry]:
        """What is there under the prefix, by key."""

    def keys(self, prefix: str = "") -> list[str]:
        """The keys that begin with the prefix, sorted."""

    def drop_unfinished(self, before: datetime) -> int:
        """What writes that were killed before that time left is gone; returns how many there were."""


def open_storage(place: str | Path, kms_key: str | None = None) -> Storage:
    """The folder, or the prefix of a bucket in `s3://BUCKET/PREFIX`, which need not hold anything yet.

    S3's credentials, region and endpoint are those of the environment (AWS_ENDPOINT_URL_S3 for another service than Amazon's);
    with `kms_key` it encrypts what is written with that key of KMS.
    """
    if str(place).startswith("s3://"):
        bucket, _, prefix = str(place).removeprefix("s3://").partition("/")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]+", bucket):
            raise StorageError(f"{str(place)!r} names no bucket; expected s3://BUCKET/PREFIX, the credentials in the environment")
        return Bucket(bucket, prefix.strip("/"), kms_key)
    if "://" in str(place):
        raise StorageError(f"{str(place).partition('://')[0]}:// is no place to store in; expected a folder or s3://BUCKET/PREFIX")
    return Folder(Path(place))


def checked(key: str) -> str:
    """The key itself; StorageError when it would lead out of its place."""
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in key or not key.isprintable():
        raise StorageError(f"{key!r} is no key; expected names with / between them")
    return key


class Folder:
    """A folder of this machine, or of a file server that locks files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.place = folder, str(folder)

    def read(self, key: str) -> tuple[bytes, str]:
        with self._told(key):
            content = self.path(key).read_bytes()
        return content, hashlib.sha256(content).hexdigest()

    def create(self, key: str, content: bytes | Path) -> str:
        with self._told(key), self._written(key, content) as (aside, tag):
            try:
                self.path(key).hardlink_to(aside)  # which, other than a rename, fails where something is
            except FileExistsError:
                if self._tag(key) != tag:
                    raise Conflict(f"{self.path(key)} is there already, with other content") from None
        return tag

    def replace(self, key: str, content: bytes, tag: str) -> str:
        with self._told(key), self._written(key, content) as (aside, new), self._alone():
            if (found := self._tag(key)) not in (tag, new):
                raise Conflict(f"{self.path(key)} was changed by another" if found else f"{self.path(key)} is gone")
            aside.replace(self.path(key))
        return new

    def delete(self, key: str) -> None:
        path = self.path(key)
        with self._told(key), suppress(FileNotFoundError), self._alone():
            path.unlink()
        with suppress(OSError):  # of a folder that is not empty
            for parent in list(path.relative_to(self.folder).parents)[:-1]:
                (self.folder / parent).rmdir()

    def download(self, key: str, path: Path) -> str:
        with self._told(key), self.path(key).open("rb") as source, path.open("wb") as target:
            digest = hashlib.sha256()
            while piece := source.read(CHUNK):
                digest.update(piece)
                target.write(piece)
        return digest.hexdigest()

    def entries(self, prefix: str = "") -> list[Entry]:
        found = []
        home = self.folder / prefix.rpartition("/")[0]
        with self._told(prefix):
            for path in sorted(home.rglob("*")):
                key = path.relative_to(self.folder).as_posix()
                if key.startswith(prefix) and not any(part.startswith(".") for part in Path(key).parts) and path.is_file():
                    with suppress(FileNotFoundError):  # deleted meanwhile
                        stat = path.stat()
                        found.append(Entry(key, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC)))
        return sorted(found, key=lambda entry: entry.key)

    def keys(self, prefix: str = "") -> list[str]:
        return [entry.key for entry in self.entries(prefix)]

    def drop_unfinished(self, before: datetime) -> int:
        dropped = 0
        with self._told(""):
            for path in self.folder.rglob(".*.partial"):
                with suppress(FileNotFoundError):
                    if ASIDE.fullmatch(path.name) and path.stat().st_mtime < before.timestamp():
                        path.unlink()
                        dropped += 1
        return dropped

    def path(self, key: str) -> Path:
        """Where the key's content lies."""
        return self.folder / checked(key)

    def _tag(self, key: str) -> str | None:
        """The tag of what is there now."""
        try:
            with self.path(key).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return None

    @contextmanager
    def _written(self, key: str, content: bytes | Path) -> Iterator[tuple[Path, str]]:
        """A file aside with the content, safe on the disk, and its tag; the name aside is gone afterwards."""
        aside, digest = self._aside(self.path(key).parent), hashlib.sha256()
        try:
            with aside.open("wb") as file:
                for piece in _pieces(content):
                    digest.update(piece)
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            yield aside, digest.hexdigest()
        finally:
            aside.unlink(missing_ok=True)

    def _aside(self, folder: Path) -> Path:
        """An empty file of a new name in the folder, which is made."""
        aside = folder / f".{uuid4().hex}.partial"
        for _ in range(CONFLICTS):
            folder.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # a delete took the empty folder meanwhile
                aside.touch(exist_ok=False)
                break
        return aside

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Within the block no other process replaces or deletes; the lock dies with its holder."""
        with (self.folder / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise Missing(f"{self.folder / key} is not there") from error
        except OSError as error:
            free = f", {shutil.disk_usage(self.folder).free / 1e6:,.0f} MB free there" if self.folder.exists() else ""
            raise StorageError(f"{error.strerror or error}: {error.filename or self.folder / key}{free}") from error


class Bucket:
    """A prefix of an S3 bucket, of a service that keeps conditional writes (If-Match, If-None-Match)."""

    def __init__(self, bucket: str, prefix: str, kms_key: str | None) -> None:
        import boto3  # 0.4 s that a folder does not need
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        self.bucket, self.prefix = bucket, f"{prefix}/" if prefix else ""
        self.place = f"s3://{bucket}/{prefix}".rstrip("/")
        self.proven = False  # that the service keeps conditions
        self.encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}
        config = Config(
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
        )
        try:
            session = boto3.session.Session()
            self.client: Any = session.client("s3", config=config, region_name=session.region_name or "us-east-1")
        except (BotoCoreError, ValueError) as error:
            raise StorageError(f"{self.place}: {error}; correct AWS's settings in the environment") from error

    def read(self, key: str) -> tuple[bytes, str]:
        def fetch() -> tuple[bytes, str]:
            answer = self.client.get_object(Bucket=self.bucket, Key=self.path(key))
            return answer["Body"].read(), answer["ETag"]

        return self._whole(key, fetch)

    def create(self, key: str, content: bytes | Path) -> str:
        try:
            tag = self._put(key, content, IfNoneMatch="*")
        except Conflict:
            if found := self._holds(key, content):  # a first try did it and was not told so, or another wrote the same
                return found
            raise
        if isinstance(content, bytes):
            self._prove(key, content)
        return tag

    def _prove(self, key: str, content: bytes) -> None:
        """StorageError, once, when the service does not keep conditions: what is there is written again where it must refuse."""
        for condition in () if self.proven else ({"IfNoneMatch": "*"}, {"IfMatch": f'"{"0" * 32}"'}):
            with suppress(Conflict):
                self._put(key, content, **condition)
                raise StorageError(
                    f"{self.place}: this S3 service does not keep conditional writes ({next(iter(condition))}): of two rollouts "
                    "at once both would win; use one that does, or a folder"
                )
        self.proven = True

    def replace(self, key: str, content: bytes, tag: str) -> str:
        try:
            return self._put(key, content, IfMatch=tag)
        except Conflict:
            if found := self._holds(key, content):
                return found
            raise

    def delete(self, key: str) -> None:
        with self._told(key):
            self.client.delete_object(Bucket=self.bucket, Key=self.path(key))

    def download(self, key: str, path: Path) -> str:
        def fetch() -> str:
            answer = self.client.get_object(Bucket=self.bucket, Key=self.path(key))
            with path.open("wb") as file:
                for piece in answer["Body"].iter_chunks(CHUNK):
                    file.write(piece)
            return str(answer["ETag"])

        return self._whole(key, fetch)

    def entries(self, prefix: str = "") -> list[Entry]:
        with self._told(prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix + prefix)
            found = [one for page in pages for one in page.get("Contents", [])]
        return sorted(
            (Entry(one["Key"].removeprefix(self.prefix), one["Size"], one["LastModified"]) for one in found),
            key=lambda entry: entry.key,
        )

    def keys(self, prefix: str = "") -> list[str]:
        return [entry.key for entry in self.entries(prefix)]

    def drop_unfinished(self, before: datetime) -> int:
        return 0  # an object comes in one piece: it is there whole or not at all

    def path(self, key: str) -> str:
        """The object's own key in the bucket."""
        return self.prefix + checked(key)

    def _put(self, key: str, content: bytes | Path, **condition: str) -> str:
        """Write under the condition; Conflict when it does not hold."""
        for _ in range(CONFLICTS):
            with self._told(key):
                if isinstance(content, Path):
                    with content.open("rb") as body:
                        answer = self._send(key, body, condition)
                else:
                    answer = self._send(key, content, condition)
                if answer is not None:
                    return str(answer["ETag"])
        raise Conflict(f"{self.place}/{key}: others write it all the time; try again")

    def _send(self, key: str, body: Any, condition: dict[str, str]) -> Any:
        """S3's answer; None when it asks to try again, as two conditional writes met."""
        from botocore.exceptions import ClientError

        try:
            return self.client.put_object(Bucket=self.bucket, Key=self.path(key), Body=body, **condition, **self.encryption)
        except ClientError as error:
            if error.response["Error"]["Code"] == "ConditionalRequestConflict":
                return None
            if error.response["Error"]["Code"] in ABSENT and "IfMatch" in condition:
                raise Conflict(f"{self.place}/{key} is gone") from error
            raise

    def _holds(self, key: str, content: bytes | Path) -> str | None:
        """The tag of the object when it is this content."""
        digest, found = hashlib.sha256(), hashlib.sha256()
        for piece in _pieces(content):
            digest.update(piece)

        def fetch() -> str:
            nonlocal found
            found = hashlib.sha256()
            answer = self.client.get_object(Bucket=self.bucket, Key=self.path(key))
            for piece in answer["Body"].iter_chunks(CHUNK):
                found.update(piece)
            return str(answer["ETag"])

        with suppress(Missing):
            tag = self._whole(key, fetch)
            return tag if found.digest() == digest.digest() else None
        return None

    def _whole(self, key: str, fetch: Callable[[], Fetched]) -> Fetched:
        """What a request and its body come to; of a body that broke off, which the client does not ask for again, a new one."""
        from botocore.exceptions import HTTPClientError, IncompleteReadError, ResponseStreamingError

        for attempt in range(1, ATTEMPTS + 1):
            with self._told(key):
                try:
                    return fetch()
                except (IncompleteReadError, ResponseStreamingError, HTTPClientError):
                    if attempt == ATTEMPTS:
                        raise
        raise AssertionError(key)

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        """What the service or the way to it says against it, as an error that a user can act on."""
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

        where = f"{self.place}/{key}"
        try:
            yield
        except ClientError as error:
            code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
            if code == "NoSuchBucket":
                raise StorageError(f"{where}: there is no bucket {self.bucket!r}; create it, or correct the place") from error
            if code in ABSENT:
                raise Missing(f"{where} is not there") from error
            if code == "PreconditionFailed" or status == 412:
                raise Conflict(f"{where} was changed by another") from error
            if code in DENIED or status in (401, 403):
                raise StorageError(
                    f"{where}: refused ({code}); correct AWS's credentials in the environment, or their rights"
                ) from error
            raise StorageError(f"{where}: the service answered {code} ({status}); try again later, or check the place") from error
        except (HTTPClientError, BotoCoreError) as error:
            said = f"{type(error).__name__}; check the network, AWS_ENDPOINT_URL and the credentials in the environment"
            raise StorageError(f"{where}: no answer of the service: {said}") from error
        except OSError as error:
            raise StorageError(f"{error.strerror or error}: {error.filename or where}") from error


def _pieces(content: bytes | Path) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while piece := file.read(CHUNK):
            yield piece

"""Where the files of a source lie, what each is now, and how one comes here to be read."""

import glob
import importlib.metadata
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tasks.core.errors import DataError
from tasks.params import FileSource, PackageSource
from tasks.sources.formats import refuse_no_file
from tasks.sources.lock import Mark, moved
from tasks.stage import content_hash

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class Found:
    """One file as it is now: `key` is what its content is told by, `shown` its name without any secret."""

    place: str
    shown: str
    key: str
    mark: Mark
    endpoint: str | None = None
    stamp: tuple[int, ...] = ()  # of a file on disk, taken before its content was

    @property
    def resolved(self) -> str:
        """The place behind all links."""
        return self.place if URL.match(self.place) else str(Path(self.place).resolve())


@dataclass(frozen=True)
class Files:
    """What a source names: one file, or all that fit a pattern, in the order of their paths."""

    found: tuple[Found, ...]
    by_pattern: bool


def find(name: str, source: PackageSource | FileSource, workspace: Path) -> Files:
    """The source's files as they are now, at least one; DataError when there is none."""
    if isinstance(source, FileSource) and URL.match(source.file) and not source.file.startswith("file://"):
        from tasks.sources import remote  # its libraries take a second to import, which sources on disk need not wait for

        return remote.find(name, source)
    by_pattern = isinstance(source, FileSource) and _is_pattern(source, workspace)
    return Files(tuple(_here(name, shown, path) for shown, path in _paths(name, source, workspace).items()), by_pattern)


@contextmanager
def fetched(where: str, found: Found, spool: Path) -> Iterator[Path]:
    """The file on this disk: itself, or a copy that is gone afterwards."""
    if not URL.match(found.place):
        path = Path(found.place)
        if _stamp(where, path) != found.stamp:
            raise moved(where)
        try:
            yield path
        except DataError as error:
            if _stamp(where, path) != found.stamp:  # what is wrong is that it was read half written
                raise moved(where) from error
            raise
        return
    from tasks.sources import remote  # see find

    with remote.fetched(where, found, spool) as path:
        yield path


def refuse_moved(where: str, found: Found) -> None:
    """DataError when a file on disk has been written since it was found; a copy from elsewhere nobody writes."""
    if URL.match(found.place):
        return
    path = Path(found.place)
    # The clock of a file system may stand still between two writes, so that the stamp alone would not tell them apart.
    if _stamp(where, path) != found.stamp or content_hash(path) != found.key:
        raise moved(where)


def locate(name: str, source: PackageSource | FileSource, workspace: Path = Path()) -> Path:
    """The source's one file on disk; DataError when it is not there, or none that can be read."""
    (path,) = _paths(name, source, workspace).values()
    return path


def _here(name: str, shown: str, path: Path) -> Found:
    refuse_no_file(f"source {name!r}", path)
    stamp = _stamp(f"source {name!r}: {shown}", path)
    sha256 = content_hash(path)
    return Found(str(path), shown, sha256, {"sha256": sha256, "bytes": path.stat().st_size}, stamp=stamp)


def _stamp(where: str, path: Path) -> tuple[int, ...]:
    """What the file system says changes with the content."""
    try:
        stat = path.stat()
    except OSError as error:
        raise moved(where) from error
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


def _paths(name: str, source: PackageSource | FileSource, workspace: Path) -> dict[str, Path]:
    match source:
        case PackageSource():
            try:
                path = Path(str(importlib.metadata.distribution(source.package).locate_file(source.resource)))
            except importlib.metadata.PackageNotFoundError as error:
                raise DataError(f"source {name!r}: package {source.package!r} is not installed here") from error
            found = {f"{source.package}: {source.resource}": path}
        case FileSource():
            shown = _shown(source.file)
            if _is_pattern(source, workspace):
                found = {
                    match: path
                    # Not pathlib's, whose star stands for hidden files too.
                    for match in sorted(glob.glob(shown, root_dir=workspace, recursive=True))  # noqa: PTH207
                    if not (path := workspace / match).is_dir()
                }
                if not found:
                    raise DataError(f"source {name!r}: no file fits {shown!r}; correct the pattern in params.yaml")
            else:
                found = {shown: workspace / shown}
    return found


def _is_pattern(source: FileSource, workspace: Path) -> bool:
    """Whether it stands for other files: a file may be called so itself."""
    return glob.has_magic(source.file) and not (workspace / _shown(source.file)).exists()


def _shown(file: str) -> str:
    return file.removeprefix("file://")

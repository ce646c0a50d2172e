"""Sources that are files: on disk or inside an installed package; where they lie, what they are now, and how they land."""

import importlib.metadata
from pathlib import Path

from tasks import engine
from tasks.core.errors import DataError
from tasks.core.privacy import Guard
from tasks.params import FileSource, PackageSource
from tasks.sources import protect, reading
from tasks.sources.lock import Mark, refuse_moved
from tasks.sources.store import Store
from tasks.stage import content_hash


def look(name: str, source: PackageSource | FileSource, workspace: Path = Path()) -> Mark:
    """What identifies the source's present content: hash and bytes, and the package's version where there is one."""
    path = locate(name, source, workspace)
    mark: Mark = {"sha256": content_hash(path), "bytes": path.stat().st_size}
    if isinstance(source, PackageSource):
        mark["version"] = importlib.metadata.version(source.package)
    return mark


def land(name: str, source: PackageSource | FileSource, mark: Mark, guard: Guard, store: Store) -> None:
    """The store holds the file that the mark names; one that landed before is not read again."""
    refuse_moved(name, look(name, source), mark)
    sha256 = str(mark["sha256"])
    if [part.mark for part in store.parts] == [sha256]:
        return
    store.clear()
    with engine.connect() as db, reading.opened(name, source, locate(name, source), db, guard) as relation:
        protect.check_personal(name, relation, guard)
        with store.adding(sha256) as aside:
            reading.told(name, guard, lambda: protect.write(db, relation, aside, guard))


def locate(name: str, source: PackageSource | FileSource, workspace: Path = Path()) -> Path:
    """The source's file; DataError when it is not there."""
    match source:
        case PackageSource():
            try:
                path = Path(str(importlib.metadata.distribution(source.package).locate_file(source.resource)))
            except importlib.metadata.PackageNotFoundError as error:
                raise DataError(f"source {name!r}: package {source.package!r} is not installed here") from error
        case FileSource():
            path = workspace / source.file
    if not path.is_file():
        raise DataError(f"source {name!r}: no file {str(path)!r}; correct it in params.yaml or put the file there")
    return path

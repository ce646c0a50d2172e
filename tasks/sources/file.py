"""Sources that are files: on disk, inside an installed package or behind a URL; what they are now, and how they land."""

import hashlib
import importlib.metadata
import logging
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks import engine
from tasks.core.privacy import Guard
from tasks.params import FileSource, PackageSource
from tasks.sources import packing, places, protect, reading
from tasks.sources.lock import Mark, refuse_moved
from tasks.sources.parts import agree, agree_on_marks
from tasks.sources.places import Files, Found
from tasks.sources.store import Store

log = logging.getLogger("tasks.sources.file")

WHOLE = pa.schema([("path", pa.string()), ("content", pa.binary())])
FILES_AT_ONCE = 500  # of those that are rows: no more of them is in memory


def look(name: str, source: PackageSource | FileSource, workspace: Path = Path()) -> Mark:
    """What identifies the source's present content: of one file its hash and bytes, or ETag, with a package's version; of a
    glob how many files there are, their bytes, and the hash of the list of their names and hashes."""
    return _mark(source, places.find(name, source, workspace))


def land(name: str, source: PackageSource | FileSource, mark: Mark, guard: Guard, store: Store) -> None:
    """The store holds the files that the mark names, a part for each; one that landed before is not read again."""
    found = places.find(name, source, Path())
    refuse_moved(name, _mark(source, found), mark)
    if source.format == "bytes":
        _land_whole(name, found, guard, store)
        return
    parts = _parts(name, found)
    landed = {part.mark for part in store.parts}
    for key, one in parts.items():
        if key not in landed:
            _land_one(name, source, one, key, guard, store)
    store.keep(list(parts))
    if found.by_pattern:
        shown = [one.shown for one in parts.values()]
        agree_on_marks(f"source {name!r}", dict(zip(shown, (part.styles for part in store.parts), strict=True)))
        agree(f"source {name!r}", dict(zip(shown, store.paths, strict=True)))


def _parts(name: str, files: Files) -> dict[str, Found]:
    """The files by the marks of their parts: what its content is told by, and a number where other files have the same."""
    parts: dict[str, Found] = {}
    places: dict[str, Found] = {}
    same: Counter[str] = Counter()
    for one in files.found:
        if (before := places.setdefault(one.resolved, one)) is not one:
            log.warning("source %r: %s is the same file as %s and is read once", name, one.shown, before.shown)
            continue
        same[one.key] += 1
        if same[one.key] > 1:
            log.warning("source %r: %s has the same content as %s; both are read", name, one.shown, parts[one.key].shown)
        parts[one.key if same[one.key] == 1 else f"{one.key} {same[one.key]}"] = one
    return parts


def _land_one(name: str, source: PackageSource | FileSource, found: Found, key: str, guard: Guard, store: Store) -> None:
    """The file is the part of that mark in the store: nothing of it is written there before its personal columns are decided on."""
    where = f"source {name!r}: {found.shown}"
    spool = store.folder.parent / ".spool"
    with (
        engine.connect() as db,
        places.fetched(where, found, spool) as path,
        reading.opened(where, source, path, found.shown, spool, db, guard) as raw,
    ):
        reading.told(where, guard, lambda: protect.check_personal(name, raw.relation, guard))
        typed, styles = reading.typed(where, raw, source, guard)
        relation = reading.told(where, guard, lambda: protect.exact(where, typed, guard))
        with store.adding(key, styles) as aside:
            reading.told(where, guard, lambda: protect.write(db, relation, aside, guard))
            places.refuse_moved(where, found)


def _land_whole(name: str, files: Files, guard: Guard, store: Store) -> None:
    """The store holds a row for each file: `path`, its name as the pattern finds it, and `content`, its bytes."""
    key = hashlib.sha256("".join(f"{one.shown} {one.key}\n" for one in files.found).encode()).hexdigest()
    if [part.mark for part in store.parts] == [key]:
        return
    spool = store.folder.parent / ".spool"
    with engine.connect() as db, packing.spooled(f"source {name!r}", spool, ()) as aside:
        with pq.ParquetWriter(aside, WHOLE) as writer:
            for start in range(0, len(files.found), FILES_AT_ONCE):
                some = files.found[start : start + FILES_AT_ONCE]
                content = [_read(f"source {name!r}: {one.shown}", one, spool) for one in some]
                writer.write_table(pa.table([[one.shown for one in some], content], schema=WHOLE))
        relation = db.read_parquet(str(aside))
        protect.check_personal(name, relation, guard)
        with store.adding(key) as part:
            protect.write(db, relation, part, guard, as_bytes="content")
    store.keep([key])


def _read(where: str, found: Found, spool: Path) -> bytes:
    with places.fetched(where, found, spool) as path:
        content = path.read_bytes()
    places.refuse_moved(where, found)
    return content


def _mark(source: PackageSource | FileSource, files: Files) -> Mark:
    first = files.found[0].mark
    if isinstance(source, PackageSource):
        return {**first, "version": importlib.metadata.version(source.package)}
    if not files.by_pattern:
        return first
    listing = "".join(f"{one.shown} {one.key}\n" for one in files.found)
    total = sum(int(one.mark["bytes"]) for one in files.found)
    return {"files": len(files.found), "bytes": total, "sha256": hashlib.sha256(listing.encode()).hexdigest()}

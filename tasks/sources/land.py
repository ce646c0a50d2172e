"""Every kind of source by one pair of words: look, which says what it is now, and land, which makes Parquet of exactly that."""

import hashlib
from pathlib import Path

from tasks.core.privacy import Guard
from tasks.params import ApiSource, FileSource, PackageSource, Privacy, Source, SqlSource
from tasks.sources import api, file, sql
from tasks.sources.lock import Mark
from tasks.sources.protect import guard_of
from tasks.sources.store import LANDED, Store, alone
from tasks.stage import discard


def look(name: str, source: Source, privacy: Privacy, workspace: Path = Path()) -> Mark:
    """What identifies the source's present content; a source that can say so only by being read has landed thereby."""
    guard = guard_of(name, privacy)
    with alone(workspace):
        match source:
            case PackageSource() | FileSource():
                return file.look(name, source, workspace)
            case SqlSource():
                return sql.look(name, source, guard, _store(name, source, guard, workspace))
            case ApiSource():
                return api.look(name, source, guard, _store(name, source, guard, workspace))


def land(name: str, source: Source, privacy: Privacy, mark: Mark) -> list[Path]:
    """Parquet files of the source as the lock's mark says it was; DataError when it no longer is."""
    guard = guard_of(name, privacy)
    with alone():
        store = _store(name, source, guard, Path())
        match source:
            case PackageSource() | FileSource():
                file.land(name, source, mark, guard, store)
            case SqlSource():
                sql.land(name, source, mark, guard, store)
            case ApiSource():
                api.land(name, source, mark, guard, store)
        return store.paths


def _store(name: str, source: Source, guard: Guard, workspace: Path) -> Store:
    """The store of the source as it is read now; those of other readings are deleted."""
    told = f"{source.model_dump_json()} {sorted(guard.decided)} {guard.coarsen} {hashlib.sha256(guard.key).hexdigest()}"
    told += f" {sorted(guard.drop)} {sorted(guard.pseudonymise)}"
    folder = workspace / LANDED / name / hashlib.sha256(told.encode()).hexdigest()[:16]
    for other in folder.parent.glob("*"):
        if other != folder:
            discard(other)
    return Store(folder)

"""Placeholder, replaced by the next commits."""

from tasks.core.errors import DataError
from tasks.core.privacy import Guard
from tasks.params import ApiSource
from tasks.sources.lock import Mark
from tasks.sources.store import Store


def look(name: str, source: ApiSource, guard: Guard, store: Store) -> Mark:
    raise DataError(f"source {name!r}: kind {source.kind!r} cannot be read yet")


def land(name: str, source: ApiSource, mark: Mark, guard: Guard, store: Store) -> None:
    raise DataError(f"source {name!r}: kind {source.kind!r} cannot be read yet")

"""Sources that are files: on disk or inside an installed package; where they lie and what they are now."""

import importlib.metadata
from pathlib import Path

from tasks.core.errors import DataError
from tasks.params import FileSource, PackageSource, Source
from tasks.stage import content_hash


def fingerprint(name: str, source: Source, workspace: Path = Path()) -> dict[str, str | int]:
    """What identifies the source's present content: hash and bytes, and the package's version where there is one."""
    path = locate(name, source, workspace)
    mark: dict[str, str | int] = {"sha256": content_hash(path), "bytes": path.stat().st_size}
    if isinstance(source, PackageSource):
        mark["version"] = importlib.metadata.version(source.package)
    return mark


def locate(name: str, source: Source, workspace: Path = Path()) -> Path:
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

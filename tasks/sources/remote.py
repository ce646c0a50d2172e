"""Files behind URLs: what they are now, and a copy of one for as long as it is read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.credentials import read_secret
from tasks.params import PASSWORD, FileSource
from tasks.sources import anywhere, bucket, web
from tasks.sources.network import shown
from tasks.sources.packing import new_spool
from tasks.sources.places import Files, Found
from tasks.stage import discard


def find(name: str, source: FileSource) -> Files:
    """The file, or those that fit the pattern, as they are now."""
    where = f"source {name!r}: {shown(source.file)}"
    url = source.file.replace(PASSWORD, read_secret(source.password)) if source.password else source.file
    match url.split("://")[0].lower():
        case "http" | "https":
            return Files((web.look(where, url),), by_pattern=False)
        case "s3" | "s3a":
            return bucket.find(where, url, source.endpoint)
        case _:
            return anywhere.find(where, url)


@contextmanager
def fetched(where: str, found: Found, spool: Path) -> Iterator[Path]:
    """A whole copy of exactly what was found, which only this user may read and which is gone afterwards."""
    path = new_spool(spool)
    try:
        match found.place.split("://")[0].lower():
            case "http" | "https":
                web.download(where, found, path)
            case "s3" | "s3a":
                bucket.download(where, found, path)
            case _:
                anywhere.download(where, found, path)
        yield path
    finally:
        discard(path)

"""Files behind any other URL that fsspec opens: clouds, archives, the memory of the process."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from tasks.core.errors import DataError
from tasks.sources.lock import Mark, moved
from tasks.sources.network import TransientError, append, forbidden, no_file, refuse_other_content, shown, with_tries
from tasks.sources.packing import CHUNK
from tasks.sources.places import Files, Found

ETAGS = ("ETag", "etag", "md5Hash", "content_md5")


def find(where: str, url: str) -> Files:
    """The file, or those that fit the pattern, by ETag and size, or by a hash for which they are read."""
    system, path = with_tries(where, lambda: _system(where, url))
    scheme = url.split("://")[0]
    by_pattern = any(letter in path for letter in "*?[")

    def listed() -> list[str]:
        with _told(where):
            return sorted(map(str, system.glob(path)))

    paths = with_tries(where, listed) if by_pattern else [path]
    if not paths:
        raise DataError(f"{where}: no file fits; correct the pattern in params.yaml")
    addresses = [f"{scheme}://{one.lstrip('/')}" for one in paths] if by_pattern else [url]
    found = [_look(where, system, one, address) for one, address in zip(paths, addresses, strict=True)]
    return Files(tuple(found), by_pattern)


def download(where: str, found: Found, path: Path) -> None:
    """`path` holds the file that was found."""
    with_tries(where, lambda: _download(where, found, path))


def _look(where: str, system: Any, path: str, address: str) -> Found:
    def mark() -> Mark:
        with _told(where):
            info = system.info(path)
            if info["type"] != "file":
                raise DataError(f"{where}: no file: it is a folder; name the files in it with a pattern")
            if etag := next((str(info[key]).strip('"') for key in ETAGS if info.get(key)), None):
                return {"etag": etag, "bytes": int(info["size"])}
            with system.open(path, "rb") as file:
                digest, size = hashlib.sha256(), 0
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
            return {"sha256": digest.hexdigest(), "bytes": size}

    found = with_tries(where, mark)
    return Found(address, shown(address), str(found.get("etag") or found["sha256"]), found)


def _download(where: str, found: Found, path: Path) -> None:
    system, remote = _system(where, found.place)
    with _told(where), system.open(remote, "rb") as file:
        append(where, path, iter(lambda: file.read(CHUNK), b""), 0, None)
    if path.stat().st_size != found.mark["bytes"]:
        raise moved(where)
    if sha256 := found.mark.get("sha256"):
        refuse_other_content(where, path, "sha256", str(sha256))


def _system(where: str, url: str) -> tuple[Any, str]:
    with _told(where):
        try:
            system, path = fsspec.core.url_to_fs(url)
        except ImportError as error:
            said = " ".join(str(error).split())
            raise DataError(f"{where} needs a package that is not installed: {said}") from error
        except ValueError as error:
            known = url.split("://")[0] in fsspec.available_protocols()
            why = "correct it in params.yaml" if known else f"nothing is called {url.split('://')[0]!r}"
            raise DataError(f"{where} is no address that can be opened; {why}") from error
    return system, str(path)


@contextmanager
def _told(where: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise no_file(where) from error
    except PermissionError as error:
        raise forbidden(where, "permission denied") from error
    except (OSError, EOFError, TimeoutError) as error:
        raise TransientError(f"no answer ({type(error).__name__})") from error
    except (DataError, TransientError):
        raise
    except Exception as error:  # each of fsspec's systems has its own, whose words may hold a password
        raise DataError(f"{where} cannot be read ({type(error).__name__}); check the address and the credentials") from error

"""Files packed by gzip, zip or zstd, unpacked by streaming into a spool that is gone afterwards."""

import gzip
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import zstandard

from tasks.core.errors import DataError
from tasks.stage import discard

CHUNK = 1 << 20
RESERVE = 256 << 20  # bytes of the disk that no unpacked file may take


@contextmanager
def unpacked(where: str, path: Path, spool: Path) -> Iterator[Path]:
    """The file itself, or what is packed in it, beside the store for as long as it is needed."""
    with path.open("rb") as file:
        head = file.read(4)
    chunks: Iterable[bytes]
    if head[:2] == b"\x1f\x8b":
        chunks = _gzip(path)
    elif head == b"\x28\xb5\x2f\xfd":
        chunks = _zstd(path)
    elif head[:2] == b"PK" and zipfile.is_zipfile(path):
        chunks = _zip(where, path, spool)
    else:
        yield path
        return
    with spooled(where, spool, _told(where, chunks)) as plain:
        yield plain


@contextmanager
def spooled(where: str, spool: Path, chunks: Iterable[bytes]) -> Iterator[Path]:
    """A file of the chunks that only this user may read, gone afterwards; DataError before the disk is full."""
    path = new_spool(spool)
    try:
        with path.open("r+b") as file:
            for chunk in chunks:
                keep_free(where, spool, file.tell())
                file.write(chunk)
        yield path
    finally:
        discard(path)


def new_spool(spool: Path) -> Path:
    """An empty file, of mode 0600, in the spool's folder."""
    spool.mkdir(parents=True, exist_ok=True, mode=0o700)
    number = next(n for n in range(10_000) if not (spool / str(n)).exists())
    path = spool / str(number)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    return path


def keep_free(where: str, folder: Path, written: int, more: int = 0) -> None:
    """DataError when the disk has no room for more bytes beside its reserve."""
    free = shutil.disk_usage(folder).free
    if free < RESERVE + more:
        raise DataError(
            f"{where}: {max(written, more) / 1e6:,.0f} MB of it or more do not fit on the disk: {free / 1e6:,.0f} MB are free and "
            f"{RESERVE / 1e6:,.0f} MB of them reserved; make room, or check what is packed in it"
        )


def _told(where: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
    try:
        yield from chunks
    except (zlib.error, zipfile.BadZipFile, gzip.BadGzipFile, zstandard.ZstdError, EOFError, NotImplementedError) as error:
        said = " ".join(str(error).split()).split("for member")[0]
        raise DataError(f"{where} cannot be unpacked: it is damaged or cut off ({said}); fetch it again") from error


def _gzip(path: Path) -> Iterator[bytes]:
    with gzip.open(path) as packed:
        while chunk := packed.read(CHUNK):
            yield chunk


def _zstd(path: Path) -> Iterator[bytes]:
    """By hand, because the library's reader takes a cut-off frame for the end."""
    frame, ended = _frame(), False
    with path.open("rb") as file:
        while data := file.read(CHUNK // 16):
            while data:
                yield frame.decompress(data)
                ended = frame.eof
                data = frame.unused_data if ended else b""
                frame = _frame() if ended else frame
    if not ended:
        raise EOFError("its last frame has no end")


def _frame() -> "zstandard.ZstdDecompressionObj":  # a name of its stubs alone
    return zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()


def _zip(where: str, path: Path, spool: Path) -> Iterator[bytes]:
    with zipfile.ZipFile(path) as archive:
        every = archive.infolist()
        members = [m for m in every if not m.is_dir() and not m.filename.startswith("__MACOSX/")]
        members = [m for m in members if Path(m.filename).name != ".DS_Store"]
        if any(member.filename.startswith("xl/") for member in members):
            raise DataError(f"{where} is not a table but an Excel workbook; save its sheet as CSV")
        if len(members) != 1:
            raise DataError(f"{where} holds {len(members)} files; expected a zip of exactly one")
        if members[0].flag_bits & 1:
            raise DataError(f"{where} is an encrypted zip; unpack it with its password, and name the file in it")
        keep_free(where, spool, 0, members[0].file_size)
        with archive.open(members[0]) as packed:
            while chunk := packed.read(CHUNK):
                yield chunk

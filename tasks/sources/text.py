"""Text of any encoding as UTF-8: what its bytes are, found out from all of them, and the line of the first that is wrong."""

import codecs
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import charset_normalizer

from tasks.core.errors import DataError
from tasks.core.privacy import Guard
from tasks.sources.packing import CHUNK, spooled

log = logging.getLogger("tasks.sources.text")

# The longer first: UTF-32's mark begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
SAMPLE = 1 << 18  # bytes of lines with other letters that a guess is made from


@contextmanager
def in_utf8(where: str, path: Path, encoding: str | None, spool: Path, guard: Guard) -> Iterator[Path]:
    """The file in UTF-8 without a mark, itself if it is that; DataError for a NUL or a byte that its encoding does not have."""
    encoding = _codec(where, encoding) if encoding else _marked(path) or _checked(where, path, guard)
    if encoding == "utf-8":
        yield path
    else:
        with spooled(where, spool, _decoded(where, path, encoding)) as plain:
            yield plain


def _codec(where: str, encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name
        "a".encode(name)
    except (LookupError, TypeError) as error:
        raise DataError(f"{where}: no encoding is called {encoding!r}; expected one like utf-8, cp1252 or utf-16") from error
    return "utf-8-sig" if name == "utf-8" else name  # with or without a mark


def _marked(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(4)
    return next((name for mark, name in MARKS.items() if head.startswith(mark)), None)


def _checked(where: str, path: Path, guard: Guard) -> str:
    """utf-8 when all of it is, or else the guess, which is told."""
    _refuse_nuls(where, path)
    bad = _first_bad(path)
    if bad is None:
        return "utf-8"
    line, byte = bad
    sample = _other_lines(path)
    kept = sample.decode("utf-8", "replace")
    damaged = sum(letter > "\x7f" and letter != "�" for letter in kept) > kept.count("�")
    encoding = None if damaged else _guess(sample)
    if encoding is None:
        raise DataError(
            f"{where}: line {line} holds the byte 0x{byte:02x}, which is not UTF-8; correct it, or name the encoding: cp1252, ..."
        )
    words = (word for word in re.findall(r"\w+", sample.decode(encoding, "replace")) if not word.isascii())
    example = "" if guard.changes else f", for example {next(words, '')[:40]!r}"
    said = f"{encoding}{example}; if that is wrong, name its encoding:"
    log.warning("%s is not UTF-8 (line %s) and was read as %s", where, line, said)
    return encoding


def _first_bad(path: Path) -> tuple[int, int] | None:
    """Line and value of the first byte that is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    lines = 1
    with path.open("rb") as file:
        while True:
            chunk = file.read(CHUNK)
            pending = decoder.getstate()[0]
            try:
                if pending or not chunk.isascii():
                    decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                data = pending + chunk
                return lines + _ends(data[: error.start]), data[error.start]
            if not chunk:
                return None
            lines += _ends(chunk)


def _refuse_nuls(where: str, path: Path) -> None:
    lines = 1
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            _refuse_nul(where, chunk, b"\0", lines)
            lines += _ends(chunk)


def _refuse_nul(where: str, chunk: bytes, nul: bytes, lines: int) -> None:
    at = chunk.find(nul)
    if at >= 0:
        raise DataError(
            f"{where} is not a table: line {lines + _ends(chunk[:at])} holds a NUL byte; "
            "correct it, or name the encoding: utf-16-le, utf-16-be"
        )


def _ends(data: bytes) -> int:
    return data.count(b"\n") or data.count(b"\r")


def _other_lines(path: Path) -> bytes:
    """Lines with letters beyond ASCII, the first ones."""
    found: list[bytes] = []
    size = 0
    with path.open("rb") as file:
        for line in file:
            if not line.isascii():
                found.append(line[:4096])
                size += len(found[-1])
            if size > SAMPLE:
                break
    return b"".join(found)


def _guess(sample: bytes) -> str | None:
    """Windows-1252 where it fits as well as any, as it is the commonest; another one only where a language speaks for it."""
    matches = charset_normalizer.from_bytes(sample)
    best = matches.best()
    if best is None:
        return None
    for match in matches:
        if match.encoding in ("cp1252", "latin_1", "iso8859_15") or "cp1252" in match.could_be_from_charset:
            try:
                sample.decode("cp1252")
            except UnicodeDecodeError:
                break
            if match.chaos <= best.chaos + 0.05 and best.coherence <= match.coherence + 0.2:
                return "cp1252"
    return best.encoding if best.coherence > 0.3 else None


def _decoded(where: str, path: Path, encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    lines = 1
    with path.open("rb") as file:
        while True:
            chunk = file.read(CHUNK)
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeError as error:
                start = getattr(error, "start", 0)
                before = chunk[:start].decode(encoding, "replace") if start else ""
                raise DataError(
                    f"{where}: line {lines + before.count(chr(10))} holds bytes that {encoding} does not have; "
                    "correct them, or name the encoding: cp1252, ..."
                ) from error
            data = text.encode("utf-8")
            _refuse_nul(where, data, b"\0", lines)
            lines += _ends(data)
            if data:
                yield data
            if not chunk:
                return

"""What a file holds, told by its first bytes and only then by its name."""

import json
import os
import stat
from pathlib import Path
from typing import Literal

from tasks.core.errors import DataError
from tasks.params import Reading

Format = Literal["csv", "json", "parquet", "arrow"]

HEAD = 65_536  # bytes that are looked at
NO_TABLES = {
    b"%PDF": "a PDF document",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"SQLite format 3": "an SQLite database (kind: sql reads one)",
    b"\x89HDF": "an HDF5 file",
    b"Obj\x01": "an Avro file",
    b"ORC": "an ORC file",
    b"\xd0\xcf\x11\xe0": "an old Office document (save the sheet as CSV)",
    b"FEA1": "a Feather file of version 1 (write it anew as version 2, which is Arrow)",
    b"BZh": "packed by bzip2 (expected gzip, zip or zstd)",
    b"\xfd7zXZ": "packed by xz (expected gzip, zip or zstd)",
    b"7z\xbc\xaf": "packed by 7-Zip (expected gzip, zip or zstd)",
    b"\x1f\x8b": "packed twice (unpack it once)",
    b"PK\x03\x04": "packed twice (unpack it once)",
    b"\x28\xb5\x2f\xfd": "packed twice (unpack it once)",
}
MARKUP = (b"<!doctype", b"<html", b"<?xml", b"<svg", b"<head", b"<body")
TEXT_ONLY = ("encoding", "delimiter")


def find_format(where: str, path: Path, shown: str, how: Reading) -> Format:
    """What the plain, not packed, file is; DataError when it is known to be no table, or is not what params.yaml says."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head.strip():
        raise DataError(f"{where} is empty ({path.stat().st_size} bytes); expected a header line and rows")
    found = _by_content(head) or _by_name(shown)
    if how.format in (None, "arrow") and found == "csv":
        _refuse_no_table(where, head)
    binary = {"parquet", "arrow"}
    if how.format is not None and how.format != found and {how.format, found} & binary:
        raise DataError(f"{where} is not {how.format}, as params.yaml says, but looks like {found}; correct or remove format:")
    assert how.format != "bytes", "which is not read as a table"
    format_ = how.format or found
    if format_ in binary and (idle := [key for key in TEXT_ONLY if getattr(how, key) is not None]):
        raise DataError(f"{where} is {format_}, of which {idle} say nothing; remove them from the source in params.yaml")
    return format_


def refuse_no_file(where: str, path: Path) -> None:
    """DataError unless the path leads to a file that can be read, without opening what may block."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        why = "is a link to nothing" if path.is_symlink() else "is not there"
        raise DataError(f"{where}: no file {str(path)!r}: it {why}; correct it in params.yaml or put the file there") from error
    except PermissionError as error:
        raise DataError(f"{where}: {str(path)!r} may not be read by this user; change its permissions") from error
    except OSError as error:
        raise DataError(f"{where}: no file {str(path)!r}: {error.strerror}; correct it in params.yaml") from error
    if stat.S_ISDIR(mode):
        raise DataError(f"{where}: no file {str(path)!r}: it is a folder; name the files in it: {path}/*.csv")
    if not stat.S_ISREG(mode):
        raise DataError(f"{where}: no file {str(path)!r}: it is a pipe, socket or device; expected a file")
    if not os.access(path, os.R_OK):
        raise DataError(f"{where}: {str(path)!r} may not be read by this user; change its permissions")


def _by_content(head: bytes) -> Format | None:
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"ARROW1") or head.startswith(b"\xff\xff\xff\xff"):  # a file, or a stream's first message
        return "arrow"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"[") and text[1:].lstrip()[:1] in (b"{", b"]"):
        return "json"
    return "json" if text.startswith(b"{") and _is_object(text) else None


def _is_object(text: bytes) -> bool:
    """Whether JSON's object starts here, even one that is broken further on: its first key is a quoted word."""
    inside = text[1:].lstrip()
    if not inside.startswith((b'"', b"}")):
        return False
    try:
        json.JSONDecoder().raw_decode(inside.decode("utf-8", "replace")) if inside.startswith(b'"') else None
    except ValueError:
        return False
    return True


def _by_name(name: str) -> Format:
    """What the name's endings promise, those of packing set aside."""
    endings = [ending.lower() for ending in Path(name).suffixes]
    return "json" if {".json", ".jsonl", ".ndjson"} & set(endings[-2:]) else "csv"


def _refuse_no_table(where: str, head: bytes) -> None:
    for magic, what in NO_TABLES.items():
        if head.startswith(magic) and not (magic.isalnum() and head.isascii()):
            raise DataError(f"{where} is not a table but {what}; name a file of text, JSON lines, Parquet or Arrow")
    if head.lstrip().lower().startswith(MARKUP):
        raise DataError(f"{where} is not a table but a page of HTML or XML; was a log-in page saved in its place?")

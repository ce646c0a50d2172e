"""What a user gets for each kind of corrupted or odd file: the right values or one line; also the cases of the tests."""

import gzip
import io
import json
import logging
import os
import socket
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import zstandard
from rich.console import Console
from rich.table import Table

from tasks.core.errors import DataError
from tasks.core.privacy import Guard
from tasks.params import FileSource
from tasks.sources import file
from tasks.sources.store import Store

RAN = "tidemill-cve-2023-47248"  # appears in the current folder if a crafted file runs its code
Content = bytes | Callable[[Path], None]
GOOD = b"id,word,day\n1,AA,2013-01-01\n2,BB,2013-01-02\n3,,2013-01-03\n"
ROWS = {"id": [1, 2, 3], "word": ["AA", "BB", None], "day": [date(2013, 1, 1), date(2013, 1, 2), date(2013, 1, 3)]}
MANY = b"id,word\n" + b"".join(b"%d,%s\n" % (n, b"x" * (n % 7)) for n in range(20_000))


@dataclass(frozen=True)
class Case:
    """A kind of file: what it holds, how params.yaml says it is read, and the values or the words that come of it."""

    kind: str
    content: Content
    rows: dict[str, list[Any]] | None = None
    error: str = ""
    log: str = ""
    name: str = "a.csv"
    how: dict[str, Any] = field(default_factory=dict)


def parquet(table: pa.Table, **options: Any) -> bytes:
    content = io.BytesIO()
    pq.write_table(table, content, **options)
    return content.getvalue()


def arrow(table: pa.Table, kind: Callable[..., Any]) -> bytes:
    content = io.BytesIO()
    with kind(content, table.schema) as writer:
        writer.write_table(table)
    return content.getvalue()


def wide_decimals(value: str) -> pa.Table:
    return pa.table({"n": pa.array([Decimal(value), None], pa.decimal256(50, 2))})


def feather_1() -> bytes:
    content = io.BytesIO()
    feather.write_feather(pa.table({"id": [1]}), content, version=1)
    return content.getvalue()


def zipped(*members: tuple[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return content.getvalue()


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


def encrypted() -> bytes:
    """A zip whose member says that it is encrypted."""
    content = bytearray(zipped(("a.csv", GOOD)))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def bomb() -> bytes:
    """A zip whose directory says that its member has 2 TB."""
    content = zipped(("a.csv", GOOD))
    start = content.index(b"PK\x01\x02")
    head = bytearray(content[start : content.index(b"PK\x05\x06")])
    end = bytearray(content[content.index(b"PK\x05\x06") :])
    head[24:28] = b"\xff" * 4
    extra = struct.pack("<HHQ", 1, 8, 2 << 40)
    head[30:32] = struct.pack("<H", len(extra))
    end[12:16] = struct.pack("<I", len(head) + len(extra))
    return content[:start] + bytes(head) + extra + bytes(end)


def crafted() -> pa.Table:
    """CVE-2023-47248: a schema that names an extension type of Python, with a pickle that would run code: make the file RAN."""
    pickled = f"cos\nsystem\n(S'touch {RAN}'\ntR.".encode()
    metadata = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickled}
    return pa.table([pa.array([1, 2])], schema=pa.schema([pa.field("a", pa.int64(), metadata=metadata)]))


def crafted_parquet() -> bytes:
    return parquet(crafted())


def crafted_arrow() -> bytes:
    return arrow(crafted(), pa.ipc.new_file)


def link(path: Path) -> None:
    target = path.with_name("target.csv")
    target.write_bytes(GOOD)
    path.symlink_to(target)


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere.csv"))


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))  # the whole path may be too long for a socket


TABLE = pa.table({"id": [1, 2, 3], "word": ["AA", "BB", None], "day": ROWS["day"]})
NESTED = pa.table({"word": pa.array(["x", "y", "x"]).dictionary_encode(), "list": [[1, 2], [], None], "map": [{"a": 1}] * 3})
NESTED_ROWS = {"word": ["x", "y", "x"], "list": ["[1,2]", "[]", None], "map": ['{"a":1}'] * 3}
ZONED = pa.table({kind: pa.array([datetime(2013, 1, 1, 3)], pa.timestamp(kind, "UTC")) for kind in ("ms", "us", "ns")})
ZONED_ROWS = {kind: [datetime(2013, 1, 1, 3)] for kind in ("ms", "us", "ns")}
DECIMALS = pa.table(
    {
        "id": pa.array([Decimal(9007199254740993), None], pa.decimal128(38, 0)),
        "far": pa.array([Decimal(12345678901234567890123), Decimal(7)], pa.decimal128(38, 0)),
        "price": pa.array([Decimal("0.1"), Decimal("1234567890123.45")], pa.decimal128(38, 10)),
        "fine": pa.array([Decimal("0.1"), Decimal("12345678901234567.8912")], pa.decimal128(38, 4)),
    }
)
UNSIGNED = parquet(pa.table({"n": pa.array([7, 2**63], pa.uint64())}))
GAPS = pa.table(
    {
        "word": ["NA", "x", "y"],
        "whole": pa.array([-999, 2, 1], pa.int32()),
        "real": pa.array([-999.0, 1.5, 2.5], pa.float32()),
        "price": pa.array([Decimal("-2.5"), Decimal("1.5"), Decimal("2.6")], pa.decimal128(9, 1)),
        "day": [date(1970, 1, 1), date(2013, 1, 1), None],
        "flag": [False, True, None],
        "list": [[-999], [1], None],
    }
)
GAPS_ROWS = {
    "word": [None, "x", "y"],
    "whole": [None, 2, 1],
    "real": [None, None, 2.5],
    "price": [None, None, 2.6],
    "day": [None, date(2013, 1, 1), None],
    "flag": [False, True, None],
    "list": ["[-999]", "[1]", None],
}
HALVES = pa.table({"n": [1], "h": pa.array(np.array([1.5], np.float16))})
UNION = pa.table({"u": pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1]), pa.array(["x"])])})
TWICE = pa.table([[1], [2]], ["A", "a"])
INSIDE = pa.table({"a": [{"a": 1, "b": {"a": 2}}], "b": [[1]]})
HUNDREDS = pa.table({"n": pa.array([Decimal(1200)], pa.decimal128(5, -2))})
WIDE = (",".join(f"c{n}" for n in range(5000)) + "\n" + ",".join(map(str, range(5000))) + "\n").encode()
PARQUET = parquet(TABLE)

CASES = [
    Case("plain CSV", GOOD, ROWS),
    Case("gzip", gzip.compress(GOOD), ROWS, name="a.csv.gz"),
    Case("gzip under another name", gzip.compress(GOOD), ROWS),
    Case("zstd", zstandard.compress(GOOD), ROWS, name="a.csv.zst"),
    Case("zstd in two frames", zstandard.compress(GOOD[:30]) + zstandard.compress(GOOD[30:]), ROWS, name="a.csv.zst"),
    Case("zip", zipped(("a.csv", GOOD)), ROWS, name="a.zip"),
    Case("zip from a Mac", zipped(("a.csv", GOOD), ("__MACOSX/._a.csv", b"junk")), ROWS, name="a.zip"),
    Case(
        "zip of two", zipped(("a.csv", GOOD), ("b.csv", GOOD)), error="holds 2 files; expected a zip of exactly one", name="a.zip"
    ),
    Case("zip of none", zipped(), error="holds 0 files; expected a zip of exactly one", name="a.zip"),
    Case("zip bomb", bomb(), error="do not fit on the disk", name="a.zip"),
    Case("encrypted zip", encrypted(), error="is an encrypted zip; unpack it", name="a.zip"),
    Case("damaged zip", flipped(zipped(("a.csv", GOOD * 99)), 50), error="cannot be unpacked", name="a.zip"),
    Case("truncated gzip", gzip.compress(MANY)[:-40], error="cannot be unpacked: it is damaged or cut off", name="a.csv.gz"),
    Case("flipped gzip", flipped(gzip.compress(GOOD), -6), error="cannot be unpacked", name="a.csv.gz"),
    Case("truncated zstd", zstandard.compress(MANY)[:-40], error="cannot be unpacked: it is damaged or cut off", name="a.csv.zst"),
    Case("packed twice", gzip.compress(gzip.compress(GOOD)), error="packed twice (unpack it once)", name="a.csv.gz"),
    Case("Excel workbook", zipped(("xl/workbook.xml", b"<x/>"), ("docProps/app.xml", b"<x/>")), error="an Excel workbook"),
    Case("Parquet", PARQUET, ROWS, name="a.parquet"),
    Case("Parquet in a zip", zipped(("a.parquet", PARQUET)), ROWS, name="a.zip"),
    Case("Parquet named CSV", PARQUET, ROWS),
    Case(
        "words for no value in Parquet",
        parquet(GAPS),
        GAPS_ROWS,
        how={"missing": ("NA", "-999", "1.5", "1970-01-01", "0", "-2.50")},
    ),
    Case(
        "words for no value in Arrow",
        arrow(GAPS, pa.ipc.new_file),
        GAPS_ROWS,
        how={"missing": ("NA", "-999.0", "1.5", "1970-01-01", "0", "-2.5")},
    ),
    Case("truncated Parquet", PARQUET[:-100], error="is not a table", name="a.parquet"),
    Case("bit-flipped Parquet", flipped(PARQUET, 5), error="is not a table", name="a.parquet"),
    Case("bit-flipped Parquet footer", flipped(PARQUET, len(PARQUET) - 7), error="is not a table", name="a.parquet"),
    Case("Parquet of zero rows", parquet(TABLE.slice(0, 0)), error="has a header and no row", name="a.parquet"),
    Case("crafted Parquet (CVE-2023-47248)", crafted_parquet(), {"a": [1, 2]}, name="a.parquet"),
    Case("crafted Arrow (CVE-2023-47248)", crafted_arrow(), error="is not whole Arrow IPC", name="a.arrow"),
    Case("Arrow file", arrow(TABLE, pa.ipc.new_file), ROWS, name="a.arrow"),
    Case("Arrow stream", arrow(TABLE, pa.ipc.new_stream), ROWS, name="a.arrows"),
    Case("Arrow, dictionary and nested", arrow(NESTED, pa.ipc.new_file), NESTED_ROWS, name="a.feather"),
    Case("truncated Arrow", arrow(TABLE, pa.ipc.new_file)[:-50], error="is not whole Arrow IPC", name="a.arrow"),
    Case("truncated Arrow stream", arrow(TABLE, pa.ipc.new_stream)[:-200], error="is not whole Arrow IPC", name="a.arrows"),
    Case("Arrow, nanoseconds with a zone", arrow(ZONED, pa.ipc.new_file), ZONED_ROWS, name="a.arrow"),
    Case(
        "Arrow of half floats", arrow(HALVES, pa.ipc.new_file), error="column 'h' is of Arrow's kind halffloat, which is not read"
    ),
    Case("Arrow of a union", arrow(UNION, pa.ipc.new_stream), error="column 'u' is of Arrow's kind sparse_union<"),
    Case(
        "Arrow of decimals without units", arrow(HUNDREDS, pa.ipc.new_file), error="column 'n' is of Arrow's kind decimal128(5, -2)"
    ),
    Case("Feather of version 1", feather_1(), error="is not a table but a Feather file of version 1", name="a.feather"),
    Case("Feather of version 1, named Arrow", feather_1(), error="a Feather file of version 1", how={"format": "arrow"}),
    Case("Parquet with a name twice", parquet(TWICE), error="it names the columns ['A', 'a'] more than once", name="a.parquet"),
    Case("Arrow with a name twice", arrow(TWICE, pa.ipc.new_file), error="it names the columns ['A', 'a'] more than once"),
    Case("Parquet without a name", parquet(pa.table([[1], [2]], ["a", ""])), error="it has no name for column 2 of 2; name it"),
    Case("Parquet, nested names twice", parquet(INSIDE), {"a": ['{"a":1,"b":{"a":2}}'], "b": ["[1]"]}, name="a.parquet"),
    Case("plain CSV named gzip", GOOD, ROWS, name="a.csv.gz"),
    Case("plain CSV named zstd", GOOD, ROWS, name="a.csv.zst"),
    Case("plain JSON named gzip", b'{"a": 1}\n', {"a": [1]}, name="a.jsonl.gz"),
    Case("UTF-8 with a mark", b"\xef\xbb\xbf" + GOOD, ROWS),
    Case("UTF-16 with a mark", GOOD.decode().encode("utf-16"), ROWS),
    Case("UTF-16 without a mark", GOOD.decode().encode("utf-16-le"), error="line 1 holds a NUL byte"),
    Case("UTF-16, named", GOOD.decode().encode("utf-16-le"), ROWS, how={"encoding": "utf-16-le"}),
    Case(
        "Latin-1",
        "id,place\n1,Café de la Gare\n2,Zürich\n3,Málaga\n".encode("latin-1"),
        {"id": [1, 2, 3], "place": ["Café de la Gare", "Zürich", "Málaga"]},
        log="was read as cp1252, for example 'Café'",
    ),
    Case(
        "Windows-1252, named",
        "id,price\n1,5 €\n".encode("cp1252"),
        {"id": [1], "price": ["5 €"]},
        how={"encoding": "windows-1252"},
    ),
    Case("undecodable byte", "id,place\n1,Café\n2,Zürich\n3,x".encode() + b"\x81\n", error="line 4 holds the byte 0x81"),
    Case("byte that cp1252 lacks", GOOD + b"4,\x81,\n", error="line 5 holds", how={"encoding": "cp1252"}),
    Case("encoding that is none", GOOD, error="no encoding is called 'klingon'", how={"encoding": "klingon"}),
    Case("NUL bytes", GOOD.replace(b"BB", b"B\0"), error="line 3 holds a NUL byte"),
    Case("random bytes", bytes(range(256)) * 20, error="is not a table"),
    Case("semicolons", GOOD.replace(b",", b";"), ROWS),
    Case("tabs", GOOD.replace(b",", b"\t"), ROWS, name="a.tsv"),
    Case("bars", GOOD.replace(b",", b"|"), ROWS),
    Case("carets", GOOD.replace(b",", b"^"), ROWS),
    Case("commas in semicolons", b"name;place\nx;Rome, Italy\ny;Paris\n", {"name": ["x", "y"], "place": ["Rome, Italy", "Paris"]}),
    Case("wrong delimiter given", GOOD, error="its header has no ';', the delimiter in params.yaml", how={"delimiter": ";"}),
    Case("one column", b"id\n1\n2\n", {"id": [1, 2]}),
    Case("CRLF", GOOD.replace(b"\n", b"\r\n"), ROWS),
    Case("CR", GOOD.replace(b"\n", b"\r"), ROWS),
    Case("LF within CRLF", b'a,b\r\n1,"x\ny"\r\n2,z\r\n', {"a": [1, 2], "b": ["x\ny", "z"]}),
    Case("ends of two kinds", b"a,b\r\n1,2\n3,4\r\n", error="the lines end in more than one way"),
    Case("no end of the last line", GOOD[:-1], ROWS),
    Case("quotes doubled", b'a,b\n1,"say ""hi"", you"\n', {"a": [1], "b": ['say "hi", you']}),
    Case("quotes escaped", b'a,b\n1,"say \\"hi\\", you"\n2,x\n', {"a": [1, 2], "b": ['say "hi", you', "x"]}),
    Case("single quotes", b"'a','b'\n'1','x, y'\n", {"a": [1], "b": ["x, y"]}),
    Case("quote in the middle", b'a,b\n1,5" pipe\n', {"a": [1], "b": ['5" pipe']}),
    Case("stray quote", b'a,b\n1,"5" pipe\n2,x\n', error="line 2 holds a quote"),
    Case("unclosed quote", MANY + b'1,"x\n' + b"2,y\n" * 50, error="holds a quote that is not closed"),
    Case("ragged long line", MANY + b"1,2,3\n" + MANY[8:], error="line 20002 has more fields than the header's 2"),
    Case("ragged short line", MANY + b"1\n" + MANY[8:], error="line 20002 has 1 of the header's 2 fields"),
    Case("lines before the header", b"made by us\n\n" + GOOD, error="line 3 has more fields than the header's 1"),
    Case("trailing delimiter", b"a,b,\n1,2,\n", error="its header has no name for column 3 of 3"),
    Case("trailing delimiter in rows", b"a,b\n1,2,\n", {"a": [1], "b": [2]}),
    Case("duplicate column names", b"id,word,ID\n1,AA,2\n", error="its header names the columns ['ID', 'id'] more than once"),
    Case("empty column name", b",word\n1,AA\n", error="its header has no name for column 1 of 2; name it"),
    Case("header that is data", b"1,2.5,2013-01-01\n2,3.5,2013-01-02\n", error="its first line holds numbers only"),
    Case("zero rows", b"id,word\n", error="has a header and no row; expected at least one"),
    Case("zero bytes", b"", error="is empty (0 bytes); expected a header line and rows"),
    Case("blank lines first", b"\n\n" + GOOD, ROWS),
    Case("blank lines first, CRLF", b"\r\n  \r\n" + GOOD.replace(b"\n", b"\r\n"), ROWS),
    Case("blank lines first, CR", b"\r\r" + GOOD.replace(b"\n", b"\r"), ROWS),
    Case("line of spaces first", b"   \n" + GOOD, ROWS),
    Case("line of spaces first, one column", b"   \nid\n1\n", {"id": [1]}),
    Case("blank lines first, marked", b"\xef\xbb\xbf\n \n" + GOOD, ROWS),
    Case("blank line first, ragged long line", b"\n" + MANY + b"1,2,3\n", error="line 20003 has more fields than the header's 2"),
    Case("only blank lines", b"\n\n\n", error="is empty"),
    Case("one row", b"id,word\n1,AA\n", {"id": [1], "word": ["AA"]}),
    Case("all-null column", b"id,word\n1,\n2,\n", {"id": [1, 2], "word": [None, None]}),
    Case("very long field", b"id,word\n1," + b"x" * 10_000_000 + b"\n", {"id": [1], "word": ["x" * 10_000_000]}),
    Case("field beyond all bounds", b"id,word\n1," + b"x" * 17_000_000 + b"\n", error="is longer than"),
    Case("5,000 columns", WIDE, {f"c{n}": [n] for n in range(5000)}),
    Case(
        "mixed types, few words",
        b"n\n" + b"1\n" * 99 + b"abc\n",
        error="column 'n' holds 1 values that are no numbers among 100: row 100 holds 'abc'",
    ),
    Case("mixed types, kept as text", b"n\n1\nabc\n", {"n": ["1", "abc"]}, how={"types": {"n": "text"}}),
    Case("mixed types, the word missing", b"n\n1\nabc\n", {"n": [1, None]}, how={"missing": ("abc",)}),
    Case("mixed types, many words", b"n\n1\n2\nabc\n", {"n": ["1", "2", "abc"]}, log="column 'n' is text: 1 of its 3 values"),
    Case("type that the values deny", b"n\n1\nabc\n", error="column 'n' is a number, but not all", how={"types": {"n": "number"}}),
    Case("type of no column", b"n\n1\n", error="types names ['m']", how={"types": {"m": "text"}}),
    Case("inf and NaN", b"n\n1.5\ninf\n-Infinity\n", {"n": [1.5, float("inf"), float("-inf")]}, log="2 values nan or inf"),
    Case(
        "numbers too large",
        b"n\n1e400\n-1E+999\n1e30\n",
        {"n": [float("inf"), float("-inf"), 1e30]},
        log="holds 2 numbers too large",
    ),
    Case("numbers large and small", b"n\n1e307\n1e-400\n1.5\n", {"n": [1e307, 0.0, 1.5]}),
    Case("zeros in front", b"code\n00123\n94105\n", {"code": ["00123", "94105"]}, log="stays text: zeros stand in front"),
    Case(
        "zeros in front of groups",
        b"a;b;c;d\n030 123 456;012'345;555.123.456;0.123.456\n40 123 456;12'345;040.555.777;1.123.456\n",
        {
            "a": ["030 123 456", "40 123 456"],
            "b": ["012'345", "12'345"],
            "c": ["555.123.456", "040.555.777"],
            "d": ["0.123.456", "1.123.456"],
        },
        log="column 'c' stays text: zeros stand in front",
    ),
    Case(
        "codes beside decimals",
        b"c;n\n040.555.777;1.5\n555.123.456;1.234\n",
        {"c": ["040.555.777", "555.123.456"], "n": [1.5, 1.234]},
    ),
    Case("nought beside decimal commas", b"n;m\n1,5;0.555\n2,5;0.125\n", {"n": [1.5, 2.5], "m": [0.555, 0.125]}),
    Case("integers beyond 64 bits", b"n\n12345678901234567890123\n7\n", {"n": ["12345678901234567890123", "7"]}, log="64 bits"),
    Case(
        "integers beyond 64 bits, in groups",
        b"n;m\n1.234.567.890.123.456.789.012;1,5\n1;2,5\n",
        {"n": ["1.234.567.890.123.456.789.012", "1"], "m": [1.5, 2.5]},
        log="column 'n' stays text: it holds integers beyond 64 bits: row 1 holds '1.234.567",
    ),
    Case("integers of 64 bits", b"n\n9223372036854775807\n7\n", {"n": [9223372036854775807, 7]}),
    Case("integers as decimals", parquet(DECIMALS.select(["id"])), {"id": [9007199254740993, None]}, name="a.parquet"),
    Case(
        "integers as decimals, beyond 64 bits",
        parquet(DECIMALS.select(["far"])),
        {"far": ["12345678901234567890123", "7"]},
        log="column 'far' stays text: it holds 1 integers beyond 64 bits",
    ),
    Case("decimals that a number keeps", parquet(DECIMALS.select(["price"])), {"price": [0.1, 1234567890123.45]}),
    Case(
        "decimals that a number rounds",
        parquet(DECIMALS.select(["fine"])),
        {"fine": [0.1, 12345678901234567.89]},
        log="column 'fine' holds 1 decimals of more than 15 digits, which are rounded; types: {fine: text} keeps them",
    ),
    Case(
        "decimals, kept as text",
        parquet(DECIMALS.select(["fine"])),
        {"fine": ["0.1000", "12345678901234567.8912"]},
        how={"types": {"fine": "text"}},
    ),
    Case("decimals of 50 digits", parquet(wide_decimals("12.50")), {"n": [12.5, None]}),
    Case(
        "decimals of 50 digits, used",
        parquet(wide_decimals("12345678901234.50")),
        error="column 'n' is decimal(50,2) and holds more digits than can be read",
    ),
    Case("unsigned integers", parquet(pa.table({"n": pa.array([7, 2**63 - 1], pa.uint64())})), {"n": [7, 2**63 - 1]}),
    Case(
        "unsigned integers beyond 64 bits with a sign",
        UNSIGNED,
        error="column 'n' holds 1 integers beyond 64 bits with a sign; keep them as text, types: {n: text}",
    ),
    Case("unsigned integers, kept as text", UNSIGNED, {"n": ["7", "9223372036854775808"]}, how={"types": {"n": "text"}}),
    Case("thousands separators", b'n\n"1,234.5"\n"12,345,678"\n', {"n": [1234.5, 12345678.0]}, log="decimal point"),
    Case("thousands by spaces", b"n\n1 234\n12 345 678\n", {"n": [1234, 12345678]}, log="decimal point"),
    Case("decimal comma", b"n;m\n1,5;1.234,56\n-2,25;7,0\n", {"n": [1.5, -2.25], "m": [1234.56, 7.0]}, log="decimal comma"),
    Case("comma of either kind", b'n\n"1,234"\n"5,678"\n', error="column 'n' may hold decimals or thousands: row 1 holds '1,234'"),
    Case("comma, said to be decimal", b'n\n"1,234"\n"5,678"\n', {"n": [1.234, 5.678]}, how={"decimal": ","}),
    Case("comma, said to be thousands", b'n\n"1,234"\n"5,678"\n', {"n": [1234, 5678]}, how={"decimal": "."}),
    Case("comma, told by another column", b'n,m\n"1,234",0.5\n"5,678",1.5\n', {"n": [1234, 5678], "m": [0.5, 1.5]}),
    Case("point beside decimal commas", b"n;m\n1,5;1.234\n2,5;5.678\n", error="column 'm' may hold decimals or thousands"),
    Case("point beside commas in text", b"w;m\n1,5 kg;1.234\n", error="column 'm' may hold decimals or thousands"),
    Case("point beside words and commas", b"w;m\n1,5;1.234\n-;2.345\nx;3.456\n", error="column 'm' may hold decimals or thousands"),
    Case("point beside both marks", b"a;b;m\n1,5;1.5;1.234\n", error="column 'm' may hold decimals or thousands"),
    Case(
        "point beside commas in sentences",
        b"w;m\nsizes 1,2 and 3;1.234\nin 2013, 5 of 7;2.345\n",
        {"w": ["sizes 1,2 and 3", "in 2013, 5 of 7"], "m": [1.234, 2.345]},
    ),
    Case("point, said to be decimal", b"w;m\n1,5 kg;1.234\n", {"w": ["1,5 kg"], "m": [1.234]}, how={"decimal": "."}),
    Case("three decimals", b"m\n1.234\n5.678\n", {"m": [1.234, 5.678]}),
    Case("point against decimal: ','", b"n\n1.5\n2.5\n", error="that decimal: ',' does not read", how={"decimal": ","}),
    Case("dates of one other format", b"d\n01/02/2013\n13/02/2013\n", {"d": [date(2013, 2, 1), date(2013, 2, 13)]}),
    Case("dates with months first", b"d\n01/02/2013\n02/13/2013\n", {"d": [date(2013, 1, 2), date(2013, 2, 13)]}),
    Case("dates with times", b"d\n13/02/2013 05:06\n", {"d": [datetime(2013, 2, 13, 5, 6)]}),
    Case("dates with dots", b"d\n01.02.2013\n", {"d": [date(2013, 2, 1)]}),
    Case("dates with dots, short years", b"d\n24.01.15\n", {"d": ["24.01.15"]}, log="dates: '%d.%m.%y' or '%y.%m.%d'"),
    Case(
        "dates with short years",
        b"d,e\n24/01/15,13-05-22\n23/12/31,14-05-22\n",
        {"d": ["24/01/15", "23/12/31"], "e": ["13-05-22", "14-05-22"]},
        log="row 2 holds '23/12/31'; if it does, say dates: '%d/%m/%y' or '%y/%m/%d'",
    ),
    Case("dates with short years, said", b"d\n24/01/15\n", {"d": [date(2024, 1, 15)]}, how={"dates": "%y/%m/%d"}),
    Case(
        "dates with short years and times", b"d\n24-Jan-15 05:06\n", {"d": ["24-Jan-15 05:06"]}, log="say dates: '%d-%b-%y %H:%M'"
    ),
    Case("versions", b"v\n1.10.12\n2.2.13\n", {"v": ["1.10.12", "2.2.13"]}),
    Case("dates in words", b'd\n"May 2, 2013"\n"June 3, 2013"\n', {"d": [date(2013, 5, 2), date(2013, 6, 3)]}),
    Case("ambiguous dates", b"d\n01/02/2013\n03/04/2013\n", error="may hold days or months first: row 1 holds '01/02/2013'"),
    Case("dates, said", b"d\n01/02/2013\n", {"d": [date(2013, 1, 2)]}, how={"dates": "%m/%d/%Y"}),
    Case("dates, said and not so", b"d\n2013-01-02x\n", error="no column holds dates as '%m/%d/%Y'", how={"dates": "%m/%d/%Y"}),
    Case(
        "dates in three formats",
        b"d\n2013-01-02\n13/02/2013\n03.04.2013\n",
        {"d": ["2013-01-02", "13/02/2013", "03.04.2013"]},
        log="its dates have several formats: 1 of %d.%m.%Y, 1 of %d/%m/%Y, 1 of ISO date",
    ),
    Case("times with a zone", b"t\n2013-01-01T05:00:00+02:00\n", {"t": [datetime(2013, 1, 1, 3, 0)]}),
    Case("times of Parquet with a zone", parquet(ZONED, version="2.6"), ZONED_ROWS, name="a.parquet"),
    Case("day that no month has", b"d\n2013-02-30\n2013-01-01\n", {"d": ["2013-02-30", "2013-01-01"]}, log="several formats"),
    Case("true and false", b"b\ntrue\nFALSE\n", {"b": [True, False]}),
    Case("JSON lines", b'{"a": 1, "b": "00123"}\n{"a": 2.5, "b": "x"}\n', {"a": [1, 2.5], "b": ["00123", "x"]}, name="a.jsonl"),
    Case("JSON array", b' [{"a": 1, "d": "2013-01-02"}, {"a": null}]', {"a": [1, None], "d": [date(2013, 1, 2), None]}),
    Case("strings of digits in JSON", b'{"a": "1"}\n{"a": "2"}\n', {"a": ["1", "2"]}),
    Case("nested JSON", b'{"a": {"b": [1, 2]}}\n{"a": null}\n', {"a": ['{"b":[1,2]}', None]}),
    Case("JSON lines, one broken", b'{"a": 1}\n{"a": \n{"a": 3}\n', error="is broken JSON", name="a.jsonl"),
    Case("JSON, truncated", json.dumps([{"a": 1}] * 9).encode()[:-5], error="is broken JSON", name="a.json"),
    Case("JSON with a key twice", b'{"a": 1, "a": 2}\n', error='a key twice, "a"', name="a.jsonl"),
    Case(
        "JSON with keys that differ in case",
        b'{"A": 1}\n{"a": 2}\n',
        error="its keys 'A' and 'a' differ only in case",
        name="a.jsonl",
    ),
    Case(
        "JSON beyond numbers",
        b'{"a": 1e400}\n{"a": 1.5}\n',
        {"a": [float("inf"), 1.5]},
        name="a.jsonl",
        log="too large to be any but inf",
    ),
    Case("JSON without objects", b"[1, 2]", error="holds no objects", name="a.json"),
    Case("JSON of numbers and words", b'{"a": 1}\n{"a": 2}\n{"a": "x"}\n', {"a": ["1", "2", "x"]}, log="column 'a' is text"),
    Case("PDF", b"%PDF-1.7\n%\xe2\xe3\n", error="is not a table but a PDF document"),
    Case("PNG", b"\x89PNG\r\n\x1a\n", error="is not a table but a PNG image"),
    Case("HTML page", b"<!DOCTYPE html>\n<html><body>Log in</body></html>\n", error="a page of HTML or XML"),
    Case("option that the format ignores", PARQUET, error="['delimiter'] say nothing", how={"delimiter": ";"}),
    Case("format that it is not", GOOD, error="is not parquet, as params.yaml says", how={"format": "parquet"}),
    Case("symlink", link, ROWS),
    Case("dangling symlink", dangling, error="it is a link to nothing"),
    Case("directory", lambda path: path.mkdir(), error="it is a folder; name the files in it"),
    Case("FIFO", lambda path: os.mkfifo(path), error="it is a pipe, socket or device; expected a file"),
    Case("socket", bound_socket, error="it is a pipe, socket or device; expected a file"),
]


def land(case: Case, folder: Path) -> dict[str, list[Any]]:
    """The values that land of the case's file, by column."""
    path = folder / case.name
    case.content(path) if callable(case.content) else path.write_bytes(case.content)
    source = FileSource(kind="file", file=str(path), **case.how)
    store = Store(folder / "store/key")
    file.land("flights", source, file.look("flights", source), Guard(), store)
    values: dict[str, list[Any]] = pq.read_table(store.paths[0]).to_pydict()
    return values


def outcome(case: Case) -> str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            values = land(case, Path(folder))
        except DataError as error:
            return str(error).replace(f"{folder}/", "").removeprefix("source 'flights': ")
    said = str(values if len(values) < 10 else f"{len(values):,} columns")
    return f"accepted: {said if len(said) < 120 else f'{said[:117]}...'}"


def main() -> None:
    logging.disable(logging.CRITICAL)
    table = Table("kind", "what the user gets", title=f"{len(CASES)} kinds of file, DuckDB {duckdb.__version__}", show_lines=False)
    for case in CASES:
        table.add_row(case.kind, outcome(case).replace("[", r"\["))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    main()

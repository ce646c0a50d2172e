"""How a text is cut into fields: decided on its first lines, said explicitly to DuckDB, which holds all of the file to it."""

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.core.errors import DataError

SAMPLE = 1 << 20  # bytes
COMMON = (",", ";", "\t", "|")
RARE = ("^", "~", "\x1f", "\x01", "§", ":")  # only where none of the common ones cuts the header
NUMBER = re.compile(r"\s*[-+]?[0-9]+([.,:/-][0-9]+)*\s*")


@dataclass(frozen=True)
class Dialect:
    delimiter: str
    quote: str
    escape: str
    header: tuple[str, ...]
    skip: int = 0  # blank lines before the header


def find_dialect(where: str, path: Path, delimiter: str | None) -> Dialect:
    """The dialect in which most of the first lines have as many fields as the header; DataError for a header that is none."""
    lines, skip = _first_lines(path)
    candidates = [d for d in COMMON if d in lines[0]] or [d for d in RARE if d in lines[0]] or [","]
    if delimiter is not None:
        others = [d for d in COMMON if d in lines[0]]
        if delimiter not in lines[0] and others:
            raise DataError(f"{where}: its header has no {delimiter!r}, the delimiter in params.yaml, but {others}; correct it")
        candidates = [delimiter]
    quote = "'" if '"' not in "".join(lines) and re.match(r"'[^']*'([^\w' ]'|\s*$)", lines[0]) else '"'
    escapes = (quote, "\\") if f"\\{quote}" in "".join(lines) else (quote,)
    tried = [_cut(lines, Dialect(d, quote, e, ())) for d in candidates for e in escapes]
    score, best = max(tried, key=lambda pair: pair[0])
    return replace(best, header=_header(where, best, score[0]), skip=skip)


def refuse_names(where: str, names: Sequence[str], what: str, hint: str = "") -> None:
    """DataError when two columns share a name, in any case, or one has none."""
    folded = Counter(name.casefold() for name in names if name)
    if twice := sorted({name for name in names if folded[name.casefold()] > 1}):
        raise DataError(f"{where}: {what} names the columns {twice} more than once; expected each name once: rename them")
    if nameless := [number for number, name in enumerate(names, 1) if not name]:
        raise DataError(f"{where}: {what} has no name for column {nameless[0]} of {len(names)}; name it, or remove it{hint}")


def _first_lines(path: Path) -> tuple[list[str], int]:
    """The whole lines among the first bytes, or the only one as far as it goes, and how many blank ones stand before them."""
    with path.open("rb") as file:
        data = file.read(SAMPLE)
    whole = len(data) < SAMPLE
    text = io.StringIO(data.decode("utf-8", "ignore"), newline=None).read()
    lines = text.splitlines(keepends=False) if "\n" not in text else text.split("\n")
    lines = [f"{line}\n" for line in (lines if whole or len(lines) == 1 else lines[:-1])]
    skip = next((number for number, line in enumerate(lines) if line.strip("\ufeff \n")), len(lines))
    return lines[skip:] or ["\n"], skip


def _cut(lines: list[str], dialect: Dialect) -> tuple[tuple[float, int], Dialect]:
    """The share of rows with as many fields as the header, how many these are, and the dialect with that header."""
    doubled = dialect.escape == dialect.quote
    csv.field_size_limit(1 << 30)
    reader = csv.reader(
        lines,
        delimiter=dialect.delimiter,
        quotechar=dialect.quote,
        doublequote=doubled,
        escapechar=None if doubled else dialect.escape,
        strict=True,
    )
    counts: Counter[int] = Counter()
    header: list[str] = []
    try:
        header = next(reader)
        for row in reader:
            counts[len(row)] += bool(row)
    except (csv.Error, StopIteration):
        counts[-1] += 1  # a quote that this dialect cannot read, or that the sample cuts
    share = counts[len(header)] / max(1, sum(counts.values()))
    return (share, len(header)), Dialect(dialect.delimiter, dialect.quote, dialect.escape, tuple(header))


def _header(where: str, dialect: Dialect, share: float) -> tuple[str, ...]:
    names = tuple(name.strip() for name in dialect.header)
    refuse_names(where, names, "its header", f" (a {dialect.delimiter!r} at the line's end begins one more column)")
    if all(NUMBER.fullmatch(name) for name in names):
        raise DataError(f"{where}: its first line holds numbers only, {list(names[:3])}; expected a header line with names: add it")
    return names

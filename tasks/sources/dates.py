"""How dates are written: ISO, or one format that all of a column's values have and no other one has as well."""

import duckdb

from tasks.engine import literal, quoted, short

SAMPLE = 2000
_DAY, _YEAR, _SHORT, _WORD = "[0-9]{1,2}", "[0-9]{4}", "[0-9]{2}", "[A-Za-z]{3,9}"
# Dots are written with the day first, everywhere; with strokes and hyphens both orders are.
_DATES = {
    "%Y/%m/%d": f"{_YEAR}/{_DAY}/{_DAY}",
    "%Y.%m.%d": f"{_YEAR}[.]{_DAY}[.]{_DAY}",
    "%d.%m.%Y": f"{_DAY}[.]{_DAY}[.]{_YEAR}",
    "%d.%m.%y": f"{_DAY}[.]{_DAY}[.]{_SHORT}",
    **{f"%{a}{s}%{b}{s}%Y": f"{_DAY}{s}{_DAY}{s}{_YEAR}" for s in "/-" for a, b in ("dm", "md")},
    **{f"%{a}{s}%{b}{s}%y": f"{_DAY}{s}{_DAY}{s}{_SHORT}" for s in "/-" for a, b in ("dm", "md")},
    **{f"%y{s}%m{s}%d": f"{_SHORT}[{s}]{_DAY}[{s}]{_DAY}" for s in "/-."},
    **{f"%d{s}%{m}{s}%Y": f"{_DAY}{s}{_WORD}{s}{_YEAR}" for s in "- " for m in "bB"},
    **{f"%{m} %d, %Y": f"{_WORD} {_DAY}, {_YEAR}" for m in "bB"},
    "%d-%b-%y": f"{_DAY}-{_WORD}-{_SHORT}",
}
_TIMES = {
    "": "",
    " %H:%M": " [0-9]{1,2}:[0-9]{2}",
    " %H:%M:%S": " [0-9]{1,2}:[0-9]{2}:[0-9]{2}",
    " %I:%M %p": " [0-9]{1,2}:[0-9]{2} [AaPp][Mm]",
    " %I:%M:%S %p": " [0-9]{1,2}:[0-9]{2}:[0-9]{2} [AaPp][Mm]",
}
FORMATS = {date + time: shape + of_time for date, shape in _DATES.items() for time, of_time in _TIMES.items()}

_ISO_DATE = "[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}"
_ISO_TIME = f"{_ISO_DATE}[T ][0-9]{{1,2}}:[0-9]{{2}}(:[0-9]{{2}}([.][0-9]+)?)?"
ISO = {
    "date": f" *{_ISO_DATE} *",
    "time": f" *{_ISO_TIME} *",
    "zoned": f" *{_ISO_TIME} ?(Z|[-+][0-9]{{2}}(:?[0-9]{{2}})?) *",
}
DOTTED = "[0-9]{2}[.][0-9]{2}[.][0-9]{2}.*"  # as dates are, but few versions
MONTH_FIRST = f" *{_WORD} {_DAY}, {_YEAR}.*"
_TYPES = {"date": "DATE", "time": "TIMESTAMP", "zoned": "TIMESTAMPTZ"}


def is_guess(format_: str) -> bool:
    """Whether it may be read unasked: of three short numbers any may be the year, and a version has three as well."""
    return "%y" not in format_


def counting(column: str) -> list[str]:
    """SQL that counts ISO's dates, times and times with a zone."""
    return [
        f"count(CASE WHEN regexp_full_match({short(column)}, '{ISO[kind]}') THEN TRY_CAST({short(column)} AS {type_}) END)"
        for kind, type_ in _TYPES.items()
    ]


def of_iso(column: str, values: int, date: int, time: int, zoned: int) -> str | None:
    """SQL of ISO's dates where all values are of them, times where some have one; None for a mixture with zones."""
    if date == values:
        return f"CAST({column} AS DATE)"
    if zoned == values:
        return f"CAST({column} AS TIMESTAMPTZ)"
    return f"CAST({column} AS TIMESTAMP)" if date + time == values else None


def parsed(column: str, format_: str) -> str:
    """SQL of the date, or of the time where the format has one; NULL for what is written otherwise."""
    shape = FORMATS.get(format_)
    text = f"trim({short(column)})"
    value = f"try_strptime({text}, {literal(format_)})"
    if shape:
        value = f"CASE WHEN regexp_full_match({text}, {literal(shape)}) THEN {value} END"
    has_time = any(part in format_ for part in ("%H", "%I", "%M", "%S", "%c", "%X", "%T"))
    return value if has_time else f"CAST({value} AS DATE)"


def count_formats(relation: duckdb.DuckDBPyRelation, column: str, among: list[str] | None = None) -> dict[str, int]:
    """How many values each format reads, of those that read one of the first values; 0 for none of these."""
    name = quoted(column)
    present = relation.select(f"{name} AS value").filter("value IS NOT NULL")
    if among is None:
        counts = [f"count({parsed('value', format_)})" for format_ in FORMATS]
        found = present.limit(SAMPLE).aggregate(", ".join(counts)).fetchall()[0]
        among = [format_ for format_, count in zip(FORMATS, found, strict=True) if count]
    if not among:
        return {}
    counts = [f"count({parsed('value', format_)})" for format_ in among]
    return dict(zip(among, present.aggregate(", ".join(counts)).fetchall()[0], strict=True))


def mixture(relation: duckdb.DuckDBPyRelation, column: str, formats: list[str]) -> dict[str, int]:
    """How many values are written in each format, every value counted once, ISO's first and the rest as "none of them"."""
    name = quoted(column)
    iso = [f"WHEN regexp_full_match({short(name)}, '{shape}') THEN 'ISO {kind}'" for kind, shape in ISO.items()]
    other = [f"WHEN {parsed(name, format_)} IS NOT NULL THEN {literal(format_)}" for format_ in formats]
    said = relation.filter(f"{name} IS NOT NULL").select(f"CASE {' '.join([*iso, *other])} ELSE 'none of them' END AS said")
    return dict(said.aggregate("said, count(*) AS n", "said").order("n DESC, said").fetchall())

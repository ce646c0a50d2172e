"""Parts of one source that are files of their own: the same columns in all, of types that fit together."""

from pathlib import Path

import duckdb

from tasks import engine
from tasks.core.errors import DataError
from tasks.stage import replacing

NUMBERS = {"BIGINT", "DOUBLE"}


def agree(where: str, parts: dict[str, Path]) -> None:
    """Columns that are empty in a part have the type that the others give them; DataError, by file and column, for what does
    not fit. Integers beside decimals stay as they are: who reads the parts together has decimals."""
    types = {shown: _types(path) for shown, path in parts.items()}
    first, *others = types
    for other in others:
        if types[first].keys() != types[other].keys():
            gone, new = sorted(types[first].keys() - types[other].keys()), sorted(types[other].keys() - types[first].keys())
            raise DataError(
                f"{where}: its files differ in their columns: {other} lacks {gone} of {first} and has {new} that it lacks; "
                "give all files the same columns, or make two sources"
            )
    empty = {shown: _empty(path) for shown, path in parts.items()}
    common = {column: _common(where, column, types, empty) for column in types[first]}
    for shown, path in parts.items():
        changed = {c: t for c, t in common.items() if c in empty[shown] and types[shown][c] != t}
        if changed:
            _retype(path, changed)


def agree_on_marks(where: str, styles: dict[str, dict[str, str]]) -> None:
    """DataError when the mark before the decimals is a comma in one file and is, or was taken for, a point in another."""
    found = [(column, style, shown) for shown, columns in styles.items() for column, style in columns.items()]
    commas = {column: shown for column, style, shown in reversed(found) if style == "comma"}
    points = {column: shown for column, style, shown in reversed(found) if style != "comma"}
    assumed = [column for column, style, _ in found if style == "point?"]
    by_column = any({"comma", "point"} <= set(columns.values()) for columns in styles.values())
    if not commas or not points:
        return
    if both := [column for column in commas if column in points]:
        comma = point = both[0]
    elif assumed or not by_column:
        comma, point = next(iter(commas)), next(iter(assumed or points))
    else:
        return
    raise DataError(
        f"{where}: its files may differ in the mark before decimals: column {comma!r} of {commas[comma]} has a comma, "
        f"column {point!r} of {points[point]} a point; say which it is, decimal: ',' or decimal: '.', or make two sources"
    )


def _types(path: Path) -> dict[str, str]:
    with engine.connect() as db:
        relation = db.read_parquet(str(path), hive_partitioning=False)
        return dict(zip(relation.columns, map(str, relation.types), strict=True))


def _empty(path: Path) -> set[str]:
    """Columns without any value, from the footer."""
    with engine.connect() as db:
        found = db.sql(
            f"SELECT path_in_schema FROM parquet_metadata({engine.literal(str(path))}) "
            "GROUP BY path_in_schema HAVING bool_and(stats_null_count = num_values)"
        )
        return {column for (column,) in found.fetchall()}


def _common(where: str, column: str, types: dict[str, dict[str, str]], empty: dict[str, set[str]]) -> str:
    """The type of the column in all parts that have values in it."""
    found = {types[shown][column]: shown for shown in reversed(types) if column not in empty[shown]}
    if not found:
        return "VARCHAR"
    if len(found) > 1 and set(found) != NUMBERS:
        (one, first), (other, second) = list(found.items())[:2]
        raise DataError(
            f"{where}: column {column!r} is {other} in {second} and {one} in {first}; "
            f"correct one of them, or say what it is: types: {{{column}: text}}"
        )
    return "DOUBLE" if len(found) > 1 else next(iter(found))


def _retype(path: Path, types: dict[str, str]) -> None:
    with engine.connect() as db, replacing(path) as aside:
        relation: duckdb.DuckDBPyRelation = db.read_parquet(str(path), hive_partitioning=False)
        kept = [
            f"CAST({engine.quoted(c)} AS {types[c]}) AS {engine.quoted(c)}" if c in types else engine.quoted(c)
            for c in relation.columns
        ]
        relation.select(", ".join(kept)).to_parquet(str(aside))

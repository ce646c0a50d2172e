"""DuckDB as it is used here: in a bounded memory, spilling beside the workspace's other caches, never on the network, in UTC."""

from pathlib import Path

import duckdb

MEMORY = "1500MB"  # of its buffers; what is larger spills, so that a table larger than memory is only slower
LONGEST = 128  # bytes of a number or a date
SPILL = Path(".cache/duckdb")


def connect(threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """A connection of its own, to nothing but memory; by itself on all cores."""
    SPILL.mkdir(parents=True, exist_ok=True)
    config = {"memory_limit": MEMORY, "temp_directory": str(SPILL), "autoinstall_known_extensions": "false"}
    db = duckdb.connect(config=config | ({} if threads is None else {"threads": threads}))
    db.execute("SET TimeZone = 'UTC'")  # what has no zone would have this machine's; no part of config, as it takes ICU
    return db


def first_line(error: Exception) -> str:
    """What an engine's error says is wrong, in one line of at most 300 characters: all before its hints."""
    said = " ".join(str(error).strip().split("\n\n")[0].split("Possible fixes:")[0].split())
    return said if len(said) <= 300 else f"{said[:297]}..."


def short(text: str) -> str:
    """SQL of the text where it is no longer than any number or date, else NULL, so that no pattern runs over a whole essay."""
    return f"CASE WHEN strlen({text}) <= {LONGEST} THEN {text} END"


def quoted(name: str) -> str:
    """The name as an identifier of DuckDB's SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """The text as a string of DuckDB's SQL."""
    return "'" + text.replace("'", "''") + "'"

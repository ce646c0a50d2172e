"""Effect evolve: says where a workspace's table and its schema differ, and accepts a column's differences into the schema."""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tasks.child import child_environment, failure
from tasks.core.change import Change, Edit
from tasks.core.errors import DataError, ParamsError
from tasks.stage import RECORDS, content_hash, replacing

RAW, SETS, SCHEMA, CHANGES = Path("data/raw"), Path("data/sets"), Path("data/schema.pbtxt"), Path(".cache/changes.json")
ALL = "all"


def find_changes(workspace: Path) -> list[Change]:
    """Every column of the table that is not as the schema says; fails with the child's own message."""
    if not (workspace / SCHEMA).exists():
        raise DataError(f"{SCHEMA} does not exist yet; python -m flows.train infers it from the first table")
    if not any((workspace / RAW).glob("*.parquet")):
        raise DataError(f"{RAW} holds no table yet; python -m flows.train makes it")
    record = workspace / RECORDS / "compare.json"
    record.unlink(missing_ok=True)
    flags = [f"--raw={RAW}", f"--sets={SETS}", f"--schema={SCHEMA}", f"--changes={CHANGES}"]
    command = [sys.executable, "-m", "tasks.compare", *flags]
    # Its progress goes to stderr: what is shown of the differences may be piped.
    done = subprocess.run(command, cwd=workspace, env=child_environment(), stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise failure("schema", json.loads(record.read_text()) if record.exists() else None, done.stderr.strip()[-2000:])
    return read_changes(workspace)


def read_changes(workspace: Path) -> list[Change]:
    """What the last comparison found."""
    found = json.loads((workspace / CHANGES).read_text())["changes"]
    return [
        Change(one["column"], one["role"], tuple(one["said"]), one["verdict"], tuple((*edit,) for edit in one["edits"]))
        for one in found
    ]  # fmt: skip


def accept_changes(workspace: Path, found: Sequence[Change], columns: Sequence[str]) -> list[Change]:
    """The schema allows what these columns, or "all", hold, and the text of every other one is as it was; returns the rest."""
    named = [one.column for one in found] if ALL in columns and ALL not in {one.column for one in found} else list(columns)
    if strange := sorted(set(named) - {one.column for one in found}):
        there = sorted(one.column for one in found)
        raise ParamsError(f"--accept: {strange} have no difference to accept; {f'these have: {there}' if there else 'none has'}")
    path = workspace / SCHEMA
    if content_hash(path) != json.loads((workspace / CHANGES).read_text())["schema"]:
        raise DataError(f"{SCHEMA} changed while it was looked at; nothing was written, run it again")
    edits = [edit for one in found if one.column in named for edit in one.edits]
    changed = apply_edits(path.read_bytes().decode(), edits)
    with replacing(path) as aside:
        aside.write_bytes(changed.encode())
    return [one for one in found if one.column not in named]


def apply_edits(text: str, edits: Iterable[Edit]) -> str:
    """The text with every edit made, and all between them as it was."""
    last_first = reversed(list(dict.fromkeys(edits)))  # of those at one place, the first stands first
    for start, end, words in sorted(last_first, key=lambda edit: edit[:2], reverse=True):
        text = text[:start] + words + text[end:]
    return text

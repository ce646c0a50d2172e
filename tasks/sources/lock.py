"""sources.lock: what each source was when a run last looked."""

from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tasks.core.errors import DataError

Mark = dict[str, str | int]  # what identifies a source's content: hash and bytes, or watermark and rows, ...


def read_lock(path: Path) -> dict[str, Mark]:
    """The mark of each source by name, none when there is no file; DataError when the file holds something else."""
    try:
        locked = YAML(typ="safe").load(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (YAMLError, ValueError) as error:
        said = " ".join(str(error).split())
        raise DataError(f"{path} is not YAML: {said}; take it back from git, or delete it to look anew") from error
    if not isinstance(locked or {}, dict) or not all(isinstance(mark, dict) for mark in (locked or {}).values()):
        raise DataError(f"{path} does not name each source's mark; take it back from git, or delete it to look anew")
    return locked or {}


def require_lock(path: Path) -> None:
    """DataError unless the file is there: offline, it is all that says what the data is."""
    if not path.exists():
        raise DataError(f"there is no {path}: run once without --offline, which looks at the sources and writes it")


def moved(where: str) -> DataError:
    return DataError(f"{where} changed while it was read; nothing of it was kept, start the run again")


def refuse_moved(name: str, found: Mark, locked: Mark, why: str = "") -> None:
    """DataError unless the source is what the lock says it was; `why` says how it may come that it is not."""
    if found != locked:
        raise DataError(
            f"source {name!r} is not what sources.lock says: found {found}, locked {locked or None}{why and f' ({why})'}; "
            "`python -m flows.train` looks again and rewrites the lock, or put the locked content back"
        )

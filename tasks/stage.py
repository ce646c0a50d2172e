"""Runs a step function as a command: its section from params.yaml, its paths from the flags, its outcome on record."""

import argparse
import hashlib
import importlib.util
import inspect
import json
import logging
import os
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel
from ruamel.yaml import YAML

from tasks.core.errors import DataError, TidemillError
from tasks.params import Params

RECORDS = Path(".cache/stages")  # what each stage's last process cost and how it ended
RUN_PID = "TIDEMILL_RUN_PID"  # the run that a stage must not outlive


def main(step: Callable[..., None]) -> None:
    """Call the step, leave `.cache/stages/<stage>.json` behind, and exit: 0, or the error's code with one line on stderr.

    Positional parameters of the step are sections of params.yaml by name, keyword-only ones are paths.
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of every new network that it compiles
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every URL, and they may hold secrets
    if run := os.environ.get(RUN_PID):
        threading.Thread(target=die_with, args=(int(run),), daemon=True).start()
    name = Path(sys.argv[0]).stem
    parameters = inspect.signature(step).parameters.values()
    parser = argparse.ArgumentParser(prog=f"python -m tasks.{name}", description=inspect.getdoc(step))
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY:
            parser.add_argument(f"--{parameter.name.replace('_', '-')}", type=Path, required=True)
    paths = vars(parser.parse_args())

    try:
        params = Params.load(Path("params.yaml"))
        before = _inputs(name)
        step(*(section(params, p.name) for p in parameters if p.kind is not p.KEYWORD_ONLY), **paths)
        if moved := sorted(path for path, mark in _inputs(name).items() if before.get(path) != mark):
            raise DataError(f"{moved} changed while {name} was reading; nothing was recorded, run it again")
        _record(name, 0, "")
    except TidemillError as error:
        _record(name, error.exit_code, str(error))
        print(f"error: {name}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        message = f"{error.strerror or error}: {error.filename or ''} ({shutil.disk_usage('.').free / 1e6:,.0f} MB free here)"
        _record(name, 1, message)
        print(f"error: {name}: {message}", file=sys.stderr)
        sys.exit(1)
    except MemoryError:
        _record(name, 1, "out of memory; lower the batch or the rows in params.yaml, or use a larger machine")
        raise


def section(params: Params, name: str) -> Any:
    """The part of params.yaml that a step's parameter of that name stands for.

    split stands for preprocess.split alone, class_weights for train.class_weights.
    """
    if name == "split":
        return params.preprocess.split
    if name == "class_weights":
        return params.train.class_weights
    fields = {field.alias or key: key for key, field in Params.model_fields.items()}
    return getattr(params, fields[name])


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to, aside; it takes the place of `path` at the end, and is gone if anything fails before.

    A file is replaced in one step, so that a kill leaves the old one or the new; a folder, which cannot be, may be absent for
    a moment but is never half there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.partial")
    discard(aside)
    try:
        yield aside
        if aside.is_dir() or path.is_dir():
            discard(path)
        aside.replace(path)
    finally:
        discard(aside)


def discard(path: Path) -> None:
    """There is nothing at `path` any more."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def resumable(name: str, *, inputs: Iterable[Path], values: Iterable[BaseModel | int | str]) -> Path:
    """A folder for what a killed step goes on from, the same one as long as inputs, values and code are the same.

    It lies outside the stage's outs, which DVC deletes before a run; folders of other keys are deleted.
    """
    digest = hashlib.sha256()
    for path in inputs:
        digest.update(content_hash(path).encode())
    for value in values:
        digest.update((value.model_dump_json() if isinstance(value, BaseModel) else repr(value)).encode())
    for module in sorted(key for key in sys.modules if key.startswith("tasks.")):
        if source := getattr(sys.modules[module], "__file__", None):
            digest.update(Path(source).read_bytes())
    folder = Path(".cache") / name / digest.hexdigest()[:16]
    for other in folder.parent.glob("*"):
        if other != folder:
            discard(other)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def code_hash(families: Iterable[str]) -> str:
    """SHA-256 of the files of the "module:build" among these, of a module in a package all of the package; the search and the
    training of a builder that was changed are other ones."""
    digest = hashlib.sha256()
    for place in sorted({family.partition(":")[0] for family in families if ":" in family}):
        with suppress(ImportError, ValueError, OSError):  # whoever builds it will say what is wrong with it
            found = importlib.util.find_spec(place.partition(".")[0])
            places = (found.submodule_search_locations or [found.origin or ""]) if found else []
            for path in places:  # a package's folder, or the file
                digest.update(content_hash(Path(path)).encode())
    return digest.hexdigest()


def content_hash(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files in a folder."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted(child for child in path.rglob("*") if child.is_file())
    listing = "".join(f"{child.relative_to(path)} {content_hash(child)}\n" for child in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def _inputs(name: str) -> dict[str, tuple[int, int]]:
    """Size and time of last change of every file that dvc.yaml says the stage depends on, code included."""
    graph = YAML(typ="safe").load(Path("dvc.yaml").read_text()) if Path("dvc.yaml").exists() else {"stages": {}}
    marks = {}
    for dep in map(Path, graph["stages"].get(name, {}).get("deps", [])):
        for path in [dep] if dep.is_file() else sorted(dep.rglob("*")):
            if path.is_file():
                stat = path.stat()
                marks[str(path)] = (stat.st_size, stat.st_mtime_ns)
    return marks


def _record(name: str, exit_code: int, error: str) -> None:
    """Write down what this process cost: seconds of wall clock and CPU, children included, and peak memory in MB."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cost = {
        "wall_s": round(time.time() - psutil.Process().create_time(), 2),
        "cpu_s": round(own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime, 2),
        "peak_mb": round(_peak_bytes() / 1e6),
        "exit": exit_code,
        "error": error,
    }
    with replacing(RECORDS / f"{name}.json") as aside:
        aside.write_text(json.dumps(cost))


def _peak_bytes() -> int:
    """Peak resident memory of this process; ru_maxrss would count what the parent held before exec."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def die_with(run: int) -> None:
    """Never comes back: ends this process at once when that one is gone, so that no orphan writes beside the next run."""
    while True:
        try:
            os.kill(run, 0)
        except ProcessLookupError:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.2)

"""`python -m serving.batch IN OUT`: a file of rows scored by a bundle, in constant memory."""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from serving.cache import cache_name, default_cache
from tasks.cloud.storage import StorageError, open_storage
from tasks.releases import STORE, ReleaseError, Releases, verify_signature

Format = Literal["arrow", "parquet"]
ENDINGS: dict[str, Format] = {".parquet": "parquet", ".pq": "parquet", ".arrows": "arrow", ".arrow": "arrow"}
MEMORY = 1 << 30  # bytes that scoring a file may need, beyond the process itself
TOO_LARGE = f"the file needs more than {MEMORY >> 20:,} MB at once to be read; write it in smaller row groups or batches"
ENDED = f"the process that read the file has ended: the file is broken, or {TOO_LARGE}"


class BatchError(Exception):
    """A file that cannot be scored; the message says why."""


@dataclass(frozen=True)
class Job:
    """A file to score by the bundle in a folder; paths as text."""

    bundle: str
    source: str
    taken: Format
    target: str
    given: Format


@dataclass(frozen=True)
class Outcome:
    """Rows scored and the release that did it, or the error: an HTTP status, a sentence, the faults by column."""

    rows: int = 0
    release: str = ""
    status: int = 200
    detail: str = ""
    faults: tuple[tuple[str, str], ...] = ()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m serving.batch", description="Score a Parquet file or an Arrow stream.")
    parser.add_argument("source", type=Path, metavar="IN", help=f"the rows, by column: {', '.join(ENDINGS)}")
    parser.add_argument("target", type=Path, metavar="OUT", help="the answers to them, in their order, with `id` if IN has it")
    parser.add_argument("--workspace", type=Path, default=Path(), help="folder with releases/ (here)")
    parser.add_argument("--store", metavar="PLACE", help="another release store than that: a folder or s3://BUCKET/PREFIX")
    parser.add_argument("--bundle", type=Path, help="a bundle's folder, instead of a store's production release")
    parser.add_argument("--verify", type=Path, metavar="FILE", help="public key in PEM: only a bundle that it signed is used")
    args = parser.parse_args()
    try:
        key = args.verify.read_bytes() if args.verify else None
        if args.bundle and key is not None:
            verify_signature(args.bundle, key)
        bundle = args.bundle or find_production(args.store or str(args.workspace / STORE), key)
        print(score(args.source, args.target, bundle))
    except (BatchError, ReleaseError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def score(source: Path, target: Path, bundle: Path) -> str:
    """The target holds the answers; returns what was done, in words. BatchError when it is not, and the target is as it was."""
    taken, given = map(format_of, (source, target))
    if not source.is_file():
        raise BatchError(f"{source} is no file")
    if not target.parent.is_dir():
        raise BatchError(f"{target.parent} is no folder; make it first")
    aside = target.with_name(f".{target.name}.partial")
    try:
        job = Job(str(bundle), str(source), taken, str(aside), given)
        outcome = run(job)
        if outcome.status != 200:
            raise BatchError(outcome.detail)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    return f"{outcome.release}: {outcome.rows:,} rows scored, {target}"


def run(job: Job) -> Outcome:
    """What became of the job, in a process of its own; progress goes to stderr."""
    command = [sys.executable, "-m", "serving.batch_child"]
    last = ""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(asdict(job)))
        child.stdin.close()
        for line in child.stdout:
            last, done = line, json.loads(line).get("done")
            if done is not None:
                print(f"{done:,} rows", end="\r" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)
    told = json.loads(last or "{}")
    return Outcome(**told) if "status" in told else Outcome(status=413, detail=ENDED)


def find_production(store: str, public_key: bytes | None) -> Path:
    """The folder of the store's release in production, verified; BatchError when there is none."""
    try:
        releases = Releases(open_storage(store))
        channel, _ = releases.production()
        return releases.fetch(channel.version, default_cache() / cache_name(store), public_key)
    except (StorageError, ReleaseError) as error:
        raise BatchError(str(error)) from error


def format_of(path: Path) -> Format:
    """The format that the name promises."""
    if path.suffix not in ENDINGS:
        raise BatchError(f"{path}: expected a name that ends in {', '.join(ENDINGS)}")
    return ENDINGS[path.suffix]


if __name__ == "__main__":
    main()

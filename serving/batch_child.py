"""The process that scores files, with memory of its own: a line of JSON in for each, lines of JSON out, the last with its end.

It ends when its input does, that is with whoever started it. What a file makes it need beyond MEMORY ends it, and nothing else.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from serving.batch import MEMORY, TOO_LARGE, Job, Outcome
from serving.bundle import Bundle, BundleError, load_bundle
from serving.request import RequestError
from serving.scoring import score_file

KEPT = 2  # bundles: a rollout has two at a time
PROGRESS_SECONDS = 0.5


def do(job: Job, bundles: dict[str, Bundle], seen: Callable[[int], None]) -> Outcome:
    """The job is done, or the outcome says why not."""
    try:
        if job.bundle not in bundles:
            while len(bundles) >= KEPT:
                del bundles[next(iter(bundles))]
            bundles[job.bundle] = load_bundle(Path(job.bundle))
        bundle = bundles[job.bundle]
        rows = score_file(bundle, Path(job.source), job.taken, Path(job.target), job.given, seen)
        return Outcome(rows, f"{bundle.name} {bundle.version}")
    except RequestError as error:
        return Outcome(0, "", error.status, error.detail, tuple(error.faults))
    except MemoryError:
        return Outcome(0, "", 413, TOO_LARGE)
    except (OSError, BundleError) as error:
        return Outcome(0, "", 503, str(error))


def main() -> None:
    used = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
    most = int(used.split()[1]) * 1024 + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w")
    with Path(os.devnull).open("w") as nowhere:  # what Rust says when it gives up, and libraries print, is no answer
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    bundles: dict[str, Bundle] = {}
    told = 0.0

    def tell(rows: int) -> None:
        nonlocal told
        if time.monotonic() - told >= PROGRESS_SECONDS:
            told = time.monotonic()
            print(json.dumps({"done": rows}), file=answers, flush=True)

    for line in sys.stdin:
        print(json.dumps(asdict(do(Job(**json.loads(line)), bundles, tell))), file=answers, flush=True)


if __name__ == "__main__":
    main()

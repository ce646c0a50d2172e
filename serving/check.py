"""`python -m serving.check FOLDER`: whether a bundle can be served, tried in a process of its own, which a broken one may kill."""

import argparse
import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path

SECONDS = 60.0


class CheckError(Exception):
    """A bundle that cannot be served; the message says why."""


async def check(folder: Path) -> None:
    """The bundle answers its golden rows in a child process; CheckError when it does not, or kills it."""
    command = (sys.executable, "-m", "serving.check", str(folder))
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(SECONDS):
            _, said = await child.communicate()
    except TimeoutError as error:
        raise CheckError(f"it did not answer its golden rows within {SECONDS:g} s") from error
    finally:
        if child.returncode is None:
            with suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    code = child.returncode or 0
    if code < 0:
        raise CheckError(f"it killed the process that tried it (signal {-code})")
    if code:
        raise CheckError(said.decode(errors="replace").strip().rpartition("\n")[2].removeprefix("error: "))


def main() -> None:
    os.nice(10)  # whoever waits for an answer of the service goes first
    parser = argparse.ArgumentParser(prog="python -m serving.check", description=__doc__)
    parser.add_argument("folder", type=Path, help="the bundle's folder")
    args = parser.parse_args()
    from serving.bundle import BundleError, load_bundle

    try:
        bundle = load_bundle(args.folder)
    except BundleError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print(f"{bundle.name} {bundle.version} ({bundle.chosen}) answers its {len(bundle.golden)} golden rows")


if __name__ == "__main__":
    main()

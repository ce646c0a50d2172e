"""Ends what `python -m flows.up` started here: runs under way first, then worker and server."""

import argparse
import sys
from pathlib import Path

import psutil

from flows.exits import EXITS
from flows.up import FOLDER
from tasks import keep

SECONDS = 120.0  # for runs, worker and server to end


def main() -> int:
    """Nothing of it runs any more; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.down", description=__doc__, epilog=EXITS)
    parser.add_argument("--workspace", type=Path, default=Path(), help="the same as of flows.up (here)")
    folder = parser.parse_args().workspace.resolve() / FOLDER
    state = keep.State.read(folder)
    keeper = state.keeper.process() if state else None
    if keeper:
        keeper.terminate()
        try:
            keeper.wait(SECONDS)
        except psutil.TimeoutExpired:
            keeper.kill()
            keeper.wait()
    keep.end_left(folder)
    print("down" if keeper or (state and state.processes) else "nothing is up")
    return 0


if __name__ == "__main__":
    sys.exit(main())

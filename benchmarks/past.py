"""`python -m benchmarks.past FILE FLAGS`: the service as `python -m serving FLAGS`, at the time of which the file says that it was
when the file was written (s since 1970).

Its prediction log then stands at the hours at which the rows of a recorded year came.
"""

import runpy
import sys
import time
from pathlib import Path


def main() -> None:
    """The service runs until it is told to end."""
    clock, present = Path(sys.argv[1]), time.time
    time.time = lambda: float(clock.read_text()) + present() - clock.stat().st_mtime
    sys.argv = ["serving", *sys.argv[2:]]
    runpy.run_module("serving", run_name="__main__")


if __name__ == "__main__":
    main()

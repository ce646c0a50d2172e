"""The flows. Before Prefect is imported, which reports its use to its makers as it is: a run tells nobody about itself."""

import os
import sys
from types import TracebackType

os.environ.setdefault("DO_NOT_TRACK", "1")

if sys.argv[0] == "-m":  # run as a command: Ctrl-C while Prefect is imported ends it without a traceback

    def _end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = _end

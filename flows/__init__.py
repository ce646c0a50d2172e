"""The flows. Before Prefect is imported, which reports its use to its makers as it is: a run tells nobody about itself."""

import os

os.environ.setdefault("DO_NOT_TRACK", "1")

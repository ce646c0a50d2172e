"""Secrets by reference: params.yaml names them, the environment holds them."""

import os

from tasks.core.errors import ParamsError


def variable(reference: str) -> str:
    """The environment variable behind `env:NAME`, or that of Prefect's Secret block `prefect:name`, set by a run."""
    kind, _, name = reference.partition(":")
    return name if kind == "env" else f"TIDEMILL_SECRET_{name.upper().replace('-', '_')}"


def read_secret(reference: str) -> str:
    """The secret itself; ParamsError, which names no part of it, when the environment lacks it."""
    name = variable(reference)
    value = os.environ.get(name, "")
    if value:
        return value
    if reference.startswith("prefect:"):
        block = reference.partition(":")[2]
        raise ParamsError(
            f"secret {reference}: `python -m flows.train` reads it from Prefect's Secret block {block!r}; else set {name}"
        )
    raise ParamsError(f"secret {reference}: the environment variable {name} is not set; set it, and start the run again")

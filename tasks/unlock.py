"""Effect unlock: what params.yaml takes from Prefect's Secret blocks stands in the environment of this run's children."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from prefect import task
from prefect.blocks.system import Secret
from prefect.cache_policies import NO_CACHE

from tasks.core.errors import ParamsError
from tasks.credentials import variable
from tasks.params import SECRETS, Params


@task(cache_policy=NO_CACHE, task_run_name="unlock", log_prints=False, persist_result=False)
def unlock(workspace: Path) -> None:
    """Every `prefect:name` of params.yaml is set; ParamsError names a block that Prefect does not have."""
    for reference in sorted(set(references(Params.load(workspace / "params.yaml").model_dump(mode="json")))):
        name = reference.removeprefix("prefect:")
        if os.environ.get(variable(reference)):
            continue
        try:
            block = cast("Secret[str]", Secret.load(name))
            os.environ[variable(reference)] = str(block.get())
        except ValueError as error:
            raise ParamsError(
                f"secret {reference}: Prefect has no Secret block {name!r}; make one under Blocks, or set {variable(reference)}"
            ) from error


def references(node: Any) -> Iterator[str]:
    """Every reference to a block, wherever it stands."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in SECRETS and isinstance(value, str) and value.startswith("prefect:"):
                yield value
            yield from references(value)

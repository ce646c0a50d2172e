"""Effect freeze: a workspace without data/schema.pbtxt gets one, inferred from its first table."""

import subprocess
import sys
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.child import child_environment
from tasks.core.errors import DataError

RAW, SETS, SCHEMA = Path("data/raw"), Path("data/sets"), Path("data/schema.pbtxt")


@task(cache_policy=NO_CACHE, task_run_name="freeze schema")
def freeze_schema(workspace: Path) -> bool:
    """The workspace has a frozen schema; returns whether it was inferred just now."""
    if (workspace / SCHEMA).exists():
        return False
    command = [sys.executable, "-m", "tasks.schema", "--raw", str(RAW), "--sets", str(SETS), "--schema", str(SCHEMA)]
    done = subprocess.run(command, cwd=workspace, env=child_environment(), capture_output=True, text=True)
    if done.returncode:
        raise DataError(f"no schema could be inferred: {done.stderr.strip().splitlines()[-1]}")
    get_run_logger().warning("inferred %s from the first table: review it and commit it; from now on it is a contract", SCHEMA)
    return True

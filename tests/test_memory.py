"""Free memory is what the tightest limit leaves."""

import subprocess
import sys

import psutil

from tests.conftest import ROOT

ASK = """
import resource, sys
import psutil
from tasks.memory import free_memory
limit = int(sys.argv[1])
if limit:
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
print(free_memory())
"""


def ask(limit: int) -> int:
    done = subprocess.run([sys.executable, "-c", ASK, str(limit)], cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_free_memory_is_that_of_the_machine_or_what_a_limit_of_the_process_leaves() -> None:
    assert 0 < ask(0) <= psutil.virtual_memory().total
    assert 0 < ask(1 << 30) < 1 << 30

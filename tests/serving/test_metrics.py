"""The counters of several processes lie in files of one folder."""

import os
import subprocess
import sys
from pathlib import Path

from serving.metrics import FOLDER, Metrics
from tests.conftest import ROOT, apart

CODE = """
import os
from contextlib import suppress
from pathlib import Path
from serving.metrics import FOLDER, Metrics

metrics = Metrics()
with open(Path(os.environ[FOLDER]) / "other", "ab", buffering=0) as file, suppress(OSError):
    while True:
        file.write(bytes(512))
for i in range(2000):
    metrics.missing.labels("flights", "1", f"column {i}").inc()
    metrics.waiting.set(i)
print(metrics.text().count(b"tidemill_missing_values_total{"))
"""


def run(folder: Path, size: str) -> subprocess.CompletedProcess[str]:
    """What came of a process that counts on a disk of this size, which is full once it has begun."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        environment = {**os.environ, FOLDER: str(folder)}
        return subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    finally:
        subprocess.run(["umount", folder], check=True)


def test_process_counts_on_when_the_disk_is_full(tmp_path: Path) -> None:
    done = run(tmp_path, "6m")
    assert (done.returncode, done.stdout) == (0, "2000\n"), done.stderr


def test_process_that_has_no_room_for_its_counters_does_not_begin(tmp_path: Path) -> None:
    done = run(tmp_path, "1m")
    assert done.returncode == 1
    assert "No space left on device" in done.stderr


def test_time_that_a_client_took_to_send_is_no_latency_of_the_service() -> None:
    metrics = Metrics()

    async def answer() -> None:
        metrics.answered("predict", 200, 0.003)
        metrics.answered("predict", 408, 30.0)

    apart(answer())
    text = metrics.text().decode()
    for status in (200, 408):
        assert f'tidemill_requests_total{{route="predict",status="{status}"}} 1.0' in text
    assert 'tidemill_request_seconds_count{route="predict"} 1.0' in text
    assert 'tidemill_request_seconds_sum{route="predict"} 0.003' in text

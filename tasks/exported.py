"""What became of each flow's last run, for Prometheus: reports/runs.prom, read by the textfile collector of its node exporter."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State

from tasks.core.errors import TidemillError
from tasks.params import Params
from tasks.stage import replacing

KNOWN, RUNS = Path(".cache/runs.json"), Path("reports/runs.prom")
HELP = {
    "tidemill_run_failed": "1 where the last run of the flow failed or crashed",
    "tidemill_run_end_timestamp_seconds": "When it ended",
}


def note_end(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """A state hook: reports/runs.prom says how the run ended; nothing where its parameters name no workspace."""
    workspace = Path(str(flow_run.parameters.get("workspace") or "."))
    try:
        write_run(workspace, Params.load(workspace / "params.yaml").name, flow.name, failed=state.is_failed() or state.is_crashed())
    except (TidemillError, OSError):  # of which the run itself told
        return


def write_run(workspace: Path, model: str, flow: str, *, failed: bool) -> None:
    """The file says so of the flow's last run, and of the others what it said."""
    path = workspace / KNOWN
    try:
        runs = {str(name): (bool(one[0]), float(one[1])) for name, one in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError, IndexError):
        runs = {}
    runs[flow] = (failed, datetime.now(UTC).timestamp())
    with replacing(path) as aside:
        aside.write_text(json.dumps(runs))
    lines = []
    for name, place in zip(HELP, (0, 1), strict=True):
        lines += [f"# HELP {name} {HELP[name]}", f"# TYPE {name} gauge"]
        lines += [f'{name}{{model="{model}",flow="{one}"}} {float(runs[one][place]):.0f}' for one in sorted(runs)]
    with replacing(workspace / RUNS) as aside:
        aside.write_text("\n".join([*lines, ""]))

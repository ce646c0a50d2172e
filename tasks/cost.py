"""Effect cost: what each stage cost when it last ran, gathered into reports/cost.json."""

import json
from pathlib import Path
from typing import Any

from tasks.stage import RECORDS, replacing

COST = Path("reports/cost.json")


def write_cost(workspace: Path) -> None:
    """reports/cost.json holds wall and CPU seconds and peak MB of the last process of each stage, and their sums."""
    records = [json.loads(path.read_text()) | {"stage": path.stem} for path in (workspace / RECORDS).glob("*.json")]
    old = read_cost(workspace)["stages"]
    stages = old | {record["stage"]: {key: record[key] for key in ("wall_s", "cpu_s", "peak_mb")} for record in records}
    total = {
        "wall_s": round(sum(cost["wall_s"] for cost in stages.values()), 2),
        "cpu_s": round(sum(cost["cpu_s"] for cost in stages.values()), 2),
        "peak_mb": max((cost["peak_mb"] for cost in stages.values()), default=0),
    }
    with replacing(workspace / COST) as aside:
        aside.write_text(json.dumps({"stages": stages, "total": total}, indent=1))


def read_cost(workspace: Path) -> dict[str, Any]:
    """What reports/cost.json holds; nothing of anything where there is none."""
    path = workspace / COST
    return dict(json.loads(path.read_text())) if path.exists() else {"stages": {}, "total": {}}

"""A small world whose truth can change: rows of three columns, a workspace that learns from them in seconds, and clients of it."""

import csv
import json
import math
import random
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tasks.params import Params, read_yaml
from tasks.workspace import building, fill

KINDS = ("plain", "round", "sharp")
COLUMNS = ("time", "size", "heat", "kind", "broken")
ROOT = Path(__file__).parent.parent
PARAMS: dict[str, Any] = {
    "name": "mill",
    "sources": {"rows": {"kind": "file", "file": "rows.csv"}},
    "table": {
        "task": "binary", "time": "time", "target": "broken", "classes": [0, 1], "numbers": ["size", "heat"],
        "categories": ["kind"], "dates": [], "texts": [], "images": [],
        "slices": ["kind"], "outcomes": [],
        "query": "SELECT CAST(time AS TIMESTAMP) AS time, size, heat, kind, broken FROM rows",
    },
    "validate": {
        "max_quarantined": 0.01, "min_rows": 100, "duplicates": "keep",
        "drift": {"categories": 1.0, "numbers": 1.0, "beyond": "warn"}, "rules": [],
    },
    "preprocess": {"split": {"by": "time", "test_last_days": 2, "validation_every_days": 5}, "quantiles": 16, "min_count": 5},
    "network": {"members": 2, "bins": 8},
    "tune": {
        "oracle": "random", "budget": {"trials": 1, "minutes": 5, "money": None, "price_per_hour": None}, "parallel": 1, "ahead": 1,
        "stop_after": None, "keep": 1, "rows": 4000, "epochs": 1, "batch": 128,
        "families": {
            "mlp": {
                "learning_rate": {"low": 0.001, "high": 0.02, "default": 0.01},
                "weight_decay": {"low": 0.001, "high": 0.1, "default": 0.003},
                "dropout": {"low": 0.01, "high": 0.1, "default": 0.02},
                "embedding_dropout": {"low": 0.01, "high": 0.1, "default": 0.02},
                "width": {"choices": [16], "default": 16},
                "layers": {"choices": [1], "default": 1},
            }
        },
    },
    "train": {
        "epochs": 4, "batch": 128, "patience": 4, "made": 0.0,
        "trees": {"boosting": 40, "learning_rate": 0.1, "forest": 10, "leaf": 20, "rows": 20000},
    },
    "distill": {
        "epochs": 12, "batch": 128, "learning_rate": 0.01, "weight_decay": 0.001, "hidden": [16], "bins": 8, "embedding": 2,
        "search": None, "teacher_weight": 0.5,
    },
    "compress": {"candidates": ["student"], "clusters": 8, "batch": 128, "calibration_rows": 100},
    "evaluate": {
        "resamples": 50, "costs": None, "importance": {"rows": 500, "repeats": 2},
        "gate": {"at_least": {}, "at_most": {}, "near_teacher": {}, "near_best": 1.0, "max_bytes": 500000, "max_microseconds": 5000,
                 "beats": []},  # what is worse the comparison with the champion is to find
    },
    "export": {"golden_rows": 8},
    "release": {"canary": {"share": 0.5, "requests": 60, "minutes": 0.02, "errors": 0.01, "latency": 20.0, "shift": 0.9}},
    "monitor": {"hours": 0.02, "grace_minutes": 0.1, "truth_hours": 0.0, "min_rows": 100},
    "retrain": {"cooldown_hours": 0.0, "most_a_day": 3, "window_days": 2.0, "rows": 200, "resamples": 500, "wait_minutes": 3.0},
}  # fmt: skip


@dataclass
class World:
    """How rows are drawn: `size` around a mean, and how strongly it breaks things."""

    random: random.Random
    mean: float = 0.0
    pull: float = 2.0

    def shift(self) -> None:
        """Things are larger from now on, and what was too large is now too small."""
        self.mean, self.pull = 1.5, -2.0

    def row(self) -> dict[str, Any]:
        size, heat, kind = self.random.gauss(self.mean, 1), self.random.gauss(20, 5), self.random.choice(KINDS)
        odds = self.pull * (size - self.mean / 2) + 0.1 * (heat - 20) + KINDS.index(kind) - 1
        broken = int(self.random.random() < 1 / (1 + math.exp(-odds)))
        return {"size": round(size, 4), "heat": round(heat, 3), "kind": kind, "broken": broken}

    def history(self, start: datetime, end: datetime, count: int) -> Iterator[dict[str, Any]]:
        """Rows spread evenly over the time between."""
        for i in range(count):
            yield {"time": f"{start + (end - start) * i / count:%Y-%m-%d %H:%M:%S}", **self.row()}


def append(workspace: Path, rows: Iterable[dict[str, Any]]) -> None:
    """The source holds these rows too; it is there whole at any moment."""
    path = workspace / "rows.csv"
    aside, before = path.with_suffix(".partial"), path.read_text() if path.exists() else ",".join(COLUMNS) + "\n"
    with aside.open("w", newline="") as file:
        file.write(before)
        csv.DictWriter(file, COLUMNS, lineterminator="\n").writerows(rows)
    aside.replace(path)


def make_workspace(folder: Path, world: World, rows: int = 6000, days: int = 30, **changes: dict[str, Any]) -> None:
    """A workspace in the folder, which is new, with so many rows of the last days; `changes` are values of params by section."""
    document = read_yaml((ROOT / "params.yaml").read_text())
    for own in (PARAMS, changes):
        for name, value in own.items():
            document[name] = {**document[name], **value} if isinstance(value, dict) and name != "sources" else value
    text = "".join(f"{name}: {json.dumps(value, default=str)}\n" for name, value in document.items())
    Params.parse(text, "params.yaml")
    with building(folder) as aside:
        fill(aside, folder, text)
    now = datetime.now(UTC)
    append(folder, world.history(now - timedelta(days=days), now, rows))


@dataclass
class Client:
    """Asks the service, and tells what became true."""

    port: int

    def predict(self, rows: list[dict[str, Any]], ids: str) -> None:
        features = [{name: row[name] for name in ("size", "heat", "kind")} for row in rows]
        self._post(":predict", {"instances": features}, {"x-request-id": ids})

    def tell(self, rows: list[dict[str, Any]], ids: str) -> None:
        names = [ids] if len(rows) == 1 else [f"{ids}-{i}" for i in range(len(rows))]
        truths = [{"id": name, "truth": row["broken"]} for name, row in zip(names, rows, strict=True)]
        self._post(":feedback", {"feedback": truths}, {})

    def _post(self, verb: str, document: Any, headers: dict[str, str]) -> None:
        address = f"http://127.0.0.1:{self.port}/v1/models/mill{verb}"
        asked = urllib.request.Request(address, json.dumps(document).encode(), {"content-type": "application/json", **headers})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            answer.read()

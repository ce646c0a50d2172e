"""Images the whole length: files on disk, a table that names them, the released model and its service."""

import base64
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.bundle import load_bundle
from serving.openapi import describe
from serving.pages import render_page
from serving.request import RequestError, parse_rows
from tests.conftest import ROOT, Workspace

pytestmark = pytest.mark.slow

ROWS = 420
SETTINGS = """
name: bars
seed: 1
sources:
  labels: {kind: file, file: labels.csv}
  photos: {kind: file, file: "photos/*.png", format: bytes}
privacy: {key: null, drop: [], pseudonymise: [], coarsen: {}, keep: []}
table:
  {task: binary, time: null, target: label, classes: [lies, stands], numbers: [size], categories: [], dates: [], texts: [],
   images: [photo], slices: [], outcomes: [],
   query: "SELECT label, size, content AS photo FROM labels LEFT JOIN photos ON path = 'photos/' || file"}
validate:
  {max_quarantined: 0.02, min_rows: 100, duplicates: keep, drift: {categories: 0.5, numbers: 0.5, beyond: warn}, rules: []}
preprocess:
  {split: {by: random, test: 0.2, validation: 0.1}, quantiles: 4, min_count: 1, max_words: 10, tokens: 4, token_words: 10,
   holidays: null, images: {height: 8, width: 8, channels: 1}}
network: {members: 2, bins: 2, embedding: 2, images: {channels: [4, 8], shift: 1, flip: true}}
tune:
  oracle: random
  budget: {trials: 1, minutes: 1, money: null, price_per_hour: null}
  parallel: 1
  ahead: 1
  stop_after: null
  keep: 1
  rows: 200
  epochs: 1
  batch: 16
  families:
    mlp:
      learning_rate: {low: 0.001, high: 0.1, default: 0.01}
      weight_decay: {low: 0.001, high: 0.1, default: 0.01}
      dropout: {low: 0.01, high: 0.5, default: 0.1}
      embedding_dropout: {low: 0.01, high: 0.5, default: 0.1}
      width: {choices: [8], default: 8}
      layers: {choices: [1], default: 1}
train: {epochs: 8, batch: 16, patience: 8, class_weights: none, trees: null, made: 0.0}
compute: {workers: 1, hosts: [], restarts: 0}
distill:
  {epochs: 8, batch: 16, learning_rate: 0.01, weight_decay: 0.003, hidden: [8], bins: 2, embedding: 2, search: null,
   teacher_weight: 0.5, temperature: 1.0, images: {channels: [4, 8], shift: 1, flip: true}}
compress:
  {candidates: [student, student int8 weights, student int8, student aware int8, student pruned int8, student alone, large],
   sparsity: 0.5, clusters: 8, epochs: 1, batch: 16, learning_rate: 0.0005, calibration_rows: 50}
evaluate:
  {resamples: 20, confidence: 0.95, baseline_rows: 1000, costs: null, interval: null, importance: {rows: 100, repeats: 2},
   gate: {at_least: {auc: 0.95}, at_most: {}, near_teacher: {}, near_best: 100, max_bytes: 100000, max_microseconds: 5000,
          beats: [constant]}}
export: {golden_rows: 4}
release:
  {store: releases, remote: null, kms_key: null, keep: 3, sign: null, verify: null,
   canary: {share: 0.1, requests: 100, minutes: 1, errors: 0.01, latency: 1.5, shift: 0.1}}
alert: {reports: null, remind_hours: 24, channels: {}}
retrain:
  {cooldown_hours: 24, most_a_day: 2, window_days: 28, rows: 100, resamples: 100, win: 0.9, then: canary, wait_minutes: 0}
monitor:
  {log: predictions, channel: production, hours: 24, grace_minutes: 15, truth_hours: 168, min_rows: 500, false_alarms: 0.005,
   raises: [feature, prediction, truth, quality, calibration], columns: {}, unmatched: 0.05,
   floor: {shape: 0.1, missing: 0.02, new: 0.02, truth: 0.05, loss: 0.05, ranking: 0.02, calibration: 0.03},
   seasonality: {reference: release, windows: 7}}
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Workspace:
    """A workspace of drawn bars, one of whose files is broken, after its first run."""
    home = tmp_path_factory.mktemp("pictures")
    workspace = Workspace(home, environment)
    for folder in ("photos", "data"):
        (home / folder).mkdir()
    random = np.random.default_rng(0)
    lines = ["file,size,label"]
    for row in range(ROWS):
        pixels, stands = random.integers(0, 60, (10, 10), np.uint8), row % 2
        place = random.integers(1, 9)
        pixels[(slice(None), place) if stands else (place, slice(None))] = 255
        Image.fromarray(pixels).save(home / f"photos/{row:03d}.png")
        lines.append(f"{row:03d}.png,{random.integers(0, 9)},{'stands' if stands else 'lies'}")
    (home / "photos/017.png").write_bytes(b"\x89PNG cut short")
    (home / "labels.csv").write_text("\n".join(lines))
    shutil.copy(ROOT / "dvc.yaml", home)
    (home / "tasks").symlink_to(ROOT / "tasks")
    (home / "params.yaml").write_text(SETTINGS)
    (home / ".gitignore").write_text("/tasks\n/.cache/\n/models/\n/reports/\n/logs/\n/releases/\n/photos/\n")
    subprocess.run(["git", "init", "-q"], cwd=home, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=home, check=True)
    done = workspace.train()
    assert done.returncode == 0, done.stdout + done.stderr
    return workspace


def row_of(file: Path) -> dict[str, Any]:
    return {"photo": base64.b64encode(file.read_bytes()).decode(), "size": 3}


def test_candidates_are_those_that_a_convolution_can_become(pictures: Workspace) -> None:
    report = json.loads((pictures.path / "reports/evaluation.json").read_text())
    assert {"student", "student int8 weights", "student int8", "student alone"} <= set(report["candidates"])
    assert not {"student aware int8", "student pruned int8"} & set(report["candidates"])
    assert report["candidates"]["student int8"]["auc"]["value"] > 0.95
    quarantine = json.loads((pictures.path / "reports/validation.json").read_text())
    assert quarantine["valid"] == ROWS - 1


def test_service_answers_files_that_it_never_saw_and_tells_of_broken_ones(pictures: Workspace) -> None:
    bundle = load_bundle(pictures.path / "models/release")

    def ask(*rows: dict[str, Any]) -> list[Any]:
        return bundle.predict(parse_rows(json.dumps({"instances": rows}).encode(), bundle.encoder)[0])

    upright = io.BytesIO()
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:, 20:24] = 255
    Image.fromarray(pixels).save(upright, "PNG")
    fresh = {"photo": base64.b64encode(upright.getvalue()).decode(), "size": 3}
    known = [row_of(pictures.path / f"photos/{row:03d}.png") for row in (100, 101)]
    answer = ask(fresh, *known)
    assert answer[0] > 0.5
    assert answer[1] < 0.5 < answer[2]
    with pytest.raises(RequestError) as refused:
        ask(fresh, row_of(pictures.path / "photos/017.png"))
    assert refused.value.faults[0][0] == "instances[1].photo"
    described = describe([bundle], locked=False)["components"]["schemas"]["Row"]["properties"]["photo"]
    assert "resized to 8 x 8 pixels of grey" in described["description"]
    page = bytes(render_page(bundle, shared=False).body).decode()
    assert (
        f'type="file" accept="image/png,image/jpeg,image/webp,image/gif,image/bmp" data-example="{bundle.golden[0]["photo"]}"'
        in page
    )

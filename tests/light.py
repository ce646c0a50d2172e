"""A workspace whose stages are true processes in DVC's graph, under their true names, and learn nothing: a run takes seconds."""

import json
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from flows.train import STAGES
from tasks.params import with_values
from tests.conftest import ROOT

EPOCH_SECONDS = 0.5
BAD = 13  # epochs with which stage train finds its data bad
WORK = f"""
import hashlib, json, os, re, sys, threading, time
from pathlib import Path

NAME = sys.argv[1]
EPOCHS = int(re.search(r"^train:.*?^  epochs: *(\\d+)", Path("params.yaml").read_text(), re.M | re.S)[1])
FILES = {{"model_card.md": b"# flights", "encoder.json": b"{{}}", "reference.pb": b""}}
PIXELS = bytes.fromhex(
    "89504e470d0a1a0a0000000d494844520000004000000020080000000087f621580000001f4944415478da6388a210308c1a"
    "306ac0a801a3068c1a306ac0a801c3cd0000b383d01f338af41f0000000049454e44ae426082"
)


def die_with(run):
    while os.path.exists(f"/proc/{{run}}"):
        time.sleep(0.2)
    os._exit(9)


def record(code, error):
    Path(".cache/stages").mkdir(parents=True, exist_ok=True)
    told = {{"wall_s": 0.1, "cpu_s": 0.1, "peak_mb": 10, "exit": code, "error": error}}
    Path(f".cache/stages/{{NAME}}.json").write_text(json.dumps(told))


if "TIDEMILL_RUN_PID" in os.environ:  # as every stage does
    threading.Thread(target=die_with, args=(os.environ["TIDEMILL_RUN_PID"],), daemon=True).start()
if NAME == "train":
    if EPOCHS == {BAD}:
        record(3, "column 'late' holds 'x' in 3 rows; expected 0 or 1")
        sys.exit(3)
    for epoch in range(EPOCHS):
        time.sleep({EPOCH_SECONDS})
        print(f"epoch {{epoch + 1}} of {{EPOCHS}}: {{100 * (epoch + 1) // EPOCHS}}%", flush=True)
if NAME == "evaluate":
    Path("reports").mkdir(exist_ok=True)
    figures = {{"auc": {{"value": 0.7}}, "log_loss": {{"value": 0.5}}, "bytes": 7}}
    quality = {{"task": "binary", "candidates": {{"student": figures}}, "baselines": {{"linear": figures}}}}
    Path("reports/evaluation.json").write_text(json.dumps(quality))
    Path("reports/quality.png").write_bytes(PIXELS)
    Path("reports/pareto.csv").write_text("candidate,auc,bytes,gate\\nstudent,0.7,7,chosen\\n")
    Path("reports/data.html").write_text("<title>data</title>The data.")
if NAME == "export":
    bundle = Path("models/release")
    bundle.mkdir(parents=True, exist_ok=True)
    lineage = {{"stages": {{}}, "quality": {{"task": "binary", "candidates": {{}}}}}}
    files = {{**FILES, "model.tflite": str(EPOCHS).encode(), "lineage.json": json.dumps(lineage).encode()}}
    marks = {{}}
    for name, content in files.items():
        (bundle / name).write_bytes(content)
        marks[name] = {{"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}}
    version = hashlib.sha256(json.dumps(marks).encode()).hexdigest()[:12]
    manifest = {{"name": "flights", "version": version, "chosen": "student", "format": 3, "files": marks}}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
out = Path("made") / NAME
out.parent.mkdir(exist_ok=True)
out.write_text(NAME if NAME in ("ingest", "validate", "preprocess", "tune") else f"{{NAME}} of {{EPOCHS}} epochs")
record(0, "")
"""


def make_light(path: Path) -> None:
    """The repository's parameters on a small source, and a graph of nine stages that each write a line, `train` in its epochs."""
    path.mkdir(parents=True)
    (path / "sources").mkdir()
    (path / "sources/flights.csv").write_text("late,distance\n0,100\n1,200\n")
    (path / "data").mkdir()
    (path / "data/schema.pbtxt").write_text("")
    (path / "tasks").symlink_to(ROOT / "tasks")
    (path / "work.py").write_text(WORK)
    source = "{kind: file, file: sources/flights.csv}"
    settings = [*(f"sources.{name}={source}" for name in ("flights", "weather", "planes")), "train.epochs=2"]
    (path / "params.yaml").write_text(with_values((ROOT / "params.yaml").read_text(), settings))
    stages, before = {}, "sources/flights.csv"
    outs = {"evaluate": ["reports/evaluation.json", "reports/quality.png", "reports/pareto.csv", "reports/data.html"]}
    outs["export"] = ["models/release"]
    for stage in STAGES:
        stages[stage] = {
            "cmd": f"python work.py {stage}",
            "deps": [before, "work.py"],
            "params": ["train"] if stage == "train" else ["name"],
            "outs": [f"made/{stage}", *outs.get(stage, [])],
        }
        before = f"made/{stage}"
    with (path / "dvc.yaml").open("w") as file:
        YAML().dump({"stages": stages}, file)
    (path / ".gitignore").write_text("/tasks\n/.cache/\n/made\n/models/\n/reports/\n/releases/\n/sources/\n")
    git = ["git", "-c", "user.name=Ann", "-c", "user.email=ann@example.com"]
    subprocess.run([*git, "init", "-q"], cwd=path, check=True)
    for words in (["init", "-q"], ["config", "core.analytics", "false"]):
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=path, check=True)
    subprocess.run([*git, "add", "-A"], cwd=path, check=True)
    subprocess.run([*git, "commit", "-q", "-m", "Begin"], cwd=path, check=True)


def production(path: Path) -> str:
    """The version that the workspace's store serves."""
    return str(json.loads((path / "releases/channels/production.json").read_text())["version"])

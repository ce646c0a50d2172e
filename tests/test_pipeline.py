"""The whole length on real flights, by the commands that users type."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from flows.train import STAGES
from tasks.stage import content_hash
from tests.conftest import Workspace, states

pytestmark = pytest.mark.slow


def releases(workspace: Workspace) -> dict[str, str]:
    """What is released: the pointer and every version, by content."""
    return {path.name: content_hash(path) for path in (workspace.path / "releases").iterdir()}


def test_first_run_completes_every_stage_and_releases(trained: Workspace) -> None:
    assert states((trained.path / "first.log").read_text()) == dict.fromkeys(STAGES, "Completed")
    pointer = json.loads((trained.path / "releases/channels/production.json").read_text())
    release = trained.path / "releases" / pointer["version"]
    manifest = json.loads((release / "manifest.json").read_text())
    files = {str(path.relative_to(release)) for path in release.rglob("*") if path.is_file()} - {"manifest.json"}
    assert set(manifest["files"]) == files >= {
        "encoder.json", "model.tflite", "schema.pbtxt", "reference.pb", "golden.json", "model_card.md", "lineage.json",
        "saved_model/saved_model.pb",
    }  # fmt: skip
    assert {"background.json", "expected.json", "reference.json"} <= set(files)
    assert all(content_hash(release / path) == mark["sha256"] for path, mark in manifest["files"].items())
    lineage = json.loads((release / "lineage.json").read_text())
    assert lineage["snapshot"]["rows"] > 30_000
    assert lineage["params"]["train"]["epochs"] == 2
    assert set(lineage["stages"]) == {"ingest", "validate", "preprocess", "tune", "train", "distill", "compress"}
    cost = json.loads((trained.path / "reports/cost.json").read_text())
    assert set(cost["stages"]) >= set(STAGES)
    assert all(entry["wall_s"] > 0 and entry["cpu_s"] > 0 and entry["peak_mb"] > 20 for entry in cost["stages"].values())


def test_report_compares_candidates_with_baselines(trained: Workspace) -> None:
    report = json.loads((trained.path / "reports/evaluation.json").read_text())
    assert set(report["baselines"]) == {"constant", "linear", "gradient boosting"}
    assert {"large", "student", "student alone", "student int8", "student aware int8", "student pruned int8"} <= set(
        report["candidates"]
    )
    shares = [member["share"] for member in report["teacher"]["members"]]
    assert sum(shares) == pytest.approx(1, abs=0.001)
    assert {"boosting", "forest"} <= {member["name"] for member in report["teacher"]["members"]}
    for found in [*report["candidates"].values(), report["teacher"]]:
        assert found["auc"]["low"] < found["auc"]["value"] < found["auc"]["high"]
        assert found["auc"]["value"] > 0.6
    chosen = json.loads((trained.path / "models/verdict.json").read_text())
    for found in report["candidates"].values():
        assert found["decision"]["cost"] < min(report["references"]["costs"].values())  # than always yes, and always no
        if "uncalibrated" in found:
            assert found["log_loss"]["value"] < found["uncalibrated"]["log_loss"] + 0.01
    assert (chosen["target"]["calibration"] is not None) == ("uncalibrated" in report["candidates"][chosen["chosen"]])
    with (trained.path / "reports/importance.csv").open() as file:
        weighty = {line["column"]: float(line["importance"]) for line in csv.DictReader(file)}
    assert len(weighty) == 27
    assert next(iter(weighty)) == "departure_minute"
    assert weighty["departure_minute"] > 0.01
    distilled = json.loads((trained.path / "reports/distillation.json").read_text())["validation"]
    assert set(distilled) == {"teacher", "student", "student alone"}
    compressed = json.loads((trained.path / "reports/compression.json").read_text())
    assert compressed["student pruned int8"]["zeros"] == pytest.approx(0.5, abs=0.02)
    assert compressed["student"]["zeros"] < 0.01


def test_search_and_front_stand_in_tables_that_agree_with_what_was_made(trained: Workspace) -> None:
    with (trained.path / "reports/shapes.csv").open() as file:
        best, other, over = csv.DictReader(file)
    network = json.loads((trained.path / "models/student/network.json").read_text())
    assert "-".join(map(str, network["hidden"])) == best["hidden"]
    assert float(best["loss"]) < float(other["loss"])
    assert {best["hidden"], other["hidden"]} == {"64-32", "32"}
    assert (over["hidden"], over["rung"], over["loss"]) == ("512", "0", "")
    assert int(over["bytes"]) > 60_000 > int(best["bytes"])
    report = json.loads((trained.path / "reports/evaluation.json").read_text())["candidates"]
    assert int(best["bytes"]) == report["student int8 weights"]["bytes"]  # sized before it was trained
    with (trained.path / "reports/pareto.csv").open() as file:
        lines = {line["candidate"]: line for line in csv.DictReader(file)}
    assert list(lines) == list(report)
    chosen = json.loads((trained.path / "models/verdict.json").read_text())["chosen"]
    assert [name for name, line in lines.items() if line["gate"] == "chosen"] == [chosen]
    ranked = max(lines.values(), key=lambda line: float(line["auc"]))
    smallest = min(lines.values(), key=lambda line: int(line["bytes"]))
    assert ranked["front"] == smallest["front"] == "1"
    assert lines["student alone"]["front"] == "0"  # as large as the student, and worse


def test_saved_model_on_raw_columns_answers_as_the_bundle(trained: Workspace) -> None:
    import numpy as np
    import tensorflow as tf

    release = trained.path / "models/release"
    golden = json.loads((release / "golden.json").read_text())
    encoder = json.loads((release / "encoder.json").read_text())
    columns = {
        c["name"]: tf.constant([float(r.get(c["name"], "nan")) for r in golden["instances"]], tf.float64)
        for c in encoder["numbers"]
    }
    columns |= {c["name"]: tf.constant([r.get(c["name"], "") for r in golden["instances"]]) for c in encoder["categories"]}
    said = tf.saved_model.load(str(release / "saved_model")).signatures["serving_default"](**columns)["score"].numpy()
    # The served network has 8-bit weights, this one floats.
    np.testing.assert_allclose(said, golden["predictions"], atol=0.03)


def test_second_run_and_dvc_repro_have_nothing_to_do(workspace: Workspace) -> None:
    again = workspace.train()
    assert again.returncode == 0, again.stderr
    assert states(again.stdout) == dict.fromkeys(STAGES, "Cached")
    assert "up to date" in workspace.run("-m", "dvc", "status").stdout
    repro = workspace.run("-m", "dvc", "repro").stdout
    assert "Running stage" not in repro
    assert "up to date" in repro


def test_parameter_there_and_back_restores_and_lock_file_and_params_agree(workspace: Workspace) -> None:
    def agreed() -> tuple[str, str, str]:
        lock = (workspace.path / "dvc.lock").read_text()
        assert "up to date" in workspace.run("-m", "dvc", "status").stdout
        return content_hash(workspace.path / "models/teacher"), lock, (workspace.path / "params.yaml").read_text()

    first = agreed()
    there = workspace.train("--set", "train.epochs=1")
    assert "train.epochs 2 -> 1" in there.stdout
    assert states(there.stdout)["train"] == "Completed"
    assert states(there.stdout)["tune"] == "Cached"
    changed = agreed()
    assert changed[0] != first[0]
    back = workspace.train("--set", "train.epochs=2")
    assert states(back.stdout)["train"] == "Restored"
    assert "Completed" not in states(back.stdout).values()
    assert agreed()[0] == first[0]
    assert agreed()[2] == first[2]
    again = workspace.train("--set", "train.epochs=1")
    assert set(states(again.stdout).values()) <= {"Cached", "Restored"}
    assert agreed()[0] == changed[0]


def test_corrupt_cache_is_not_restored_but_made_again(workspace: Workspace) -> None:
    wanted = content_hash(workspace.path / "data/raw")
    size = (workspace.path / "data/raw/00000.parquet").stat().st_size
    cached = next(path for path in (workspace.path / ".dvc/cache/files").rglob("*") if path.stat().st_size == size)
    cached.chmod(0o644)
    with cached.open("r+b") as file:
        file.seek(size // 2)
        byte = file.read(1)
        file.seek(size // 2)
        file.write(bytes([byte[0] ^ 1]))
    cached.chmod(0o444)  # else DVC takes it for one that people edited, and looks
    shutil.rmtree(workspace.path / "data/raw")
    done = workspace.train()
    assert "DVC's cache held other content than it says for data/raw" in done.stdout, done.stdout + done.stderr
    assert states(done.stdout) == {**dict.fromkeys(STAGES, "Cached"), "ingest": "Completed"}
    assert content_hash(workspace.path / "data/raw") == wanted
    assert set(states(workspace.train().stdout).values()) == {"Cached"}


def test_moved_source_is_named_and_reruns_what_depends_on_it_unless_offline(workspace: Workspace) -> None:
    before = (workspace.path / "sources/weather.csv").read_text()
    lock = (workspace.path / "sources.lock").read_text()
    workspace.rewrite("weather", lambda lines: [*lines[:5], [*lines[5][:5], "99.9", *lines[5][6:]], *lines[6:]])
    offline = workspace.train("--offline")
    assert states(offline.stdout) == dict.fromkeys(STAGES, "Cached")
    assert (workspace.path / "sources.lock").read_text() == lock
    moved = workspace.train()
    assert "source 'weather' moved" in moved.stdout
    assert states(moved.stdout)["ingest"] == "Completed"
    (workspace.path / "sources/weather.csv").write_text(before)
    back = workspace.train()
    assert "source 'weather' moved" in back.stdout
    assert (workspace.path / "sources.lock").read_text() == lock
    # What validate holds the table against is another release than before: it alone runs again, and finds the same rows.
    ran = {stage for stage, state in states(back.stdout).items() if state == "Completed"}
    assert ran == {"validate"}
    assert set(states(workspace.train().stdout).values()) == {"Cached"}


def test_dvc_repro_refuses_data_that_the_lock_does_not_name(workspace: Workspace) -> None:
    workspace.rewrite("planes", lambda lines: lines[:-1])
    (workspace.path / "data/raw/00000.parquet").unlink()
    (workspace.path / ".dvc/cache").rename(workspace.path / "elsewhere")
    done = workspace.run("-m", "dvc", "repro", "ingest")
    assert done.returncode != 0
    assert "source 'planes' is not what sources.lock says" in done.stdout + done.stderr


def test_gate_that_nothing_passes_releases_nothing(workspace: Workspace) -> None:
    before = releases(workspace)
    done = workspace.train("--set", "evaluate.gate.at_least={auc: 0.99}")
    assert done.returncode == 4
    assert "the gate refuses every candidate" in done.stderr
    assert "at least 0.99 wanted" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert states(done.stdout)["evaluate"] == "Failed"
    assert releases(workspace) == before
    assert json.loads((workspace.path / "reports/refused.json").read_text())["faults"]["student"]


def test_bad_params_start_nothing(workspace: Workspace) -> None:
    before = (workspace.path / "params.yaml").read_text()
    for flag, words in {
        "train.epochs=0": "train.epochs: found 0; expected greater than or equal to 1",
        "train.epocs=3": "did you mean 'train.epochs'?",
        "train.epochs=many": "train.epochs: found 'many'",
    }.items():
        done = workspace.train("--set", flag)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stdout == ""
    assert (workspace.path / "params.yaml").read_text() == before


def test_second_run_in_a_workspace_is_refused_with_pid_and_run(workspace: Workspace) -> None:
    with workspace.start("-m", "flows.train", "--set", "train.epochs=1") as holder:
        assert holder.stdout is not None
        for line in holder.stdout:
            if line.startswith("train: runs"):
                break
        second = workspace.train()
        holder.terminate()
        holder.stdout.read()
    assert second.returncode == 5
    assert f"pid {holder.pid}" in second.stderr
    assert holder.returncode == 143


@pytest.mark.parametrize("command", [["-m", "flows.train"], ["-m", "serving"]])
def test_command_in_a_folder_that_is_no_workspace_says_so(command: list[str], tmp_path: Path, environment: dict[str, str]) -> None:
    done = Workspace(tmp_path, environment).run(*command)
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_data_report_opens_offline_and_describes_every_column(trained: Workspace) -> None:
    page = (trained.path / "reports/data.html").read_text()
    assert "http://" not in page
    assert "https://" not in page
    for column in ("departure_minute", "wind_gust", "tailnum", "late"):
        assert f"<h3>{column}</h3>" in page

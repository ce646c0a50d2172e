"""dvc.yaml promises what each stage reads and makes; these tests hold it to the code."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks.params import Params
from tests.conftest import ROOT
from tests.test_imports import imports

STAGES: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
FRAME = {"tasks/params.py", "tasks/stage.py"}  # they hold no behaviour of a step
TEMPLATES = "tasks/core/templates"


def code_of(module: str, seen: set[str] | None = None) -> set[str]:
    """The module's file and those of our modules that it imports, directly or not."""
    seen = set() if seen is None else seen
    path = Path(module.replace(".", "/") + ".py")
    if not module.startswith("tasks") or str(path) in seen or not (ROOT / path).exists():
        return seen
    seen.add(str(path))
    for name in imports(ROOT / path):
        code_of(name, seen)
    return seen


def paths_of(entries: list[Any]) -> set[str]:
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}


def signature(stage: str) -> tuple[set[str], set[str]]:
    """Sections and flags of the step function that the module gives to stage.main."""
    text = (ROOT / f"tasks/{stage}.py").read_text()
    name = re.search(r"stage\.main\((\w+)\)", text)
    assert name
    step = next(node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef) and node.name == name[1])
    return {arg.arg for arg in step.args.args}, {arg.arg.replace("_", "-") for arg in step.args.kwonlyargs}


@pytest.mark.parametrize("stage", STAGES)
def test_code_dependencies_are_the_import_closure(stage: str) -> None:
    declared = {path for path in STAGES[stage]["deps"] if path.endswith(".py")}
    assert declared == code_of(f"tasks.{stage}") - FRAME
    uses_templates = "tasks/core/report.py" in declared
    assert (TEMPLATES in STAGES[stage]["deps"]) == uses_templates


@pytest.mark.parametrize("stage", STAGES)
def test_every_path_of_the_command_is_a_dep_or_an_out(stage: str) -> None:
    entry = STAGES[stage]
    named = set(re.findall(r"--[a-z-]+ (\S+)", entry["cmd"]))
    tracked = paths_of(entry["deps"] + entry["outs"] + entry.get("metrics", []) + entry.get("plots", []))
    assert named == {path for path in tracked if not path.startswith("tasks/")}


@pytest.mark.parametrize("stage", STAGES)
def test_flags_and_params_are_those_of_the_step(stage: str) -> None:
    sections, flags = signature(stage)
    assert set(re.findall(r"--([a-z-]+) ", STAGES[stage]["cmd"])) == flags
    assert {path.rpartition(".")[2] for path in STAGES[stage]["params"]} == sections
    assert {path.partition(".")[0] for path in STAGES[stage]["params"]} <= {
        field.alias or name for name, field in Params.model_fields.items()
    }


def test_every_section_of_params_is_used_by_a_stage() -> None:
    used = {path.partition(".")[0] for entry in STAGES.values() for path in entry["params"]}
    effects = {"release", "alert", "retrain", "monitor"}  # read by what ends outside the workspace
    assert used | effects == {field.alias or name for name, field in Params.model_fields.items()}


def test_flow_runs_the_stages_of_the_graph_in_an_order_that_fits() -> None:
    from flows.train import STAGES as ORDER

    assert set(ORDER) == set(STAGES)
    made: set[str] = set()
    everything = {out for entry in STAGES.values() for out in paths_of(entry["outs"] + entry.get("metrics", []))}
    for stage in ORDER:
        assert paths_of(STAGES[stage]["deps"]) & everything <= made, stage
        made |= paths_of(STAGES[stage]["outs"] + STAGES[stage].get("metrics", []))

"""Who may import whom (held over the graph of import statements), and what a process must not load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

FORBIDDEN = {
    "flows": {"tensorflow", "keras", "tf_keras", "tasks.core", "dvc", "boto3"},
    "serving": {"tensorflow", "keras", "tf_keras", "prefect", "dvc", "pandas", "flows"},
    "tasks/core": {"prefect", "dvc", "flows", "serving", "tasks.params", "tasks.stage"},
    "tasks/cloud": {"prefect", "dvc", "tensorflow", "flows", "serving", "tasks"},
    "tasks/sources": {"prefect", "dvc", "tensorflow", "flows", "serving"},
}
ALLOWED = {
    ("flows", "tasks.core.errors"),  # the errors that a command turns into a message and an exit code
    ("flows", "tasks.core.change"),  # the record that a command shows
    ("flows", "tasks.core.verdict"),  # likewise
}
PREFECT = {
    "artifacts",
    "automations",
    "child",
    "claim",
    "cost",
    "deployed",
    "exported",
    "freeze",
    "keep",
    "monitor",
    "move",
    "poll",
    "publish",
    "remember",
    "reproduce",
    "run",
    "retraining",
    "server",
    "trouble",
    "unlock",
    "view",
}  # effects and the bridge; stages are the others
ONLY_IN = {
    "tensorflow_data_validation": {"tasks/statistics.py"},
    "tensorflow_model_optimization": {"tasks/shrink.py"},
    "tf_keras": {"tasks/shrink.py"},
    "keras_tuner": {"tasks/core/search.py"},
    "pandera": {"tasks/rules.py"},
    "sqlalchemy": {"tasks/sources/cells.py", "tasks/sources/database.py", "tasks/sources/sql.py"},
    "holidays": {"tasks/preprocess.py"},
    "model_signing": {"tasks/sign.py"},
    "evidently": {"tasks/evidently_report.py"},
}


def imports(path: Path) -> set[str]:
    """Every module that the file's statements name, wherever they stand."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def sources() -> list[Path]:
    return [path for folder in ("flows", "tasks", "serving") for path in sorted((ROOT / folder).rglob("*.py"))]


def covers(module: str, name: str) -> bool:
    return name == module or name.startswith(f"{module}.")


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_folder_imports_nothing_that_its_layer_forbids(folder: str) -> None:
    wrong = [
        (path.name, name, module)
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name in imports(path)
        for module in FORBIDDEN[folder]
        if covers(module, name) and not any(folder == place and covers(ok, name) for place, ok in ALLOWED)
    ]
    assert not wrong


def test_serving_takes_only_core_and_the_store_of_tasks() -> None:
    taken = {name for path in (ROOT / "serving").rglob("*.py") for name in imports(path) if covers("tasks", name)}
    assert taken
    light = ("tasks.core", "tasks.cloud.storage", "tasks.releases")
    assert all(any(covers(module, name) for module in light) for name in taken - {"tasks.cloud"})


def test_prefect_is_imported_by_flows_and_effects_alone() -> None:
    users = {path for path in sources() if any(covers("prefect", name) for name in imports(path))}
    strangers = {path for path in users if path.parent.name != "flows" and path.stem not in PREFECT}
    assert users
    assert not strangers


@pytest.mark.parametrize("module", ONLY_IN)
def test_heavy_library_is_imported_in_one_place(module: str) -> None:
    users = {str(path.relative_to(ROOT)) for path in sources() if any(covers(module, name) for name in imports(path))}
    assert users == ONLY_IN[module]


def test_duckdb_is_opened_in_one_place_which_bounds_its_memory_and_keeps_it_off_the_network() -> None:
    assert {str(path.relative_to(ROOT)) for path in sources() if "duckdb.connect(" in path.read_text()} == {"tasks/engine.py"}


def test_import_rules_find_a_breach(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("def f():\n    from tensorflow import keras\n")
    assert any(covers("tensorflow", name) for name in imports(file))


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("flows.train", {"tensorflow", "keras", "dvc", "pandas", "pyarrow"}),
        ("flows.monitor", {"tensorflow", "keras", "dvc", "pandas", "pyarrow", "evidently"}),
        ("tasks.monitor", {"tensorflow", "keras", "dvc", "evidently"}),
        ("serving.app", {"tensorflow", "keras", "prefect", "dvc", "pandas", "pyarrow", "sklearn"}),
        ("serving.server", {"tensorflow", "keras", "prefect", "dvc", "pandas", "pyarrow", "arro3", "sklearn", "boto3", "PIL"}),
        ("serving.batch_child", {"tensorflow", "keras", "prefect", "dvc", "pandas", "pyarrow", "sklearn", "starlette", "boto3"}),
        ("serving.__main__", {"tensorflow", "keras", "prefect", "dvc", "pandas", "pyarrow", "sklearn", "boto3", "pydantic"}),
        ("flows.rollout", {"tensorflow", "keras", "prefect", "dvc", "pandas", "pyarrow", "sklearn", "boto3", "model_signing"}),
        ("tasks.ingest", {"tensorflow", "keras", "prefect", "dvc"}),
        ("tasks.evaluate", {"tensorflow", "keras", "prefect", "dvc"}),
    ],
)
def test_process_does_not_load(module: str, unwanted: set[str]) -> None:
    code = f"import sys, {module}; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert module in loaded
    assert not unwanted & set(loaded)

"""What a killed step goes on from: nothing that another code has made."""

from pathlib import Path

import pytest

from tasks.stage import code_hash


def test_hash_of_a_builder_changes_with_its_file_or_any_of_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "nets_of_one_file.py").write_text("one")
    (tmp_path / "nets_of_many").mkdir()
    (tmp_path / "nets_of_many/__init__.py").write_text("")
    (tmp_path / "nets_of_many/parts.py").write_text("one")
    families = ["mlp", "nets_of_one_file:build", "nets_of_many.parts:build"]
    before = code_hash(families)
    assert code_hash(reversed(families)) == before
    for path in ("nets_of_one_file.py", "nets_of_many/parts.py"):
        (tmp_path / path).write_text("two")
        changed = code_hash(families)
        assert changed != before
        before = changed
    assert code_hash(["mlp"]) == code_hash(["tabm", "not_there_at_all:build"])

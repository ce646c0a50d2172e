"""Every kind of corrupted or odd file: the right values, or one line that says what to do; never anything half, never silence."""

import logging
import math
from pathlib import Path

import pytest

from benchmarks.bad_inputs import CASES, Case, land
from tasks.core.errors import DataError


@pytest.mark.parametrize("case", CASES, ids=[case.kind for case in CASES])
def test_file_of_a_kind_lands_right_or_is_refused_in_one_line(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO)
    if case.error:
        with pytest.raises(DataError) as refused:
            land(case, tmp_path)
        said = str(refused.value)
        assert case.error in said
        assert said.startswith("source 'flights'")
        assert "\n" not in said
        assert len(said) < 700
        assert not list(tmp_path.glob("store/**/*.parquet"))
    else:
        assert land(case, tmp_path) == case.rows
        assert case.log in caplog.text
        assert case.log or not [record for record in caplog.records if record.levelno > logging.INFO]
    assert not list(tmp_path.glob("store/.spool/*"))
    assert not Path("/tmp/tidemill-cve-2023-47248").exists()


def test_nan_words_land_as_nan_and_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    values = land(Case("nan", b"n\n1.5\nNaN\n"), tmp_path)
    assert values["n"][0] == 1.5
    assert math.isnan(values["n"][1])
    assert "1 values nan or inf" in caplog.text

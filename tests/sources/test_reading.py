"""Every kind of corrupted or odd file: the right values, or one line that says what to do; never anything half, never silence."""

import logging
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.bad_inputs import CASES, RAN, Case, land
from tasks import engine
from tasks.core.errors import DataError
from tests.conftest import ROOT


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
    assert not Path(RAN).exists()


def test_times_do_not_depend_on_the_zone_of_this_machine(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from benchmarks.bad_inputs import ZONED, Case, land, parquet\n"
        "table = parquet(ZONED, version='2.6')\n"
        "print(land(Case('', table, how={'types': dict.fromkeys(('us', 'ns'), 'text')}), Path()))\n"
        "print(land(Case('', b't\\n2013-01-01T01:00:00Z\\n', how={'types': {'t': 'date'}}), Path()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TZ": "America/New_York"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == [
        "{'ms': [datetime.datetime(2013, 1, 1, 3, 0)], 'us': ['2013-01-01 03:00:00+00'], 'ns': ['2013-01-01 03:00:00+00']}",
        "{'t': [datetime.date(2013, 1, 1)]}",
    ], done.stderr


def test_long_texts_are_not_searched_for_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    body = b"".join(b"%d %s\n" % (number, b"lorem ipsum " * 200) for number in range(20_000))  # 48 MB
    (tmp_path / "bare.csv").write_bytes(b"text\n" + body)
    before = time.process_time()
    with engine.connect() as db:
        db.execute("COPY (SELECT * FROM read_csv('bare.csv', header = true)) TO 'bare.parquet'")
    bare = time.process_time() - before
    before = time.process_time()
    land(Case("texts", b"text\n" + body), tmp_path)
    assert time.process_time() - before < 4 * bare + 1


def test_nan_words_land_as_nan_and_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    values = land(Case("nan", b"n\n1.5\nNaN\n"), tmp_path)
    assert values["n"][0] == 1.5
    assert math.isnan(values["n"][1])
    assert "1 values nan or inf" in caplog.text

"""Bad data stops, or goes to quarantine, with column, rule, count and examples; what was released stays."""

from collections.abc import Callable

import pytest

from tests.conftest import Workspace, states
from tests.test_pipeline import releases

pytestmark = pytest.mark.slow

Lines = list[list[str]]


def column(name: str, lines: Lines) -> int:
    return lines[0].index(name)


def rename(old: str, new: str) -> Callable[[Lines], Lines]:
    return lambda lines: [[new if word == old else word for word in lines[0]], *lines[1:]]


def put(name: str, value: str, every: int) -> Callable[[Lines], Lines]:
    """The column holds the value in one row of so many."""

    def change(lines: Lines) -> Lines:
        place = column(name, lines)
        for line in lines[1::every]:
            line[place] = value
        return lines

    return change


@pytest.mark.parametrize(
    ("source", "change", "stage", "words"),
    [
        ("flights", rename("distance", "miles"), "ingest", ["column 'distance'", "42,097 rows"]),
        ("weather", rename("temp", "temperature"), "ingest", ["column 'temp'", "26,115 rows", "'temperature'", "39.02"]),
        ("flights", put("distance", "far", 10), "validate", ["column 'distance'", "expected a number", "rows", "'far'"]),
        ("flights", put("distance", "-5", 10), "validate", ["column 'distance'", "at least 1", "rows", "-5", "budget of 1.0%"]),
        ("flights", put("arr_delay", "0", 1), "validate", ["column 'late'", "one class", "rows"]),
        ("flights", put("origin", "XXX", 50), "validate", ["column 'origin'", "XXX", "rows"]),
        ("flights", put("month", "13", 40_000), "ingest", ["table.query: ", "2013-13-1"]),
        ("flights", lambda lines: [], "ingest", ["source 'flights'", "empty", "0 bytes"]),
        ("flights", lambda lines: lines[:1], "ingest", ["source 'flights'", "no row"]),
        ("flights", lambda lines: lines[:200], "validate", ["valid rows", "expected at least 1,000"]),
    ],
    ids=["renamed", "renamed-again", "retyped", "negative", "one-class", "new-word", "no-day", "empty", "header", "few"],
)
def test_bad_data_stops_the_run(
    workspace: Workspace, source: str, change: Callable[[Lines], Lines], stage: str, words: list[str]
) -> None:
    before = releases(workspace)
    workspace.rewrite(source, change)
    done = workspace.train()
    assert done.returncode == 3, done.stdout + done.stderr
    assert done.stderr.startswith(f"error: {stage}: ")
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert states(done.stdout)[stage] == "Failed"
    assert releases(workspace) == before


def test_few_bad_rows_go_to_quarantine_with_their_rule(workspace: Workspace) -> None:
    import pyarrow.parquet as pq

    workspace.rewrite("flights", put("distance", "-5", 500))
    look = "import logging; from pathlib import Path; from tasks.poll import update_lock; update_lock(Path(), logging.getLogger())"
    done = workspace.run("-c", look)
    assert done.returncode == 0, done.stdout + done.stderr
    done = workspace.run("-m", "dvc", "repro", "validate")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = pq.read_table(workspace.path / "data/quarantine").to_pylist()
    assert 60 < len(rows) < 90
    assert {row["rule"] for row in rows} == {"distance: at least 1, at most 12000"}
    assert {row["distance"] for row in rows} == {-5}
    kept = pq.read_table(workspace.path / "data/valid", columns=["distance"]).column(0).to_pylist()
    assert min(kept) >= 1
    page = (workspace.path / "reports/data.html").read_text()
    assert "at least 1, at most 12000" in page

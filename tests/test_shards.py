"""Shards of a table: as many rows each as there may be, or as many bytes."""

from pathlib import Path

import pyarrow as pa
import pytest

from tasks import shards


@pytest.mark.parametrize("step", [1, 3, 7, 10, 25, 100])
def test_shards_are_full_whatever_the_batches_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: int) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 10)
    whole = pa.table({"x": list(range(57)), "y": [str(i) for i in range(57)]})
    tables = list(shards.filled(whole.to_batches(max_chunksize=step)))
    assert [table.num_rows for table in tables] == [10, 10, 10, 10, 10, 7]
    assert pa.concat_tables(tables).equals(whole)
    assert all(table.column("y").num_chunks == 1 for table in tables)
    assert shards.write_shards(tables, tmp_path, whole.schema) == 57


def test_wide_rows_make_smaller_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 100_000)
    whole = pa.table({"x": ["x" * (10 if i < 500 else 10_000) for i in range(600)]})
    tables = list(shards.filled(whole.to_batches(max_chunksize=5)))
    assert pa.concat_tables(tables).equals(whole)
    assert max(table.nbytes for table in tables) < 100_000 + 5 * 10_010
    assert 5 < len(tables) < 15

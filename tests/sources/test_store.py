"""The store of landed parts: what is listed is whole, and what a kill left over does not exist."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.sources.store import Store


def add(store: Store, mark: str, rows: int) -> None:
    with store.adding(mark) as aside:
        pq.write_table(pa.table({"x": list(range(rows))}), aside)


def test_parts_are_listed_in_order_and_found_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    add(store, "a", 3)
    add(store, "b", 4)
    again = Store(tmp_path / "s")
    assert [(part.mark, part.rows) for part in again.parts] == [("a", 3), ("b", 4)]
    assert again.rows == 7
    assert all(path.is_file() for path in again.paths)


def test_part_whose_writing_failed_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    add(store, "a", 3)

    def fail() -> None:
        with store.adding("b") as aside:
            aside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in sorted((tmp_path / "s").iterdir())] == ["00000.parquet", "parts.json"]


def test_file_that_the_list_does_not_name_does_not_count_and_is_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    add(store, "a", 3)
    (tmp_path / "s/00001.parquet").write_text("of a run that was killed before it was listed")
    again = Store(tmp_path / "s")
    assert [part.mark for part in again.parts] == ["a"]
    add(again, "b", 5)
    assert Store(tmp_path / "s").rows == 8


@pytest.mark.parametrize("content", ["", "[", '[{"file": "x"}]', '{"a": 1}', '[{"file": "gone.parquet", "mark": "a", "rows": 1}]'])
def test_damaged_list_is_an_empty_store(tmp_path: Path, content: str) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s/parts.json").write_text(content)
    assert Store(tmp_path / "s").parts == []


def test_keeping_some_parts_deletes_the_others_files(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    for mark in "abc":
        add(store, mark, 1)
    store.keep(["c", "a", "z"])
    assert [part.mark for part in Store(tmp_path / "s").parts] == ["c", "a"]
    assert len(list((tmp_path / "s").glob("*.parquet"))) == 2
    add(store, "d", 2)
    assert [part.mark for part in store.parts] == ["c", "a", "d"]
    store.clear()
    assert list((tmp_path / "s").glob("*.parquet")) == []

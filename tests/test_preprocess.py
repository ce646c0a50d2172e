"""Stage preprocess: parts, arrays and encoder of small tables in several shards, as they would be of one."""

import io
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from google.protobuf import text_format
from PIL import Image
from tensorflow_metadata.proto.v0 import schema_pb2

from tasks import preprocess as module
from tasks.core.encoder import CategoryColumn
from tasks.core.errors import DataError
from tasks.features import load_encoder, load_rows
from tasks.params import GroupSplit, Pixels, Preprocess, RandomSplit, Split, Table, TimeSplit
from tasks.preprocess import preprocess
from tasks.shards import read_shards

ROWS = 1200
CHANCE = RandomSplit(by="random", test=0.2, validation=0.1)


def table(**changes: Any) -> Table:
    roles = {
        "task": "binary", "time": "at", "target": "y", "classes": (0, 1), "numbers": ("n", "flag"), "categories": ("c",),
        "dates": ("at",), "texts": ("x",), "slices": (), "outcomes": (), "query": "SELECT 1",
    }  # fmt: skip
    return Table(**{**roles, **changes})


def settings(split: Split = CHANCE, **changes: Any) -> Preprocess:
    values = {"quantiles": 8, "min_count": 2, "max_words": 50, "tokens": 4, "token_words": 50, "holidays": None}
    return Preprocess(split=split, **{**values, **changes})


def rows(count: int = ROWS) -> pa.Table:
    random = np.random.default_rng(0)
    numbers = random.normal(size=count)
    words = np.array(["red", "green", "blue", None], object)[random.integers(0, 4, count)]
    texts = [f"one {word} thing no {i % 5}" if i % 9 else None for i, word in enumerate(words)]
    start = datetime(2013, 1, 1)
    return pa.table(
        {
            "at": pa.array([start + timedelta(hours=6 * i) for i in range(count)], pa.timestamp("us")),
            "y": pa.array((numbers > 0).astype(int)),
            "n": pa.array([None if i % 11 == 0 else value for i, value in enumerate(numbers)], pa.float64()),
            "flag": pa.array(random.integers(0, 2, count).astype(bool)),
            "c": pa.array(words, pa.string()),
            "x": pa.array(texts, pa.string()),
            "kind": pa.array(np.array(["a", "b", "c"])[random.integers(0, 3, count)]),
            "price": pa.array(100 + 20 * numbers),
            "group": pa.array([f"g{i // 7}" for i in range(count)]),
        }
    )


def run(folder: Path, content: pa.Table, columns: Table, how: Preprocess, *, shard: int = 250, seed: int = 1) -> Path:
    """The features folder that the stage makes of the content, cut into shards."""
    valid = folder / "valid"
    valid.mkdir(parents=True)
    for number, start in enumerate(range(0, len(content), shard)):
        pq.write_table(content.slice(start, shard), valid / f"{number:05d}.parquet")
    schema = schema_pb2.Schema()
    for name in ("flag", "c"):
        schema.feature.add(name=name).presence.min_fraction = 1.0 if name == "flag" else 0.0
    (folder / "schema.pbtxt").write_text(text_format.MessageToString(schema))
    preprocess(seed, columns, how, valid=valid, schema=folder / "schema.pbtxt", features=folder / "features")
    return folder / "features"


def content_of(features: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(features)): path.read_bytes() for path in [*sorted(features.rglob("*.npy")), features / "encoder.json"]
    }


def test_shards_do_not_matter(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", rows(), table(), settings(), shard=ROWS)
    cut = run(tmp_path / "cut", rows(), table(), settings(), shard=100)
    assert content_of(whole) == content_of(cut)
    one, other = (pa.concat_tables(read_shards(features / "test_rows")) for features in (whole, cut))
    assert one.equals(other)


def test_every_row_is_in_one_part_and_encoded_as_it_is(tmp_path: Path) -> None:
    features = run(tmp_path, rows(), table(), settings())
    encoder = load_encoder(features)
    parts = {part: load_rows(features, part) for part in ("train", "validation", "test")}
    assert {part: len(found) for part, found in parts.items()} == {"train": 840, "validation": 120, "test": 240}
    tested = pa.concat_tables(read_shards(features / "test_rows"))
    assert len(tested) == 240
    sent = [
        {**row, "at": row["at"].isoformat(), "n": row["n"], "flag": row["flag"]}
        for row in tested.select(["at", "n", "flag", "c", "x"]).to_pylist()
    ]
    encoded = encoder.encode(encoder.columns(sent))
    np.testing.assert_array_equal(np.asarray(parts["test"].num), encoded["num"])
    np.testing.assert_array_equal(np.asarray(parts["test"].cat), encoded["cat"])
    assert np.asarray(parts["test"].target).tolist() == tested.column("y").to_pylist()
    assert [column.name for column in encoder.scaled if column.flagged] == ["n"]
    assert encoder.required == ["flag"]


def test_encoder_knows_only_training_rows(tmp_path: Path) -> None:
    content = rows()
    last = content.column("at").to_pylist()[-100]
    words = [
        "test only" if when >= last else word
        for when, word in zip(*(content.column(c).to_pylist() for c in ("at", "c")), strict=True)
    ]
    content = content.set_column(content.column_names.index("c"), "c", pa.array(words, pa.string()))
    split = TimeSplit(by="time", test_from=last, validation_every_days=5)
    encoder = load_encoder(run(tmp_path, content, table(), settings(split)))
    assert isinstance(encoder.categories[0], CategoryColumn)
    assert encoder.categories[0].vocabulary == ("blue", "green", "red")
    trained = np.array([value for value in content.column("n").to_pylist()[:-100] if value is not None])
    assert encoder.numbers[0].edges[0] >= trained.min()


def test_quantiles_of_a_large_table_come_from_a_sample_that_the_seed_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIT_ROWS", 300)
    one, again = (load_encoder(run(tmp_path / name, rows(), table(), settings(), shard=n)) for name, n in (("a", 100), ("b", 500)))
    whole = load_encoder(run(tmp_path / "c", rows(300), table(), settings(), shard=100))
    assert one == again
    assert one.numbers[0].edges != whole.numbers[0].edges
    assert abs(one.numbers[0].edges[4]) < 0.3  # the median of a normal distribution


def test_counting_of_words_is_bounded_and_keeps_the_frequent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_COUNTED", 20)
    content = rows()
    words = [f"once {i}" if i % 3 else "often" for i in range(ROWS)]
    content = content.set_column(content.column_names.index("c"), "c", pa.array(words))
    encoder = load_encoder(run(tmp_path, content, table(texts=()), settings(), shard=100))
    assert encoder.categories[0].vocabulary == ("often",)


def test_several_classes_are_divided_alike_and_coded_in_their_order(tmp_path: Path) -> None:
    features = run(tmp_path, rows(), table(task="multiclass", target="kind", classes=("c", "a", "b")), settings())
    told = pa.concat_tables(read_shards(features / "test_rows")).column("kind").to_pylist()
    codes = np.asarray(load_rows(features, "test").target).astype(int)
    assert [("c", "a", "b")[code] for code in codes] == told
    assert load_encoder(features).target.classes == ("c", "a", "b")


def test_regression_learns_on_the_scale_of_its_training_rows(tmp_path: Path) -> None:
    features = run(tmp_path, rows(), table(task="regression", target="price", classes=()), settings())
    target = load_encoder(features).target
    learned = np.asarray(load_rows(features, "train").target)
    assert (learned.mean(), learned.std()) == (pytest.approx(0, abs=1e-5), pytest.approx(1, abs=1e-5))
    told = pa.concat_tables(read_shards(features / "test_rows")).column("price").to_numpy()
    np.testing.assert_allclose(target.decode(np.asarray(load_rows(features, "test").target)), told, rtol=1e-5)


def test_groups_stand_on_one_side(tmp_path: Path) -> None:
    split = GroupSplit(by="group", column="group", test=0.25, validation=0.15)
    features = run(tmp_path, rows(), table(), settings(split))
    tested = set(pa.concat_tables(read_shards(features / "test_rows")).column("group").to_pylist())
    assert 0.2 < len(load_rows(features, "test")) / ROWS < 0.3
    assert len(tested) * 7 == pytest.approx(len(load_rows(features, "test")), abs=7)


def test_test_part_of_the_last_days_moves_on_with_the_data(tmp_path: Path) -> None:
    def tested(content: pa.Table, name: str) -> list[datetime]:
        split = TimeSplit(by="time", test_last_days=9, validation_every_days=10)
        features = run(tmp_path / name, content, table(), settings(split))
        return sorted(pa.concat_tables(read_shards(features / "test_rows")).column("at").to_pylist())

    whole = rows()
    times = sorted(whole.column("at").to_pylist())
    for name, content in (("whole", whole), ("sooner", whole.filter(pc.less(whole.column("at"), times[-300])))):
        newest = max(content.column("at").to_pylist())
        first = datetime(newest.year, newest.month, newest.day) - timedelta(days=8)
        assert tested(content, name) == sorted(when for when in content.column("at").to_pylist() if when >= first)


def test_part_without_a_class_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    split = TimeSplit(by="time", test_from=datetime(2013, 10, 27, 15), validation_every_days=10)
    with pytest.raises(DataError, match=r"the test part has the classes .*expected \['0', '1'\]"):
        run(tmp_path, rows(), table(), settings(split))
    split = TimeSplit(by="time", test_from=datetime(2014, 1, 1), validation_every_days=10)
    with pytest.raises(DataError, match=r"the test part has no row of 1,200; move preprocess.split"):
        run(tmp_path / "again", rows(), table(), settings(split))
    assert not (tmp_path / "features").exists()


def test_missing_time_is_refused_by_name(tmp_path: Path) -> None:
    content = rows()
    times = [None if i == 5 else when for i, when in enumerate(content.column("at").to_pylist())]
    content = content.set_column(0, "at", pa.array(times, pa.timestamp("us")))
    split = TimeSplit(by="time", test_from=datetime(2013, 9, 1), validation_every_days=10)
    with pytest.raises(DataError, match="column 'at', the table's time, is missing in 1 rows"):
        run(tmp_path, content, table(), settings(split))


def test_holidays_are_those_of_the_country(tmp_path: Path) -> None:
    encoder = load_encoder(run(tmp_path, rows(), table(), settings(holidays="US")))
    fourth = (datetime(2013, 7, 4) - datetime(1970, 1, 1)).days
    assert fourth in encoder.dates[0].holidays
    assert fourth + 1 not in encoder.dates[0].holidays
    with pytest.raises(DataError, match="no calendar for 'XX'"):
        run(tmp_path / "again", rows(), table(), settings(holidays="XX"))


def test_table_of_numbers_alone_has_no_codes(tmp_path: Path) -> None:
    features = run(tmp_path, rows(), table(numbers=("n",), categories=(), dates=(), texts=()), settings())
    assert load_rows(features, "train").cat.shape == (840, 0)
    assert json.loads((features / "encoder.json").read_text())["categories"] == []


def test_images_are_decoded_into_arrays_of_their_own_rows(tmp_path: Path) -> None:
    content = rows()
    pixels = np.random.default_rng(1).integers(0, 256, (ROWS, 4, 6), np.uint8)
    content = content.append_column("photo", pa.array([png(one) for one in pixels], pa.binary()))
    how = settings(images=Pixels(height=4, width=6, channels=1))
    features = run(tmp_path, content, table(images=("photo",)), how)
    found = {part: load_rows(features, part) for part in ("train", "validation", "test")}
    assert {part: one.inputs["image0"].shape for part, one in found.items()} == {
        part: (len(one), 4, 6, 1) for part, one in found.items()
    }
    places = {one.tobytes(): row for row, one in enumerate(pixels)}
    seen = {part: [places[one.tobytes()] for one in np.asarray(part_rows.inputs["image0"])] for part, part_rows in found.items()}
    assert sorted(row for part in seen.values() for row in part) == list(range(ROWS))
    targets = np.array(content.column("y"))
    for part, part_rows in found.items():
        np.testing.assert_array_equal(part_rows.target, targets[seen[part]])


def png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()

"""Stage preprocess: splits the table, fits the encoder on the training part alone, writes encoded arrays; shard by shard."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import holidays
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks import stage
from tasks.columns import as_floats, as_seconds, raw_columns
from tasks.core.contract import required_columns
from tasks.core.encoder import Encoder, ImageColumn, fit_encoder, image_input
from tasks.core.errors import DataError
from tasks.core.split import PARTS, TEST, TRAIN
from tasks.core.target import Target, as_text
from tasks.core.tokens import pair_words, split_pieces, split_words
from tasks.features import ArrayWriter
from tasks.frozen import load_schema
from tasks.parallel import each_shard
from tasks.params import Preprocess, Table
from tasks.parts import assign_parts
from tasks.shards import read_parquet, read_shards, shard_paths, write_shards

log = logging.getLogger("tasks.preprocess")

FIT_ROWS = 1_000_000  # training rows, drawn evenly, that the quantiles are taken from; of fewer all
MOST_COUNTED = 2_000_000  # distinct words of a column that are counted at a time


def preprocess(seed: int, table: Table, preprocess: Preprocess, *, valid: Path, schema: Path, features: Path) -> None:
    """`features` holds encoder.json, arrays of the three parts, and the test part's raw rows."""
    parts = assign_parts(valid, table, preprocess.split, seed)
    sizes = {part: int((parts == code).sum()) for code, part in enumerate(PARTS)}
    if empty := [part for part, rows in sizes.items() if not rows]:
        raise DataError(f"the {empty[0]} part has no row of {len(parts):,}; move preprocess.split. The parts: {sizes}")

    found = survey(valid, table, parts, seed, pieces=preprocess.pieces is not None)
    check_classes(found, table)
    see, seen = look_by(preprocess)
    encoder = fit_encoder(
        fit_target(found, table),
        numbers={name: found.values(name) for name in table.numbers},
        dates={name: found.values(name) for name in table.dates},
        categories={name: found.words[name] for name in table.categories},
        texts={name: found.words[name] for name in table.texts},
        missing=frozenset(found.missing),
        required=required_columns(load_schema(schema)),
        quantiles=preprocess.quantiles,
        min_count=preprocess.min_count,
        max_words=preprocess.max_words,
        slots=preprocess.tokens,
        token_words=preprocess.token_words,
        pieces=found.pieces,
        piece_slots=preprocess.pieces.slots if preprocess.pieces else 0,
        most_pieces=preprocess.pieces.most if preprocess.pieces else 0,
        holidays=public_holidays(preprocess.holidays, [found.values(name) for name in table.dates]),
        images=tuple(ImageColumn(name, **preprocess.images.model_dump(), seen=seen) for name in table.images)
        if preprocess.images
        else (),
    )

    with stage.replacing(features) as folder:
        write_parts(folder, valid, table, encoder, parts, sizes)
        if see:
            see(folder)
        (folder / "encoder.json").write_text(json.dumps(encoder.to_json(), indent=1, ensure_ascii=False))
    for code, part in enumerate(PARTS):
        log.info("%s: %s rows, %s", part, f"{sizes[part]:,}", found.describe(code, table))
    known = {column.name: len(column.vocabulary) for column in encoder.worded}
    log.info("encoder: %s numbers, %s flags, known words %s", encoder.sizes.numbers, encoder.sizes.flags, known)


def look_by(preprocess: Preprocess) -> tuple[Callable[[Path], None] | None, int]:
    """What writes how a backbone sees the images in the folder of features, and how many features it makes, if there is one."""
    if preprocess.backbone is None or preprocess.images is None:
        return None, 0
    from tasks.backbone import load_backbone, write_seen  # TensorFlow, which nothing else here needs

    how = preprocess.images
    see, width = load_backbone(preprocess.backbone, (how.height, how.width, how.channels), "preprocess.backbone")
    return lambda folder: write_seen(folder, see), width


@dataclass
class Survey:
    """What a pass over the table found: of training rows sampled values, words and pieces with their rows, columns with missing
    values; of each part the classes, or the sum, squares and rows of a number."""

    sampled: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)
    words: dict[str, Counter[str]] = field(default_factory=dict)
    pieces: dict[str, Counter[str]] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    classes: dict[int, Counter[str]] = field(default_factory=lambda: {code: Counter() for code in range(len(PARTS))})
    moments: dict[int, NDArray[np.float64]] = field(default_factory=lambda: {code: np.zeros(3) for code in range(len(PARTS))})

    def values(self, name: str) -> NDArray[np.float64]:
        return np.concatenate(self.sampled[name])

    def add(self, other: "Survey") -> None:
        """What another pass found, of the rows behind these, counts here too."""
        for name, values in other.sampled.items():
            self.sampled.setdefault(name, []).extend(values)
        for own, theirs in ((self.words, other.words), (self.pieces, other.pieces)):
            for name, counts in theirs.items():
                own.setdefault(name, Counter()).update(counts)
                _forget_rare(own[name])
        self.missing |= other.missing
        for code in self.classes:
            self.classes[code].update(other.classes[code])
            self.moments[code] += other.moments[code]

    def describe(self, code: int, table: Table) -> str:
        """The part's target in a few words."""
        if table.task == "regression":
            total, _, rows = self.moments[code]
            return f"mean {table.target} {total / rows:,.6g}"
        rows = sum(self.classes[code].values())
        if table.task == "binary":
            return f"{100 * self.classes[code][as_text(table.classes[1])] / rows:.1f}% positive"
        return ", ".join(f"{100 * n / rows:.1f}% {label}" for label, n in self.classes[code].most_common(5))


def _forget_rare(counts: Counter[str]) -> None:
    """Counting stays bounded: words seen once are forgotten when there are too many (Manku and Motwani 2002, lossy counting)."""
    least = 1
    while len(counts) > MOST_COUNTED:
        for word in [word for word, count in counts.items() if count <= least]:
            del counts[word]
        least += 1


def survey(valid: Path, table: Table, parts: NDArray[np.uint8], seed: int, *, pieces: bool) -> Survey:
    """One pass over all shards; `pieces` of words are counted where wanted."""
    training = int((parts == TRAIN).sum())
    sampled = np.ones(training, bool)
    if training > FIT_ROWS:
        sampled[:] = False
        sampled[np.random.default_rng(seed).choice(training, FIT_ROWS, replace=False)] = True

    def look(path: Path, start: int) -> Survey:
        shard = read_parquet(path, [table.target, *(name for name in table.features if name not in table.images)])
        own = parts[start : start + len(shard)]
        before = int((parts[:start] == TRAIN).sum())
        return survey_shard(shard, table, own, sampled[before : before + int((own == TRAIN).sum())], pieces=pieces)

    whole = Survey()
    for found in each_shard(valid, look, "fit"):
        whole.add(found)
    return whole


def survey_shard(shard: pa.Table, table: Table, parts: NDArray[np.uint8], sampled: NDArray[np.bool_], *, pieces: bool) -> Survey:
    """What one shard holds; `sampled` says which of its training rows the quantiles are taken from."""
    found = Survey()
    target = shard.column(table.target).combine_chunks()
    for code in range(len(PARTS)):
        own = target.filter(pa.array(parts == code))
        if table.task == "regression":
            values = as_floats(own)
            found.moments[code] = np.array([values.sum(), (values**2).sum(), len(values)])
        else:
            found.classes[code] = Counter({as_text(label): n for label, n in _value_counts(own)})
    training = shard.filter(pa.array(parts == TRAIN))
    for name in (*table.numbers, *table.dates):
        column = training.column(name)
        values = as_seconds(column) if name in table.dates else as_floats(column)
        if np.isnan(values).any():
            found.missing.add(name)
        found.sampled[name] = [values[sampled]]
    for name in table.categories:
        found.words[name] = Counter({word: n for word, n in _value_counts(training.column(name).combine_chunks()) if word})
    for name in table.texts:
        found.words[name] = Counter()
        if pieces:
            found.pieces[name] = Counter()
        for text, rows in _value_counts(training.column(name).combine_chunks()):
            words = split_words(text or "")
            for word in {*words, *pair_words(words)}:
                found.words[name][word] += rows
            for piece in set(split_pieces(words)) if pieces else ():
                found.pieces[name][piece] += rows
    return found


def _value_counts(column: pa.Array) -> Iterator[tuple[Any, int]]:
    counts = pc.value_counts(column)
    return zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True)


def check_classes(found: Survey, table: Table) -> None:
    """DataError unless each part has rows of every class."""
    wanted = {as_text(label) for label in table.classes}
    for code, part in enumerate(PARTS):
        classes = {label: rows for label, rows in found.classes[code].items() if rows}
        if table.task != "regression" and classes.keys() != wanted:
            raise DataError(
                f"the {part} part has the classes {dict(sorted(classes.items()))}; expected {sorted(wanted)}, all and no other. "
                "Move preprocess.split, or correct table.classes"
            )


def fit_target(found: Survey, table: Table) -> Target:
    """The target with the scale that a regression learns on: mean 0 and standard deviation 1 over the training rows."""
    if table.task != "regression":
        return Target(table.task, table.target, table.classes)
    total, squares, rows = found.moments[TRAIN]
    spread = float(np.sqrt(max(squares / rows - (total / rows) ** 2, 0.0)))
    return Target("regression", table.target, (), float(total / rows), spread or 1.0)


def public_holidays(place: str | None, dates: list[NDArray[np.float64]]) -> tuple[int, ...]:
    """Days since 1970 of a country's public holidays, from five years before the known dates to ten after them."""
    known = np.concatenate([values[np.isfinite(values)] for values in dates]) if dates else np.zeros(0)
    if place is None or not len(known):
        return ()
    years = np.array([known.min(), known.max()]).astype("datetime64[s]").astype("datetime64[Y]").astype(int) + 1970
    country, _, part = place.partition("-")
    try:
        calendar = holidays.country_holidays(country, subdiv=part or None, years=range(years[0] - 5, years[1] + 11))
    except NotImplementedError as error:  # what holidays raises for a country or a part of one that it does not know
        raise DataError(f"preprocess.holidays: no calendar for {place!r}: {error}") from error
    return tuple(sorted(int(np.datetime64(day).astype(int)) for day in calendar))


def write_parts(
    folder: Path, valid: Path, table: Table, encoder: Encoder, parts: NDArray[np.uint8], sizes: Mapping[str, int]
) -> None:
    """The arrays of each part, and the raw rows of the test part."""
    rows: dict[str, tuple[tuple[int, ...], type]] = {
        "num": ((encoder.width,), np.float32),
        "cat": ((encoder.codes,), np.int32),
        "target": ((), np.float32),
    }
    rows |= {image_input(i): (shape, np.uint8) for i, shape in enumerate(encoder.sizes.images)}

    def encode(path: Path, start: int) -> dict[str, NDArray[Any]]:
        shard = read_parquet(path, [table.target, *table.features])
        return {
            **encoder.encode(raw_columns(shard, encoder)),
            "target": encoder.target.encode(shard.column(table.target).to_pandas().to_numpy()),
        }

    start = 0
    with ArrayWriter(folder, {part: (count, rows) for part, count in sizes.items()}) as writer:
        for arrays in each_shard(valid, encode, "encode"):
            own = parts[start : start + len(arrays["target"])]
            for code, part in enumerate(PARTS):
                writer.write(part, {name: array[own == code] for name, array in arrays.items()})
            start += len(own)
    write_shards(test_rows(valid, parts), folder / "test_rows", read_parquet(shard_paths(valid)[0]).schema)


def test_rows(valid: Path, parts: NDArray[np.uint8]) -> Iterator[pa.Table]:
    """The rows of the test part as they are, shard by shard."""
    start = 0
    for shard in read_shards(valid):
        own = parts[start : start + len(shard)]
        start += len(shard)
        yield shard.filter(pa.array(own == TEST))


if __name__ == "__main__":
    stage.main(preprocess)

"""The encoder: raw columns in, the network's input arrays out; NumPy and Pillow only, so that serving needs nothing else."""

import math
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.calendar import CYCLES, cycles, parse_time
from tasks.core.images import Channels, decode_images, from_text
from tasks.core.target import Target, as_tuples
from tasks.core.tokens import pair_words, split_pieces, split_words

MISSING, OTHER = 0, 1  # the codes of a value that is not there, and of one that is rare or was never seen in training
RESERVED = 2
LEAST_ROWS = 2  # that a word or piece of a text stands in, to be known
Places = Mapping[str, Mapping[str, list[int]]]  # of each raw column the columns of each array
SMOOTH_CLIP = 3.0  # spreads
FEW = 24  # rows that are encoded value by value: of the flagship's more columns of NumPy's are faster
FARTHEST = 1e6  # times that: all the same from there on, and its square is finite
# Name, what makes a number of a value, edges between steps, where these begin, their widths and how many there are; where the flag
# and the magnitude stand (0: nowhere), centre and clip of the latter, where the cycles of a date stand.
Scale = tuple[str, Callable[[Any], float], list[float], list[float], list[float], int, int, int, float, float, int]


@dataclass(frozen=True)
class NumberColumn:
    """A number: `edges` are its distinct training quantiles, `flagged` says whether a missing value has its own input.

    With a `spread` its magnitude is an input too, `spread` wide around `center`; without one (0) it is not.
    """

    name: str
    required: bool
    flagged: bool
    edges: tuple[float, ...]
    center: float = 0.0
    spread: float = 0.0


@dataclass(frozen=True)
class DateColumn:
    """A date or time, as seconds since 1970: a number, and its cycles; `holidays` are days since 1970."""

    name: str
    required: bool
    flagged: bool
    edges: tuple[float, ...]
    holidays: tuple[int, ...]


@dataclass(frozen=True)
class CategoryColumn:
    """A category: code 0 is missing, 1 is rare or unknown, i + 2 is `vocabulary[i]`."""

    name: str
    required: bool
    vocabulary: tuple[str, ...]


@dataclass(frozen=True)
class TextColumn:
    """A short text: the codes of its first `slots` words, as those of a category, and known pairs of words; 0 fills up.

    Then, in as many slots of their own, the codes of known pieces of its words.
    """

    name: str
    required: bool
    slots: int
    vocabulary: tuple[str, ...]
    piece_slots: int = 0
    pieces: tuple[str, ...] = ()

    @property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """Slots and codes of the words, and of the pieces if it has any."""
        words, pieces = ((self.slots, self.vocabulary), (self.piece_slots, self.pieces))
        return tuple((slots, len(known) + RESERVED) for slots, known in (words, pieces) if slots)

    @property
    def width(self) -> int:
        """Slots in all."""
        return self.slots + self.piece_slots


@dataclass(frozen=True)
class ImageColumn:
    """An image, in every row: resized to height and width, of one channel (grey) or three (red, green, blue).

    Training may see it by a backbone besides, which makes `seen` features of it; serving does not.
    """

    name: str
    height: int
    width: int
    channels: Channels
    seen: int = 0

    required = True

    def decode(self, contents: Sequence[bytes]) -> NDArray[np.uint8]:
        """[row, height, width, channels] of encoded images; ImageError with the row for one that cannot be read."""
        return decode_images(contents, self.height, self.width, self.channels)


@dataclass(frozen=True)
class Words:
    """A column of words by its distinct ones (None for missing) and each row's place among them."""

    distinct: Sequence[str | None]
    places: NDArray[Any]

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True)
class Sizes:
    """What of an encoder a network's shape depends on: `texts` are slots and codes, one pair for the words of a text and one for
    its pieces; codes include the reserved ones.

    Of the `flags`, all columns of `num` behind the positions, the last `magnitudes` repeat numbers on another scale.
    """

    numbers: int
    flags: int
    categories: tuple[int, ...]
    texts: tuple[tuple[int, int], ...]
    images: tuple[tuple[int, int, int], ...] = ()  # height, width and channels of each
    seen: tuple[int, ...] = ()  # features that a backbone makes of each, if there is one
    magnitudes: int = 0


@dataclass(frozen=True)
class Encoder:
    """What training fitted and serving repeats: one JSON document, executed here and in `encoder_graph`."""

    numbers: tuple[NumberColumn, ...]
    dates: tuple[DateColumn, ...]
    categories: tuple[CategoryColumn, ...]
    texts: tuple[TextColumn, ...]
    target: Target
    images: tuple[ImageColumn, ...] = ()

    @property
    def scaled(self) -> tuple[NumberColumn | DateColumn, ...]:
        """The columns that have a position on a scale."""
        return (*self.numbers, *self.dates)

    @property
    def worded(self) -> tuple[CategoryColumn | TextColumn, ...]:
        """The columns that have a vocabulary."""
        return (*self.categories, *self.texts)

    @property
    def names(self) -> list[str]:
        """Every raw column, in the order in which it is encoded."""
        return [column.name for column in (*self.scaled, *self.worded, *self.images)]

    @property
    def required(self) -> list[str]:
        """The columns that a row must have."""
        return [column.name for column in (*self.scaled, *self.worded, *self.images) if column.required]

    @cached_property
    def needed(self) -> frozenset[str]:
        """The same as a set."""
        return frozenset(self.required)

    @cached_property
    def types(self) -> dict[str, frozenset[type]]:
        """What a value of each number, category or text may be, in a row as JSON gives it; None where it may be missing."""
        kinds: list[tuple[NumberColumn | CategoryColumn | TextColumn, frozenset[type]]] = [
            *((number, frozenset({int, float})) for number in self.numbers),
            *((column, frozenset({str})) for column in self.worded),
        ]
        return {column.name: kind if column.required else kind | {type(None)} for column, kind in kinds}

    @cached_property
    def width(self) -> int:
        """Columns of the `num` array: a position for each number and date, then flags, cycles and magnitudes."""
        return len(self.scaled) + sum(column.flagged for column in self.scaled) + CYCLES * len(self.dates) + len(self.spread)

    @property
    def spread(self) -> tuple[NumberColumn, ...]:
        """The numbers whose magnitude is an input."""
        return tuple(column for column in self.numbers if column.spread)

    @cached_property
    def codes(self) -> int:
        """Columns of the `cat` array: one for each category, then the slots of the texts."""
        return len(self.categories) + sum(text.width for text in self.texts)

    @property
    def sizes(self) -> Sizes:
        return Sizes(
            len(self.scaled),
            self.width - len(self.scaled),
            tuple(len(column.vocabulary) + RESERVED for column in self.categories),
            tuple(block for text in self.texts for block in text.blocks),
            tuple((image.height, image.width, image.channels) for image in self.images),
            magnitudes=len(self.spread),
            seen=tuple(image.seen for image in self.images if image.seen),
        )

    @property
    def places(self) -> dict[str, dict[str, list[int]]]:
        """For each raw column the columns of each array that are made of it alone; of an image all its lines."""
        flag = len(self.scaled)
        found: dict[str, dict[str, list[int]]] = {}
        for i, column in enumerate(self.scaled):
            found[column.name] = {"num": [i, flag] if column.flagged else [i]}
            flag += column.flagged
        for date in self.dates:
            found[date.name]["num"] += range(flag, flag + CYCLES)
            flag += CYCLES
        for place, number in enumerate(self.spread, start=flag):
            found[number.name]["num"].append(place)
        found |= {category.name: {"cat": [j]} for j, category in enumerate(self.categories)}
        slot = len(self.categories)
        for text in self.texts:
            found[text.name] = {"cat": list(range(slot, slot + text.width))}
            slot += text.width
        return found | {image.name: {image_input(i): list(range(image.height))} for i, image in enumerate(self.images)}

    def columns(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[Any] | Words]:
        """Rows as a client sends them, as raw columns: a missing value is absent or None; dates are ISO text, images base64."""

        def take(name: str) -> list[Any]:
            return [row.get(name) for row in rows]

        return {
            **{c.name: np.array([math.nan if v is None else float(v) for v in take(c.name)]) for c in self.numbers},
            **{c.name: np.array([math.nan if v is None else parse_time(v) for v in take(c.name)]) for c in self.dates},
            **{c.name: Words(take(c.name), np.arange(len(rows))) for c in self.worded},
            **{c.name: c.decode([from_text(value) for value in take(c.name)]) for c in self.images},
        }

    def encode_rows(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
        """Rows as a client sends them, encoded as `encode` does it; of few rows value by value, since each array costs NumPy
        microseconds."""
        if len(rows) > FEW or self.images:
            return self.encode(self.columns(rows))
        num, cat = array("f", bytes(4 * len(rows) * self.width)), array("i")
        for i, row in enumerate(rows):
            self._encode_numbers(row, num, i * self.width)
            cat.extend(self._encode_words(row))
        return {
            "num": np.frombuffer(num, np.float32).reshape(len(rows), self.width),
            "cat": np.frombuffer(cat, np.int32).reshape(len(rows), self.codes),
        }

    def _encode_numbers(self, row: Mapping[str, Any], line: "array[float]", start: int) -> None:
        """From `start` on the line, of zeros, is the row of `num`, by the operations of `position`, `magnitude` and `cycles` in
        their order."""
        get, place, far_end = row.get, start, FARTHEST
        for name, convert, inner, edges, steps, last, flag, magnified, center, spread, wave in self._scales:
            value = get(name)
            if value is not None:
                value = convert(value)
            if value is None or value != value:
                if flag:
                    line[start + flag] = 1.0
                place += 1
                continue
            if last:
                low = bisect_right(inner, value)
                share = (value - edges[low]) / steps[low]
                if share < 0.0:
                    share = 0.0
                elif share > 1.0:
                    share = 1.0
                line[place] = (low + share) / last * 2.0 - 1.0
            if magnified:
                far = (value - center) / spread
                if not -far_end < far < far_end:
                    far = far_end if far > 0.0 else -far_end
                line[start + magnified] = far / sqrt(1.0 + far * far)
            if wave:
                holidays = self._holidays[place - start - len(self.numbers)]
                line[start + wave : start + wave + CYCLES] = array("f", cycles(np.array([value]), holidays)[0].tolist())
            place += 1

    def _encode_words(self, row: Mapping[str, Any]) -> list[int]:
        """The row of `cat`."""
        get = row.get
        line = [codes.get(word, OTHER) if (word := get(name)) else MISSING for name, codes in self._vocabularies]
        for place, text in enumerate(self.texts):
            line += self._encode_text(place, get(text.name))
        return line

    def _encode_text(self, place: int, text: str | None) -> list[int]:
        """The codes of the text column at that place, zeros behind the last word and behind the last piece."""
        column, codes, pieces = self.texts[place], self._text_codes[place], self._piece_codes[place]
        words = split_words(text or "")
        found = [codes.get(word, OTHER) for word in words[: column.slots]]
        if len(words) < column.slots:
            found += [codes[pair] for pair in pair_words(words) if pair in codes][: column.slots - len(words)]
        found += [MISSING] * (column.slots - len(found))
        known = [pieces[piece] for piece in split_pieces(words) if piece in pieces][: column.piece_slots] if pieces else []
        return found + known + [MISSING] * (column.piece_slots - len(known))

    def encode(self, columns: Mapping[str, NDArray[Any] | Words]) -> dict[str, NDArray[Any]]:
        """`num`: float32 [row, width], all in [-1, 1]; `cat`: int32 [row, codes]; `image0`, ...: the images as they are.

        Numbers are floats and dates seconds since 1970, NaN where missing; categories and texts are Words; images are uint8
        [row, height, width, channels].
        """
        rows = len(next(iter(columns.values())))
        num = np.zeros((rows, self.width), np.float32)
        flag = len(self.scaled)
        for i, column in enumerate(self.scaled):
            value = np.asarray(columns[column.name], np.float64)
            missing = np.isnan(value)
            num[:, i] = np.where(missing, 0.0, position(value, self._edges[i]))
            if column.flagged:
                num[:, flag] = missing
                flag += 1
        for date, holidays in zip(self.dates, self._holidays, strict=True):
            num[:, flag : flag + CYCLES] = cycles(np.asarray(columns[date.name], np.float64), holidays)
            flag += CYCLES
        for place, number in enumerate(self.spread, start=flag):
            value = np.asarray(columns[number.name], np.float64)
            num[:, place] = np.where(np.isnan(value), 0.0, magnitude(value, number.center, number.spread))
        cat = np.zeros((rows, self.codes), np.int32)
        for j, (category, codes) in enumerate(zip(self.categories, self._category_codes, strict=True)):
            words = columns[category.name]
            assert isinstance(words, Words)
            cat[:, j] = np.array([codes.get(word, OTHER) if word else MISSING for word in words.distinct], np.int32)[words.places]
        slot = len(self.categories)
        for place, text in enumerate(self.texts):
            words = columns[text.name]
            assert isinstance(words, Words)
            distinct = np.zeros((len(words.distinct), text.width), np.int32)
            for i, one in enumerate(words.distinct):
                distinct[i] = self._encode_text(place, one)
            cat[:, slot : slot + text.width] = distinct[words.places]
            slot += text.width
        images = {image_input(i): np.asarray(columns[image.name]) for i, image in enumerate(self.images)}
        return {"num": num, "cat": cat, **images}

    @cached_property
    def _edges(self) -> list[NDArray[np.float64]]:
        return [np.asarray(column.edges) for column in self.scaled]

    @cached_property
    def _scales(self) -> list[Scale]:
        """Of each column with a scale what one row at a time needs of it."""
        places = self.places
        found: list[Scale] = []
        for number in self.numbers:
            _, *others = places[number.name]["num"]
            flag = others.pop(0) if number.flagged else 0
            magnified = others.pop() if number.spread else 0
            clip = SMOOTH_CLIP * number.spread
            found.append((number.name, float, *_steps(number.edges), flag, magnified, number.center, clip, 0))
        for date in self.dates:
            _, *others = places[date.name]["num"]
            flag, wave = (others[0], others[1]) if date.flagged else (0, others[0])
            found.append((date.name, parse_time, *_steps(date.edges), flag, 0, 0.0, 0.0, wave))
        return found

    @cached_property
    def _holidays(self) -> list[NDArray[np.int64]]:
        return [np.asarray(column.holidays, np.int64) for column in self.dates]

    @cached_property
    def _category_codes(self) -> list[dict[str, int]]:
        return [_codes(column.vocabulary) for column in self.categories]

    @cached_property
    def _vocabularies(self) -> list[tuple[str, dict[str, int]]]:
        return [(column.name, codes) for column, codes in zip(self.categories, self._category_codes, strict=True)]

    @cached_property
    def _text_codes(self) -> list[dict[str, int]]:
        return [_codes(column.vocabulary) for column in self.texts]

    @cached_property
    def _piece_codes(self) -> list[dict[str, int]]:
        return [_codes(column.pieces) for column in self.texts]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "target": self.target.to_json()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Encoder":
        """The encoder that `to_json` described; TypeError or KeyError when the document is not one."""
        return cls(
            tuple(NumberColumn(**as_tuples(column)) for column in document["numbers"]),
            tuple(DateColumn(**as_tuples(column)) for column in document["dates"]),
            tuple(CategoryColumn(**as_tuples(column)) for column in document["categories"]),
            tuple(TextColumn(**as_tuples(column)) for column in document["texts"]),
            Target.from_json(document["target"]),
            tuple(ImageColumn(**column) for column in document.get("images", ())),  # which older releases do not have
        )


def image_input(place: int) -> str:
    """The name of the network's input that takes the image column at that place among them."""
    return f"image{place}"


def seen_input(place: int) -> str:
    """The name of the input that takes what a backbone makes of the image column at that place among them."""
    return f"seen{place}"


def _codes(vocabulary: Iterable[str]) -> dict[str, int]:
    return {word: code for code, word in enumerate(vocabulary, start=RESERVED)}


def _steps(edges: tuple[float, ...]) -> tuple[list[float], list[float], list[float], int]:
    """The edges between steps, where each step begins, how wide it is, and how many there are."""
    return list(edges[1:-1]), list(edges[:-1]), [high - low for low, high in pairwise(edges)], len(edges) - 1


def position(value: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where each value stands among the training quantiles, in [-1, 1]; a column of one single value gives 0.

    Quantiles make the input uniform, so outliers do not matter and int8 keeps as much of it as 256 levels can.
    """
    if len(edges) < 2:
        return np.zeros(len(value))
    low = np.clip(np.searchsorted(edges, value, side="right") - 1, 0, len(edges) - 2)
    share = np.clip((value - edges[low]) / (edges[low + 1] - edges[low]), 0.0, 1.0)
    placed: NDArray[np.float64] = (low + share) / (len(edges) - 1) * 2.0 - 1.0
    return placed


def magnitude(value: NDArray[np.float64], center: float, spread: float) -> NDArray[np.float64]:
    """How far each value is from the centre, in spreads, clipped smoothly to (-1, 1): robust scaling and smooth clipping.

    After RealMLP (Holzmüller et al. 2024, arXiv 2407.04491), whose clip at 3 is 1 here, since int8 knows one scale for all inputs.
    """
    far = np.clip((value - center) / (SMOOTH_CLIP * spread), -FARTHEST, FARTHEST)
    clipped: NDArray[np.float64] = far / np.sqrt(1.0 + far * far)
    return clipped


def fit_magnitude(values: NDArray[np.float64]) -> tuple[float, float]:
    """Median and distance of the quartiles, half the range where these are equal; a spread of 0 for a column of one value."""
    known = values[np.isfinite(values)]
    if not len(known):
        return 0.0, 0.0
    low, center, high = np.quantile(known, [0.25, 0.5, 0.75])
    return float(center), float(high - low) or float(known.max() - known.min()) / 2


def fit_edges(values: NDArray[np.float64], quantiles: int) -> tuple[float, ...]:
    """The distinct quantiles of the finite values, `quantiles` + 1 at most; one edge where nothing is known."""
    known = values[np.isfinite(values)]
    if not len(known):
        return (0.0,)
    return tuple(np.unique(np.quantile(known, np.linspace(0.0, 1.0, quantiles + 1))).tolist())


def fit_vocabulary(counts: Mapping[str, int], *, min_count: int, max_words: int) -> tuple[str, ...]:
    """The words that stand in `min_count` rows or more, the `max_words` most frequent of them, by name."""
    # "" is how a graph of strings says missing: it has no code of its own, in either executor.
    known = [(word, count) for word, count in counts.items() if word and count >= min_count]
    return tuple(sorted(word for word, _ in sorted(known, key=lambda pair: (-pair[1], pair[0]))[:max_words]))


def fit_encoder(
    target: Target,
    *,
    numbers: Mapping[str, NDArray[np.float64]],
    dates: Mapping[str, NDArray[np.float64]],
    categories: Mapping[str, Mapping[str, int]],
    texts: Mapping[str, Mapping[str, int]],
    missing: frozenset[str],
    required: frozenset[str],
    quantiles: int,
    min_count: int,
    max_words: int,
    slots: int,
    token_words: int,
    pieces: Mapping[str, Mapping[str, int]] | None = None,
    piece_slots: int = 0,
    most_pieces: int = 0,
    holidays: tuple[int, ...] = (),
    images: tuple[ImageColumn, ...] = (),
) -> Encoder:
    """Fit on what training rows hold: values of each number and date, rows of each word of a category, of each word, pair of words
    and, where they are to count, piece of a word in a text.

    `missing` are the numbers and dates that some training row lacks.
    """
    known = pieces or {}
    return Encoder(
        tuple(
            NumberColumn(name, name in required, name in missing, fit_edges(v, quantiles), *fit_magnitude(v))
            for name, v in numbers.items()
        ),
        tuple(DateColumn(name, name in required, name in missing, fit_edges(v, quantiles), holidays) for name, v in dates.items()),
        tuple(
            CategoryColumn(name, name in required, fit_vocabulary(counts, min_count=min_count, max_words=max_words))
            for name, counts in categories.items()
        ),
        tuple(
            TextColumn(
                name,
                name in required,
                slots,
                fit_vocabulary(counts, min_count=LEAST_ROWS, max_words=token_words),
                piece_slots if name in known else 0,
                fit_vocabulary(known.get(name, {}), min_count=LEAST_ROWS, max_words=most_pieces),
            )
            for name, counts in texts.items()
        ),
        target,
        images,
    )

"""The network: one builder for Keras 3 (tuner, teacher, student) and tf_keras (what tfmot prunes and quantises)."""

from dataclasses import asdict, dataclass
from functools import cache
from types import ModuleType
from typing import Any

from tasks.core.encoder import Encoder


@dataclass(frozen=True)
class NetworkSpec:
    """Everything that the shape of a network depends on.

    numbers: positions in [-1, 1]; flags: further columns of `num`, taken as they are; categories: codes of each category;
    texts: slots and codes of each text; bins: pieces of the piecewise-linear expansion of a number; embedding: width of the
    vector of a category or a word; outputs: one, or one for each class; members: networks in one, averaged.
    """

    numbers: int
    flags: int
    categories: tuple[int, ...]
    texts: tuple[tuple[int, int], ...]
    bins: int
    embedding: int
    hidden: tuple[int, ...]
    outputs: int = 1
    members: int = 1
    dropout: float = 0.0
    embedding_dropout: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "NetworkSpec":
        """The spec that `to_json` described; TypeError or KeyError when the document is not one."""
        shapes = {"categories": tuple(document["categories"]), "hidden": tuple(document["hidden"])}
        return cls(**{**document, **shapes, "texts": tuple((slots, codes) for slots, codes in document["texts"])})


def spec_of(
    encoder: Encoder,
    *,
    bins: int,
    embedding: int,
    hidden: tuple[int, ...],
    members: int = 1,
    dropout: float = 0.0,
    embedding_dropout: float = 0.0,
) -> NetworkSpec:
    """The shape that fits what the encoder makes and what its target needs."""
    sizes = encoder.sizes
    inputs = (sizes.numbers, sizes.flags, sizes.categories, sizes.texts)
    return NetworkSpec(*inputs, bins, embedding, hidden, encoder.target.outputs, members, dropout, embedding_dropout)


@dataclass(frozen=True)
class Hyperparameters:
    """What the search chooses of the teacher and of its training."""

    learning_rate: float
    weight_decay: float
    dropout: float
    embedding_dropout: float
    width: int
    layers: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def build(keras: ModuleType, spec: NetworkSpec) -> Any:
    """An untrained network: {num [row, numbers + flags], cat [row, categories + slots]} in.

    Out come logits [row, members]; with several outputs [row, outputs] of one member, [row, members, outputs] of more.
    Numbers are expanded piecewise linearly (Gorishniy et al. 2022, arXiv 2203.05556); with `members` > 1 each member sees
    the inputs through its own scaling and has its own head, the layers between are shared (TabM-mini, Gorishniy et al.
    2024, arXiv 2410.24210).
    """
    layers = keras.layers
    ours = custom_layers(keras)
    num = layers.Input((spec.numbers + spec.flags,), name="num")
    cat = layers.Input((len(spec.categories) + sum(slots for slots, _ in spec.texts),), dtype="int32", name="cat")
    parts = []
    if spec.numbers + spec.flags:
        parts.append(ours["PiecewiseLinear"](spec.numbers, spec.bins, name="numbers")(num))
    if spec.categories:
        vectors = ours["CategoryVectors"](spec.categories, spec.embedding, name="categories")(cat)
        parts.append(layers.Dropout(spec.embedding_dropout, name="categories_dropout")(vectors))
    start = len(spec.categories)
    for i, (slots, words) in enumerate(spec.texts):
        mean = ours["TextVector"](start, slots, words, spec.embedding, name=f"text_{i}")(cat)
        parts.append(layers.Dropout(spec.embedding_dropout, name=f"text_{i}_dropout")(mean))
        start += slots
    x = layers.Concatenate(name="inputs")(parts) if len(parts) > 1 else parts[0]
    if spec.members > 1:
        x = ours["MemberScale"](spec.members, name="members")(x)  # [row, member, input]
    for i, units in enumerate(spec.hidden):
        x = layers.Dense(units, activation="relu", name=f"hidden_{i}")(x)
        if spec.dropout:
            x = layers.Dropout(spec.dropout, name=f"dropout_{i}")(x)
    head = (
        ours["MemberHead"](spec.members, spec.outputs, name="logits")
        if spec.members > 1
        else layers.Dense(spec.outputs, name="logits")
    )
    return keras.Model({"num": num, "cat": cat}, head(x), name="network")


@cache
def custom_layers(keras: ModuleType) -> dict[str, Any]:
    """The layers that Keras lacks, as classes of the given Keras; by name, as its deserialisation wants them."""

    class PiecewiseLinear(keras.layers.Layer):  # type: ignore[misc, name-defined]
        """Each of the first `numbers` columns becomes `bins` ramps over [-1, 1]; the columns after them pass."""

        def __init__(self, numbers: int, bins: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.numbers, self.bins = numbers, bins

        def call(self, x: Any) -> Any:
            lows = [[-1.0 + 2.0 * i / self.bins for i in range(self.bins)]]
            ramps = keras.activations.relu((x[:, : self.numbers, None] - lows) * (self.bins / 2.0), max_value=1.0)
            flat = _reshape(keras, ramps, self.numbers * self.bins)
            return _concatenate(keras, [flat, x[:, self.numbers :]])

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "numbers": self.numbers, "bins": self.bins}

    class CategoryVectors(keras.layers.Layer):  # type: ignore[misc, name-defined]
        """One table for all categories, each with rows of its own: a single gather on the device that serves."""

        def __init__(self, sizes: tuple[int, ...], width: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.sizes, self.width = tuple(sizes), width

        def build(self, shape: Any) -> None:
            self.table = self.add_weight(
                name="table",
                shape=(sum(self.sizes), self.width),
                initializer=keras.initializers.RandomNormal(stddev=0.1),
            )
            super().build(shape)

        def call(self, codes: Any) -> Any:
            starts = [[sum(self.sizes[:i]) for i in range(len(self.sizes))]]
            vectors = _take(keras, self.table, codes[:, : len(self.sizes)] + starts)  # [row, category, width]
            return _reshape(keras, vectors, len(self.sizes) * self.width)

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "sizes": self.sizes, "width": self.width}

    class TextVector(keras.layers.Layer):  # type: ignore[misc, name-defined]
        """The mean of the vectors of a text's words, which stand in `slots` columns of the codes; code 0 is no word."""

        def __init__(self, start: int, slots: int, words: int, width: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.start, self.slots, self.words, self.width = start, slots, words, width

        def build(self, shape: Any) -> None:
            self.table = self.add_weight(
                name="table", shape=(self.words, self.width), initializer=keras.initializers.RandomNormal(stddev=0.1)
            )
            super().build(shape)

        def call(self, codes: Any) -> Any:
            own = codes[:, self.start : self.start + self.slots]
            vectors = _take(keras, self.table, own)  # [row, slot, width]
            present = _ops(keras).cast(own > 0, "float32")
            count = _ops(keras).maximum(_ops(keras).sum(present, axis=1), 1.0)
            return _ops(keras).sum(vectors * present[:, :, None], axis=1) / count[:, None]

        def get_config(self) -> dict[str, Any]:
            shape = {"start": self.start, "slots": self.slots, "words": self.words, "width": self.width}
            return {**super().get_config(), **shape}

    class MemberScale(keras.layers.Layer):  # type: ignore[misc, name-defined]
        """Each member sees the input times its own vector of random signs, learned on from there."""

        def __init__(self, members: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.members = members

        def build(self, shape: Any) -> None:
            self.scale = self.add_weight(
                name="scale",
                shape=(self.members, shape[-1]),
                initializer=lambda shape, dtype=None: keras.ops.sign(keras.random.normal(shape, dtype=dtype)),
            )
            super().build(shape)

        def call(self, x: Any) -> Any:
            return x[:, None, :] * self.scale

    class MemberHead(keras.layers.Layer):  # type: ignore[misc, name-defined]
        """The logits of each member, from weights of its own: [row, member], or [row, member, output] of several outputs."""

        def __init__(self, members: int, outputs: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.members, self.outputs = members, outputs

        def build(self, shape: Any) -> None:
            each = () if self.outputs == 1 else (self.outputs,)
            self.kernel = self.add_weight(name="kernel", shape=(self.members, shape[-1], *each), initializer="glorot_uniform")
            self.bias = self.add_weight(name="bias", shape=(self.members, *each), initializer="zeros")
            super().build(shape)

        def call(self, x: Any) -> Any:
            if self.outputs == 1:
                return keras.ops.sum(x * self.kernel, axis=-1) + self.bias
            return keras.ops.einsum("bmi,mio->bmo", x, self.kernel) + self.bias

    return {layer.__name__: layer for layer in (PiecewiseLinear, CategoryVectors, TextVector, MemberScale, MemberHead)}


def _ops(keras: ModuleType) -> Any:
    """The array operations of the given Keras: tf_keras has no `ops`, its backend has the same by nearly the same names."""
    return keras.ops if hasattr(keras, "ops") else keras.backend


def _take(keras: ModuleType, table: Any, codes: Any) -> Any:
    return keras.ops.take(table, codes, axis=0) if hasattr(keras, "ops") else keras.backend.gather(table, codes)


def _reshape(keras: ModuleType, x: Any, width: int) -> Any:
    """[row, width], by a constant shape: the Reshape layer computes it at run time, four more operations on a device."""
    return _ops(keras).reshape(x, (-1, width))


def _concatenate(keras: ModuleType, parts: list[Any]) -> Any:
    return _ops(keras).concatenate(parts, axis=-1)

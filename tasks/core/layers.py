"""The layers that Keras lacks, for Keras 3 and tf_keras alike."""

from functools import cache
from types import ModuleType
from typing import Any


@cache
def custom_layers(keras: ModuleType) -> dict[str, Any]:
    """The layers that Keras lacks, as classes of the given Keras; by name, as its deserialisation wants them."""

    class PiecewiseLinear(keras.layers.Layer):  # type: ignore[misc, name-defined]
        """Each of the first `numbers` columns becomes `bins` ramps over [-1, 1]; the columns after them pass."""

        def __init__(self, numbers: int, bins: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.numbers, self.bins = numbers, bins

        def call(self, x: Any) -> Any:
            if not self.numbers:  # of which a reshape would make rows of no columns, and XLA cannot tell how many
                return x
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

    class TextSequence(keras.layers.Layer):  # type: ignore[misc, name-defined]
        """[row, slot, width]: the vectors of a text's words, which stand in `slots` columns of the codes; code 0 is no word.

        In training a share of the words is left out (Iyyer et al. 2015, "Deep unordered composition rivals syntactic methods").
        """

        def __init__(self, start: int, slots: int, words: int, width: int, dropout: float = 0.0, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.start, self.slots, self.words, self.width, self.dropout = start, slots, words, width, dropout
            self.leave_out = keras.layers.Dropout(dropout) if dropout else None

        def build(self, shape: Any) -> None:
            self.table = self.add_weight(
                name="table", shape=(self.words, self.width), initializer=keras.initializers.RandomNormal(stddev=0.1)
            )
            super().build(shape)

        def call(self, codes: Any, training: bool | None = None) -> Any:
            own = codes[:, self.start : self.start + self.slots]
            present = self._present(codes)
            if self.leave_out is not None:
                present = self.leave_out(present, training=training)
            return _take(keras, self.table, own) * present[:, :, None]

        def _present(self, codes: Any) -> Any:
            """[row, slot]: 1 where a word stands, else 0."""
            return _ops(keras).cast(codes[:, self.start : self.start + self.slots] > 0, "float32")

        def get_config(self) -> dict[str, Any]:
            shape = {"start": self.start, "slots": self.slots, "words": self.words, "width": self.width, "dropout": self.dropout}
            return {**super().get_config(), **shape}

    class TextVector(TextSequence):
        """[row, width]: the sum of the vectors of a text's words by the root of their number.

        So longer texts say it louder, not as loud as their sum would; on short ones it is better than the mean.
        """

        def call(self, codes: Any, training: bool | None = None) -> Any:
            count = _ops(keras).maximum(_ops(keras).sum(self._present(codes), axis=1), 1.0)
            return _ops(keras).sum(super().call(codes, training=training), axis=1) / _ops(keras).sqrt(count)[:, None]

    class Neighbours(keras.layers.Layer):  # type: ignore[misc, name-defined]
        """[row, slot, span * width]: beside each vector those of the next ones, zeros behind the last."""

        def __init__(self, span: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.span = span

        def call(self, vectors: Any) -> Any:
            padded = keras.ops.pad(vectors, ((0, 0), (0, self.span - 1), (0, 0)))
            return _concatenate(keras, [padded[:, i : i + vectors.shape[1]] for i in range(self.span)])

    class InputScale(keras.layers.Layer):  # type: ignore[misc, name-defined]
        """Each input times a factor of its own, from 1 on: what tells nothing is learned away (RealMLP's scaling layer)."""

        def build(self, shape: Any) -> None:
            self.scale = self.add_weight(name="scale", shape=(shape[-1],), initializer="ones")
            super().build(shape)

        def call(self, x: Any) -> Any:
            return x * self.scale

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

    own = (PiecewiseLinear, CategoryVectors, TextSequence, TextVector, Neighbours, InputScale, MemberScale, MemberHead)
    return {layer.__name__: layer for layer in own}


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

"""The network: one builder for Keras 3 (tuner, teacher, student) and tf_keras (what tfmot prunes and quantises)."""

import importlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from tasks.core.encoder import Encoder, image_input, seen_input
from tasks.core.errors import ParamsError
from tasks.core.layers import custom_layers
from tasks.core.trunk import TrunkSpec, see


@dataclass(frozen=True)
class NetworkSpec:
    """Everything that the shape of a network depends on.

    numbers: positions in [-1, 1]; flags: further columns of `num`, taken as they are; categories: codes of each category;
    texts: slots and codes of each text; bins: pieces of the piecewise-linear expansion of a number; embedding: width of the
    vector of a category or a word; outputs: one, or one for each class; members: networks in one, averaged; images: height,
    width and channels of each, which are seen through `trunk`; family: one of FAMILIES, or a user's own "package.module:build",
    which is given `values` besides; scaling: whether each input has a factor of its own; crosses: cross layers;
    spans: of each text how many neighbouring words each of hidden[0] filters of a convolution reads, one convolution for each;
    seen: features that a backbone made of each image, which then is no input itself.
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
    images: tuple[tuple[int, int, int], ...] = ()
    trunk: TrunkSpec | None = None
    family: str = "mlp"
    values: tuple[tuple[str, float | int | str], ...] = ()
    scaling: bool = False
    crosses: int = 0
    spans: tuple[tuple[int, ...], ...] = ()
    seen: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "NetworkSpec":
        """The spec that `to_json` described; TypeError or KeyError when the document is not one."""
        shapes = {
            "categories": tuple(document["categories"]),
            "hidden": tuple(document["hidden"]),
            "values": tuple((name, value) for name, value in document.get("values", ())),
            "spans": tuple(tuple(spans) for spans in document.get("spans", ())),
            "seen": tuple(document.get("seen", ())),
            "images": tuple((height, width, channels) for height, width, channels in document.get("images", ())),
            "trunk": TrunkSpec.from_json(document["trunk"]) if document.get("trunk") else None,
        }
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
    trunk: TrunkSpec | None = None,
    scaling: bool = False,
    seen: bool = False,
) -> NetworkSpec:
    """The shape that fits what the encoder makes and what its target needs; `seen` by a backbone, where there is one."""
    sizes = encoder.sizes
    inputs = (sizes.numbers, sizes.flags, sizes.categories, sizes.texts)
    shape = NetworkSpec(*inputs, bins, embedding, hidden, encoder.target.outputs, members, dropout, embedding_dropout)
    if seen and sizes.seen:
        return replace(shape, scaling=scaling, seen=sizes.seen)
    return replace(shape, scaling=scaling, images=sizes.images, trunk=trunk if sizes.images else None)


# The families of networks and the hyperparameters that each understands, besides those of TRAINING:
# linear: a sum of what each input says alone, piecewise linear in a number (a generalised additive model, Hastie and Tibshirani
#   1986); mlp: one network with a scaling layer (RealMLP, Holzmüller et al. 2024, arXiv 2407.04491); tabm: network.members
#   networks in one (TabM-mini, Gorishniy et al. 2024, arXiv 2410.24210); cross: products of inputs beside an mlp, for categories
#   that mean something together (DCN-v2, Wang et al. 2021, arXiv 2008.13535); cnn: convolutions over the words of texts, in order,
#   beside their mean (Kim 2014, arXiv 1408.5882).
_SHAPE = ("dropout", "embedding_dropout", "width", "layers")
FAMILIES: dict[str, tuple[str, ...]] = {"linear": (), "mlp": _SHAPE, "tabm": _SHAPE, "cross": _SHAPE, "cnn": _SHAPE}
SPANS = (2, 3, 4)  # of the family cnn, each one shorter than in Kim 2014: the texts here are short
TRAINING = ("learning_rate", "weight_decay")


CROSS_SHARE = 4  # a cross layer's matrix has the rank of its width by this


@dataclass(frozen=True)
class Configuration:
    """What the search chooses: a family of networks, and a value for each of its hyperparameters and of its training's."""

    family: str
    values: dict[str, float | int | str]

    @property
    def key(self) -> str:
        """Equal for equal configurations, whatever the order of their values."""
        return json.dumps(self.to_json(), sort_keys=True)

    def number(self, name: str) -> float:
        """The value of a hyperparameter that is a number; ParamsError when it is none."""
        value = self.values.get(name)
        if not isinstance(value, int | float):
            raise ParamsError(f"tune.families.{self.family}.{name}: found {value!r}, expected a number")
        return value

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "Configuration":
        """The configuration that `to_json` described, further keys left out; KeyError when the document is not one."""
        return cls(document["family"], dict(document["values"]))


def check_family(family: str, given: Iterable[str]) -> None:
    """The family is known, and so are its hyperparameters, all of which are given; ParamsError with the first fault."""
    if ":" in family:
        known = {*TRAINING, *given}  # a user's own builder takes what it likes
    elif family in FAMILIES:
        known = {*TRAINING, *FAMILIES[family]}
    else:
        raise ParamsError(
            f"tune.families: unknown family {family!r}; known: {sorted(FAMILIES)}, or your own as package.module:build"
        )
    if strange := sorted(set(given) - known):
        raise ParamsError(f"tune.families.{family}: unknown hyperparameters {strange}; it understands {sorted(known)}")
    if missing := sorted(known - set(given)):
        raise ParamsError(f"tune.families.{family}: {missing} missing; give each low, high and default, or choices and default")


def build(keras: ModuleType, spec: NetworkSpec) -> Any:
    """An untrained network: {num [row, numbers + flags], cat [row, categories + slots]} in, and image0, ... where there are images.

    Out come logits [row, members]; with several outputs [row, outputs] of one member, [row, members, outputs] of more.
    Numbers are expanded piecewise linearly (Gorishniy et al. 2022, arXiv 2203.05556); with `members` > 1 each member sees
    the inputs through its own scaling and has its own head, the layers between are shared (TabM-mini, Gorishniy et al.
    2024, arXiv 2410.24210). ParamsError when a user's own builder is not there or makes no such network.
    """
    if ":" in spec.family:
        return _build_own(keras, spec)
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
        shape = {"start": start, "slots": slots, "words": words, "width": spec.embedding, "dropout": spec.embedding_dropout}
        parts.append(ours["TextVector"](**shape, name=f"text_{i}")(cat))
        spans = spec.spans[i] if spec.spans else ()
        vectors = ours["TextSequence"](**shape, name=f"text_{i}_words")(cat) if spans else None
        for span in spans:  # a convolution, as a product of matrices: XLA's own is a hundred times slower on a CPU
            near = ours["Neighbours"](span, name=f"text_{i}_{span}_near")(vectors)
            read = layers.Dense(spec.hidden[0], activation="relu", name=f"text_{i}_{span}")(near)
            parts.append(layers.GlobalMaxPooling1D(name=f"text_{i}_{span}_most")(read))
        start += slots
    pixels = {image_input(i): layers.Input(shape, dtype="uint8", name=image_input(i)) for i, shape in enumerate(spec.images)}
    seen = {seen_input(i): layers.Input((width,), name=seen_input(i)) for i, width in enumerate(spec.seen)}
    parts += seen.values()
    for name, image in pixels.items():
        assert spec.trunk is not None
        parts.append(see(keras, image, spec.trunk, name))
    x = layers.Concatenate(name="inputs")(parts) if len(parts) > 1 else parts[0]
    if spec.scaling:
        x = ours["InputScale"](name="scaling")(x)
    if spec.members > 1:
        x = ours["MemberScale"](spec.members, name="members")(x)  # [row, member, input]
    start_of_crosses, crossed = x, x
    for i in range(spec.crosses):
        low = layers.Dense(max(1, crossed.shape[-1] // CROSS_SHARE), use_bias=False, name=f"cross_{i}_low")(crossed)
        high = layers.Dense(crossed.shape[-1], name=f"cross_{i}")(low)
        product = layers.Multiply(name=f"cross_{i}_product")([start_of_crosses, high])
        crossed = layers.Add(name=f"cross_{i}_sum")([product, crossed])
    for i, units in enumerate(spec.hidden):
        x = layers.Dense(units, activation="relu", name=f"hidden_{i}")(x)
        if spec.dropout:
            x = layers.Dropout(spec.dropout, name=f"dropout_{i}")(x)
    if spec.crosses:
        x = layers.Concatenate(name="crossed")([crossed, x])
    head = (
        ours["MemberHead"](spec.members, spec.outputs, name="logits")
        if spec.members > 1
        else layers.Dense(spec.outputs, name="logits")
    )
    return keras.Model({"num": num, "cat": cat, **pixels, **seen}, head(x), name="network")


def _build_own(keras: ModuleType, spec: NetworkSpec) -> Any:
    """What a user's own "package.module:build" makes of the same arguments."""
    place, _, name = spec.family.partition(":")
    try:
        model = getattr(importlib.import_module(place), name)(keras, spec)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ParamsError(f"tune.families.{spec.family}: {' '.join(str(error).split())}; expected build(keras, spec)") from error
    if not isinstance(model, keras.Model) or not isinstance(model.input, dict) or {"num", "cat"} - set(model.input):
        raise ParamsError(f"tune.families.{spec.family}: expected a keras.Model that takes the inputs num and cat by name")
    shape, outputs = model.output_shape, spec.outputs
    if not isinstance(shape, tuple) or shape[-1] != outputs or len(shape) not in ((2,) if outputs == 1 else (2, 3)):
        raise ParamsError(f"tune.families.{spec.family} makes {shape}; expected logits [row, {outputs}]")
    return model


def fold_scaling(keras: ModuleType, spec: NetworkSpec, weights: list[Any]) -> tuple[NetworkSpec, list[Any]]:
    """The same network without its scaling layer, whose factors its first dense layer takes over: nothing is left to compute."""
    if not spec.scaling or spec.members > 1 or spec.crosses:
        return spec, weights
    scaled = build(keras, spec)
    scaled.set_weights(weights)
    factors = np.asarray(scaled.get_layer("scaling").get_weights()[0])
    plain = build(keras, folded := replace(spec, scaling=False))
    for layer in plain.layers:
        layer.set_weights(scaled.get_layer(layer.name).get_weights())
    first = plain.get_layer("hidden_0" if spec.hidden else "logits")
    kernel, *rest = first.get_weights()
    first.set_weights([factors[:, None] * kernel, *rest])
    return folded, plain.get_weights()

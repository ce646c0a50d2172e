"""The network: one builder for Keras 3 (tuner, teacher, student) and tf_keras (what tfmot prunes and quantises)."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from types import ModuleType
from typing import Any

from tasks.core.encoder import Encoder, image_input
from tasks.core.errors import ParamsError
from tasks.core.layers import custom_layers
from tasks.core.trunk import TrunkSpec, see


@dataclass(frozen=True)
class NetworkSpec:
    """Everything that the shape of a network depends on.

    numbers: positions in [-1, 1]; flags: further columns of `num`, taken as they are; categories: codes of each category;
    texts: slots and codes of each text; bins: pieces of the piecewise-linear expansion of a number; embedding: width of the
    vector of a category or a word; outputs: one, or one for each class; members: networks in one, averaged; images: height,
    width and channels of each, which are seen through `trunk`.
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

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "NetworkSpec":
        """The spec that `to_json` described; TypeError or KeyError when the document is not one."""
        shapes = {
            "categories": tuple(document["categories"]),
            "hidden": tuple(document["hidden"]),
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
) -> NetworkSpec:
    """The shape that fits what the encoder makes and what its target needs."""
    sizes = encoder.sizes
    inputs = (sizes.numbers, sizes.flags, sizes.categories, sizes.texts)
    shape = NetworkSpec(*inputs, bins, embedding, hidden, encoder.target.outputs, members, dropout, embedding_dropout)
    return replace(shape, images=sizes.images, trunk=trunk) if sizes.images else shape


# The families of networks and the hyperparameters that each understands, besides those of TRAINING.
FAMILIES: dict[str, tuple[str, ...]] = {"mlp": ("dropout", "embedding_dropout", "width", "layers")}
TRAINING = ("learning_rate", "weight_decay")


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
    if family not in FAMILIES:
        raise ParamsError(f"tune.families: unknown family {family!r}; known: {sorted(FAMILIES)}")
    known = {*TRAINING, *FAMILIES[family]}
    if strange := sorted(set(given) - known):
        raise ParamsError(f"tune.families.{family}: unknown hyperparameters {strange}; it understands {sorted(known)}")
    if missing := sorted(known - set(given)):
        raise ParamsError(f"tune.families.{family}: {missing} missing; give each low, high and default, or choices and default")


def build(keras: ModuleType, spec: NetworkSpec) -> Any:
    """An untrained network: {num [row, numbers + flags], cat [row, categories + slots]} in, and image0, ... where there are images.

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
    pixels = {image_input(i): layers.Input(shape, dtype="uint8", name=image_input(i)) for i, shape in enumerate(spec.images)}
    for name, image in pixels.items():
        assert spec.trunk is not None
        parts.append(see(keras, image, spec.trunk, name))
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
    return keras.Model({"num": num, "cat": cat, **pixels}, head(x), name="network")

"""What sees an image: a small residual network from pixels to one vector, and the changes that training makes to the pixels."""

import math
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import tensorflow as tf

from tasks.core.images import PixelScale

MEANS, SPREADS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of red, green and blue in ImageNet, as its networks take them
CAFFE_MEANS = (103.939, 116.779, 123.68)  # of blue, green and red, as the first of them did (Simonyan and Zisserman 2014)
BODY = "_backbone"  # behind the input's name, the layer that is another's network
LARGEST = 64  # pixels of a side after the first convolution: larger images are first made smaller
MOMENTUM = 0.9  # of batch normalisation's averages: Keras's 0.99 would not have settled after the few steps of a small table


@dataclass(frozen=True)
class TrunkSpec:
    """Filters of each stage, the next one at half the side; in training each image is moved by up to `shift` pixels each way
    and, where `flip` says so, mirrored half the time. With a `config`, Keras's JSON of another network, that one sees instead,
    which takes pixels as `pixels` says."""

    channels: tuple[int, ...]
    shift: int
    flip: bool
    config: str = ""
    pixels: PixelScale = "signed"

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "TrunkSpec":
        return cls(**{**document, "channels": tuple(document["channels"])})


def see(keras: ModuleType, pixels: Any, spec: TrunkSpec, name: str) -> Any:
    """[row, channels of the last stage] of uint8 pixels [row, height, width, channel].

    After a first convolution each stage is one convolution, of which the largest of four neighbours stays, and a residual block
    of two at half the side (He et al. 2015, arXiv 1512.03385), with batch normalisation (Ioffe and Szegedy 2015, arXiv
    1502.03167), which TFLite's converter folds into the convolutions; at the end the largest value over all places. That order,
    normalising after pooling, is of D. Page's "How to train your ResNet" (2018), and made for speed.
    """
    layers = keras.layers
    x = augmentation(keras)(spec.shift, spec.flip, name=f"{name}_augment")(pixels)
    x = scale_pixels(keras, x, spec.pixels, f"{name}_scale")
    if spec.config:
        body = keras.models.model_from_json(spec.config)
        body.name = f"{name}{BODY}"
        return pool(keras, body(x), f"{name}_mean")
    stride = 2 ** max(0, math.ceil(math.log2(max(x.shape[1:3]) / LARGEST)))
    for i, filters in enumerate(spec.channels):
        x = _convolve(keras, x, filters, f"{name}_{i}", stride=stride, pool=True)
        if i:
            y = _convolve(keras, x, filters, f"{name}_{i}_first")
            y = _convolve(keras, y, filters, f"{name}_{i}_second")
            x = layers.Add(name=f"{name}_{i}_sum")([x, y])
        stride = 1
    return layers.GlobalMaxPooling2D(name=f"{name}_most")(x)


def scale_pixels(keras: ModuleType, pixels: Any, how: PixelScale, name: str) -> Any:
    """Pixels of 0 to 255 as a network was trained to take them: as they are (raw), from 0 to 1 (unit), from -1 to 1 (signed), less
    the means of ImageNet's colours by their spreads (torch), or less the means, blue first (caffe), of red, green and blue."""
    scale: Any = {"raw": 1.0, "unit": 1 / 255, "signed": 1 / 127.5, "caffe": 1.0}.get(how) or [1 / (255 * s) for s in SPREADS]
    shift: Any = {"raw": 0.0, "unit": 0.0, "signed": -1.0}.get(how)
    if how == "caffe":
        pixels, shift = pixels[..., ::-1], [-mean for mean in CAFFE_MEANS]
    elif how == "torch":
        shift = [-mean / spread for mean, spread in zip(MEANS, SPREADS, strict=True)]
    return keras.layers.Rescaling(scale, shift, name=name)(pixels)


def pool(keras: ModuleType, seen: Any, name: str) -> Any:
    """[row, feature]: the mean over all places, of what has places."""
    return keras.layers.GlobalAveragePooling2D(name=name)(seen) if len(seen.shape) == 4 else seen


def _convolve(keras: ModuleType, x: Any, filters: int, name: str, stride: int = 1, pool: bool = False) -> Any:
    layers = keras.layers
    x = layers.Conv2D(filters, 2 * stride + 1, stride, "same", use_bias=False, kernel_initializer="he_normal", name=name)(x)
    if pool and min(x.shape[1:3]) > 1:
        x = layers.MaxPooling2D(name=f"{name}_pool")(x)
    x = layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_norm")(x)
    return layers.Activation("relu", name=f"{name}_relu")(x)


def adopt(model: Any, donor: Any, frozen: bool) -> None:
    """The model's layers that see images have the donor's weights; frozen ones learn no more, nor do their averages move.

    ValueError when the donor has other ones. Yosinski et al. 2014, arXiv 1411.1792, say which layers carry over.
    """
    own, theirs = ({layer.name: layer for layer in one.layers if layer.name.startswith("image")} for one in (model, donor))
    shapes = [{name: [w.shape for w in layer.weights] for name, layer in one.items() if layer.weights} for one in (own, theirs)]
    if shapes[0] != shapes[1]:
        odd = sorted(name for name in shapes[0].keys() | shapes[1].keys() if shapes[0].get(name) != shapes[1].get(name))
        raise ValueError(f"its layers {odd} are others: {[tuple(one.get(name, ()) for one in shapes) for name in odd[:1]]}")
    for name, layer in own.items():
        if name in shapes[0] and layer.weights:
            layer.set_weights(theirs[name].get_weights())
            layer.trainable = not frozen


@cache
def augmentation(keras: ModuleType) -> Any:
    """The layer that changes images in training, as a class of the given Keras 3."""

    class Augment(keras.layers.Layer):  # type: ignore[misc, name-defined]
        """Each image moved and mirrored by its own draw, the edge's pixels drawn out; untouched outside training."""

        def __init__(self, shift: int, flip: bool, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.shift, self.flip = shift, flip
            self.draws = keras.random.SeedGenerator()

        def call(self, pixels: Any, training: bool = False) -> Any:
            if not training or not (self.shift or self.flip):
                return pixels
            rows = tf.shape(pixels)[0]
            down, right = (keras.random.randint((rows, 1), -self.shift, self.shift + 1, seed=self.draws) for _ in range(2))
            mirrored = keras.random.randint((rows, 1), 0, 2 if self.flip else 1, seed=self.draws)
            height, width = pixels.shape[1:3]
            lines = tf.clip_by_value(tf.range(height)[None, :] + down, 0, height - 1)  # [row, height]
            across = tf.range(width)[None, :]
            columns = tf.clip_by_value(tf.where(mirrored == 1, width - 1 - across, across) + right, 0, width - 1)
            return tf.gather(tf.gather(pixels, lines, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)

    return Augment

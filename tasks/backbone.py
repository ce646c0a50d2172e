"""Networks that saw other images, of ours or of anyone's: fetched, held to their hash, and what they make of an image."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tasks import stage
from tasks.core.encoder import seen_input
from tasks.core.errors import DataError
from tasks.core.models import NetworkSpec, build
from tasks.core.trunk import BODY, adopt, pool, scale_pixels
from tasks.networks import load_network
from tasks.params import Backbone
from tasks.progress import Meter

FETCHED = Path(".cache/backbones")
ROWS = 256  # images that a backbone sees at a time
ENDPOINT = "serving_default"


def fetch(backbone: Backbone, where: str) -> Path:
    """The file or folder, got once where it is behind a URL; DataError unless it is the one that params.yaml says."""
    path, said = Path(backbone.path), f"{where} {_shown(backbone)!r}"
    if "://" in backbone.path:
        path = FETCHED / backbone.sha256 / Path(_shown(backbone)).name  # Keras knows kinds of files by how their names end
        if not path.exists() or stage.content_hash(path) != backbone.sha256:
            _download(backbone, path, where)
        return path
    if not path.exists():
        raise DataError(f"{said} is not there; expected a network's folder or file, or a URL")
    if (found := stage.content_hash(path)) != backbone.sha256:
        raise DataError(f"{said} has sha256 {found}, params.yaml says {backbone.sha256}; if it is right, write that")
    return path


def _shown(backbone: Backbone) -> str:
    return backbone.path.partition("?")[0]  # behind it may stand a key


def _download(backbone: Backbone, path: Path, where: str) -> None:
    shown = _shown(backbone)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{os.getpid()}.partial")  # workers on other machines may fetch it at the same time
    try:
        with fsspec.open(backbone.path, "rb") as source, aside.open("wb") as file:
            while chunk := source.read(1 << 20):
                file.write(chunk)
        if (found := stage.content_hash(aside)) != backbone.sha256:
            raise DataError(
                f"{where}: {shown} has sha256 {found}, params.yaml says {backbone.sha256}; correct what is wrong of them"
            )
        aside.replace(path)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{where}: nothing is at {shown}") from error
    except (OSError, TimeoutError) as error:
        raise DataError(f"{where}: no answer from {shown} ({type(error).__name__}); start the run again") from error
    except Exception as error:  # each of fsspec's systems has its own, whose words may hold a password
        raise DataError(f"{where}: {shown} cannot be read ({type(error).__name__})") from error
    finally:
        aside.unlink(missing_ok=True)


def build_teacher(spec: NetworkSpec, backbone: Backbone | None) -> Any:
    """An untrained network, but for what sees images where there is a backbone; DataError when it does not fit."""
    model = build(keras, spec)
    if backbone is None:
        return model
    where = "network.backbone"
    if backbone.pixels:
        images = [layer for layer in model.layers if layer.name.endswith(BODY)]
        body = load_body(backbone, spec.images[0], where)
        for layer in images:
            layer.set_weights(body.get_weights())
        return model
    path = fetch(backbone, where)
    if not path.is_dir():
        raise DataError(f"{where} {_shown(backbone)!r} is no folder of a network of ours; one from anywhere needs pixels")
    _, donor = load_network(keras, path)
    try:
        adopt(model, donor, backbone.frozen)
    except ValueError as error:
        raise DataError(f"{where} {_shown(backbone)!r} does not fit network.images and preprocess.images: {error}") from error
    return model


def load_body(backbone: Backbone, shape: tuple[int, int, int], where: str) -> Any:
    """A Keras network from pixels, as it was trained on, to features; DataError when it is none for images of this shape."""
    path = fetch(backbone, where)
    if path.is_dir():
        raise DataError(
            f"{where} {_shown(backbone)!r}: a SavedModel cannot learn on; put it under preprocess.backbone with frozen: true"
        )
    said = f"{where} {_shown(backbone)!r}"
    if backbone.architecture:
        make = getattr(keras.applications, backbone.architecture, None)
        if make is None or not backbone.architecture[:1].isupper():
            known = [name for name in dir(keras.applications) if name[:1].isupper()]
            raise DataError(f"{where}: keras.applications has no {backbone.architecture!r}; it has {known}")
        body = _loading(said, lambda: make(include_top=False, weights=str(path), input_shape=shape))
    elif not zipfile.is_zipfile(path):
        raise DataError(
            f"{said} is no .keras file; the weights of a network of keras.applications need architecture: VGG16 or the like"
        )
    else:
        body = _loading(said, lambda: keras.models.load_model(path, compile=False))
    takes = tuple(getattr(body, "input_shape", None) or ())
    if len(takes) != 4 or any(wanted not in (None, size) for wanted, size in zip(takes[1:], shape, strict=True)):
        raise DataError(f"{said} takes {takes}, preprocess.images makes {(None, *shape)}; change the latter")
    if not isinstance(body.output_shape, tuple) or len(body.output_shape) not in (2, 4):
        raise DataError(f"{said} makes {body.output_shape}; expected one output [row, feature] or [row, height, width, feature]")
    return body


def load_backbone(
    backbone: Backbone, shape: tuple[int, int, int], where: str
) -> tuple[Callable[[NDArray[Any]], NDArray[Any]], int]:
    """What makes float32 features [row, feature] of uint8 pixels [row, height, width, channel], and their number."""
    pixels = keras.Input(shape, dtype="uint8")
    assert backbone.pixels
    scaled = scale_pixels(keras, pixels, backbone.pixels, "scale")
    path = fetch(backbone, where)
    if path.is_dir():
        said = f"{where} {_shown(backbone)!r}"
        layer = _loading(said, lambda: keras.layers.TFSMLayer(str(path), call_endpoint=ENDPOINT))
        answer = _loading(said, lambda: layer(scaled))
        outputs = list(answer.values()) if isinstance(answer, dict) else [answer]
        if len(outputs) != 1 or len(outputs[0].shape) not in (2, 4) or outputs[0].shape[-1] is None:
            raise DataError(f"{said} makes {[tuple(one.shape) for one in outputs]}; expected one output [row, feature]")
        features = outputs[0]
    else:
        features = load_body(backbone, shape, where)(scaled)
    features = pool(keras, features, "mean")
    model = keras.Model(pixels, features)
    see = tf.function(lambda rows: tf.cast(model(rows, training=False), tf.float32))
    return lambda rows: np.asarray(see(tf.constant(rows))), int(features.shape[-1])


def _loading(said: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:  # Keras raises what the file's content makes it stumble on
        raise DataError(f"{said} cannot be read for these images: {' '.join(str(error).split())[:300]}") from error


def write_seen(folder: Path, see: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    """Beside the images of a part what the backbone makes of each; of one part after the other, in memory never more than ROWS."""
    for path in sorted(folder.glob("*/image*.npy")):
        pixels = np.load(path, mmap_mode="r")
        width = see(pixels[:1]).shape[1]
        place = int(path.stem.removeprefix("image"))
        found: Any = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
            path.with_name(f"{seen_input(place)}.npy"), "w+", np.float32, (len(pixels), width)
        )
        with Meter(f"backbone, {path.parent.name}") as meter:
            for start in range(0, len(pixels), ROWS):
                found[start : start + ROWS] = see(pixels[start : start + ROWS])
                meter.at(min(start + ROWS, len(pixels)), len(pixels))
        found.flush()

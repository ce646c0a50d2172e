"""Encoded images to arrays: the one way in which preprocess, golden rows and the service read them; Pillow and NumPy only."""

import binascii
import io
import warnings
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image  # of which a service without images needs neither the time nor the memory

Channels = Literal[1, 3]
PixelScale = Literal["raw", "unit", "signed", "torch", "caffe"]  # which pixels a network was trained on: core.trunk.scale_pixels

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # Pillow's other readers are rarer, and an attacker's choice
MOST_PIXELS = 50_000_000  # a small file may say that it holds more than memory does
_BITS = 8  # of a channel, of the 16 that some files have, to let go
# What a JPEG begins with, and each time that it goes over its pixels: so many times take as long as to work them out once.
_JPEG, _SCAN, _SCANS = b"\xff\xd8", b"\xff\xda", 16


class ImageError(ValueError):
    """Bytes that are no image which can be read; the message says why."""


def decode_image(content: bytes, height: int, width: int, channels: Channels) -> NDArray[np.uint8]:
    """[height, width, channels] of the first frame, upright, grey or red, green and blue; ImageError when it is none."""
    from PIL import Image, ImageOps

    with _told():
        upright = ImageOps.exif_transpose(_open(content, height, width, channels)[0])
        if upright.mode.startswith("I"):  # 16 bits of grey, which convert would clip
            upright = Image.fromarray((np.asarray(upright) >> _BITS).clip(0, 255).astype(np.uint8))
        plain = upright.convert(_mode(channels))
        if plain.size != (width, height):
            plain = plain.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(plain, np.uint8).reshape(height, width, channels)


def count_pixels(content: bytes, height: int, width: int, channels: Channels) -> int:
    """How many pixels `decode_image` would work out, by what the file says of itself: a few bytes may say many.

    Of a JPEG those that are left when it is read in a smaller size, and a part of the others for each time that the file goes over
    them: one may do so thousands of times.
    """
    with _told():
        image, whole = _open(content, height, width, channels)
    scans = content.count(_SCAN) if content.startswith(_JPEG) else 0  # Pillow calls those of some telephones MPO
    return image.width * image.height + whole * scans // _SCANS


def _open(content: bytes, height: int, width: int, channels: Channels) -> "tuple[Image, int]":
    """The image, nothing of it decoded yet, in the smallest size in which it can be read; and how many pixels it has in its own."""
    from PIL import Image

    if not content:
        raise ImageError("no bytes")
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    whole = image.width * image.height
    if whole > MOST_PIXELS:
        raise ImageError(f"{image.width} x {image.height} pixels, more than {MOST_PIXELS:,}")
    image.draft(_mode(channels), (width, height))  # of a JPEG that is much larger, fewer pixels are worked out
    return image, whole


def _mode(channels: Channels) -> str:
    return "L" if channels == 1 else "RGB"


@contextmanager
def _told() -> Iterator[None]:
    """ImageError for whatever Pillow's readers raise when the content makes them stumble: SyntaxError, struct.error, ..."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd tags and palettes, which do not matter here
            yield
    except (ImageError, MemoryError):  # the second tells of this machine, not of the image
        raise
    except Exception as error:
        raise ImageError(f"no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} that can be read") from error


def decode_images(contents: Sequence[bytes], height: int, width: int, channels: Channels) -> NDArray[np.uint8]:
    """[row, height, width, channels]; ImageError with the row's number for the first that is none."""
    whole = np.empty((len(contents), height, width, channels), np.uint8)
    for i, content in enumerate(contents):
        try:
            whole[i] = decode_image(content, height, width, channels)
        except ImageError as error:
            raise ImageError(f"row {i}: {error}") from error
    return whole


def from_text(value: Any) -> bytes:
    """The bytes of base64, as a client sends an image; ImageError when it is none."""
    try:
        return b64decode(value.partition(",")[2] if value.startswith("data:") else value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"not base64: {error}") from error

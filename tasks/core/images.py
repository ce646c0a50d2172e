"""Encoded images to arrays: the one way in which preprocess, golden rows and the service read them; Pillow and NumPy only."""

import binascii
import io
import warnings
from base64 import b64decode
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Channels = Literal[1, 3]
PixelScale = Literal["raw", "unit", "signed", "torch", "caffe"]  # which pixels a network was trained on: core.trunk.scale_pixels

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # Pillow's other readers are rarer, and an attacker's choice
MOST_PIXELS = 50_000_000  # a small file may say that it holds more than memory does
_BITS = 8  # of a channel, of the 16 that some files have, to let go


class ImageError(ValueError):
    """Bytes that are no image which can be read; the message says why."""


def decode_image(content: bytes, height: int, width: int, channels: Channels) -> NDArray[np.uint8]:
    """[height, width, channels] of the first frame, upright, grey or red, green and blue; ImageError when it is none."""
    from PIL import Image, ImageOps  # of which a service without images needs neither the time nor the memory

    if not content:
        raise ImageError("no bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd tags and palettes, which do not matter here
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            if image.width * image.height > MOST_PIXELS:
                raise ImageError(f"{image.width} x {image.height} pixels, more than {MOST_PIXELS:,}")
            mode = "L" if channels == 1 else "RGB"
            image.draft(mode, (width, height))  # of a JPEG that is much larger, fewer pixels are worked out
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits of grey, which convert would clip
                upright = Image.fromarray((np.asarray(upright) >> _BITS).clip(0, 255).astype(np.uint8))
            plain = upright.convert(mode)
            if plain.size != (width, height):
                plain = plain.resize((width, height), Image.Resampling.BILINEAR)
    except (ImageError, MemoryError):  # the second tells of this machine, not of the image
        raise
    except Exception as error:  # Pillow's readers raise what the content makes them stumble on: SyntaxError, struct.error, ...
        raise ImageError(f"no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} that can be read") from error
    return np.asarray(plain, np.uint8).reshape(height, width, channels)


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

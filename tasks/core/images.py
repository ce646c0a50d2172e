"""Encoded images to arrays: the one way in which preprocess, golden rows and the service read them; Pillow and NumPy only."""

import binascii
import io
import re
import warnings
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
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
_JPEG, _PNG, _EXIF, _XMP = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"Exif\0\0", b"http://ns.adobe.com/xap/"
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")  # of a JPEG's next segment that has a length, or of its end
_SOS, _EOI, _APP1, _APP14, _APP15, _COMMENT = 0xDA, 0xD9, 0xE1, 0xEE, 0xEF, 0xFE
_SCANS = 16  # goings of a JPEG over its pixels that take as long as to work them out once
_ORIENTATION = 0x0112  # EXIF's tag
_TURNS = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")  # from its 2 on


class ImageError(ValueError):
    """Bytes that are no image which can be read; the message says why."""


def decode_image(content: bytes, height: int, width: int, channels: Channels) -> NDArray[np.uint8]:
    """[height, width, channels] of the first frame, upright, grey or red, green and blue; ImageError when it is none."""
    from PIL import Image

    with _told():
        image, _, orientation = _open(content, height, width, channels)
        image.load()
        place = (orientation or _orientation(image.info)) - 2
        upright = image.transpose(Image.Transpose[_TURNS[place]]) if 0 <= place < len(_TURNS) else image
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
        image, work, _ = _open(content, height, width, channels)
    return image.width * image.height + work


def _open(content: bytes, height: int, width: int, channels: Channels) -> "tuple[Image, int, int]":
    """The image, nothing of it decoded yet, in the smallest size in which it can be read; pixels that a JPEG's scans cost beside
    those; and its orientation, of a JPEG that says it in EXIF, else 0."""
    from PIL import Image

    if not content:
        raise ImageError("no bytes")
    scans, exif = 0, b""
    if content.startswith(_JPEG):
        content, scans, exif = _strip_jpeg(content)
    elif content.startswith(_PNG):
        content = _strip_png(content)
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    whole = image.width * image.height
    if whole > MOST_PIXELS:
        raise ImageError(f"{image.width} x {image.height} pixels, more than {MOST_PIXELS:,}")
    image.draft(_mode(channels), (width, height))  # of a JPEG that is much larger, fewer pixels are worked out
    return image, whole * scans // _SCANS, _exif_orientation(exif)


def _strip_jpeg(content: bytes) -> tuple[bytes, int, bytes]:
    """A JPEG up to its end, without what stands in it for others than decoders; how many scans it has; and its EXIF.

    Pillow copies the bytes of an entry for each of the thousands of entries that may name the same ones.
    """
    kept, scans, exif, at = [content[:2]], 0, b"", 2
    while found := _MARKER.search(content, at):
        kept.append(content[at : found.start()])
        marker, at = found[1][0], found.end()
        if marker == _EOI:
            kept.append(found[0])
            break
        end = at + int.from_bytes(content[at : at + 2])
        segment, at = content[at:end], end
        scans += marker == _SOS
        if marker == _APP1 and segment[2:].startswith(_EXIF):
            exif += segment[2 + len(_EXIF if exif else b"") :]
        elif not (_APP1 <= marker < _APP14 or marker in (_APP15, _COMMENT)) or segment[2:].startswith(_XMP):
            kept += [found[0], segment]
    else:
        kept.append(content[at:])
    return b"".join(kept), scans, exif


def _strip_png(content: bytes) -> bytes:
    """A PNG without packed texts and colour profiles, each of which may be a thousand times as large as it is here."""
    kept, at = [_PNG], len(_PNG)
    while at < len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4])
        kind, text = content[at + 4 : at + 8], content[at + 8 : end - 4]
        packed = kind in (b"zTXt", b"iCCP") or (kind == b"iTXt" and not text.partition(b"\0")[2].startswith(b"\0"))
        kept += [] if packed else [content[at:end]]
        at = end
    return b"".join(kept)


def _orientation(info: Mapping[Any, Any]) -> int:
    """Which way up the image is, by what stands beside its pixels: EXIF's number, 0 for none."""
    exif = info.get("exif") or b""
    if not exif and (packed := info.get("Raw profile type exif")):
        exif = bytes.fromhex("".join(packed.split("\n")[3:]))
    if found := _exif_orientation(exif):
        return found
    told = info.get("XML:com.adobe.xmp") or info.get("xmp") or ""
    text = told.decode(errors="replace") if isinstance(told, bytes) else told
    named = re.search(r'tiff:Orientation(="|>)([0-9])', text)
    return int(named[2]) if named else 0


def _exif_orientation(exif: bytes) -> int:
    """The number in EXIF's first directory (TIFF 6.0, section 2), of which nothing else is read; 0 for none."""
    while exif.startswith(_EXIF):
        exif = exif[len(_EXIF) :]
    order: Literal["little", "big"] = "little" if exif.startswith(b"II") else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(exif[at : at + size], order)

    first = number(4, 4) + 2
    entries = range(first, min(first + 12 * number(first - 2, 2), len(exif)), 12)
    found = [entry for entry in entries if number(entry, 2) == _ORIENTATION]
    return number(found[-1] + 8, {1: 1, 4: 4}.get(number(found[-1] + 2, 2), 2)) if found else 0


def _mode(channels: Channels) -> str:
    return "L" if channels == 1 else "RGB"


@contextmanager
def _told() -> Iterator[None]:
    """ImageError for what cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd tags and palettes, which do not matter here
            yield
    except (ImageError, MemoryError):  # the second tells of this machine, not of the image
        raise
    except Exception as error:  # Pillow's readers raise what the content makes them stumble on: SyntaxError, struct.error, ...
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

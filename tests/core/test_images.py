"""Images: what comes out of a file, which bytes are refused, and the network that sees them."""

import base64
import io
import json
import struct
import tracemalloc
import zlib
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tasks.core.encoder import Encoder, ImageColumn
from tasks.core.encoder_graph import GraphEncoder
from tasks.core.images import ImageError, count_pixels, decode_image, decode_images, from_text
from tasks.core.models import NetworkSpec, build
from tasks.core.rows import Rows
from tasks.core.target import Target
from tasks.core.training import Schedule, Training, predict
from tasks.core.trunk import TrunkSpec, augmentation

RANDOM = np.random.default_rng(0)
PHOTO = RANDOM.integers(0, 256, (20, 30, 3), np.uint8)
SPEC = NetworkSpec(
    numbers=0, flags=0, categories=(), texts=(), bins=2, embedding=2, hidden=(8,), images=((8, 8, 1),),
    trunk=TrunkSpec((4, 8), 1, True),
)  # fmt: skip


def file(pixels: NDArray[Any], kind: str = "PNG", **how: Any) -> bytes:
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, kind, **how)
    return written.getvalue()


def text(pixels: NDArray[Any]) -> str:
    return base64.b64encode(file(pixels)).decode()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "WEBP"])
def test_pixels_of_a_lossless_file_come_out_as_they_are(kind: str) -> None:
    grey = PHOTO[:, :, 0]
    how = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(decode_image(file(grey, kind, **how), 20, 30, 1)[:, :, 0], grey)


def test_image_of_another_size_is_resized_and_one_of_another_mode_converted() -> None:
    flat = np.full((40, 60, 4), (200, 100, 50, 255), np.uint8)
    assert (decode_image(file(flat), 10, 15, 3) == (200, 100, 50)).all()
    assert decode_image(file(flat, "PNG"), 10, 15, 1).shape == (10, 15, 1)
    np.testing.assert_allclose(decode_image(file(flat[..., :3], "JPEG"), 4, 4, 3), np.full((4, 4, 3), (200, 100, 50)), atol=3)


def test_sixteen_bits_of_grey_keep_their_upper_eight() -> None:
    deep = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    np.testing.assert_array_equal(decode_image(file(deep), 16, 16, 1)[:, :, 0], deep >> 8)


def test_photo_that_its_camera_marked_as_turned_stands_upright() -> None:
    marks = Image.Exif()
    marks[0x0112] = 6  # orientation: turned by a quarter
    turned = decode_image(file(PHOTO, "PNG", exif=marks), 30, 20, 3)
    np.testing.assert_array_equal(turned, np.rot90(PHOTO, -1))


WHOLE = file(PHOTO)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no image",
        b"%PDF-1.4",
        b"P6 4 4 255 " + b"x" * 48,
        WHOLE[:8],
        WHOLE[: len(WHOLE) // 2],
        WHOLE[:40] + b"\0" * 40 + WHOLE[80:],
    ],
)
def test_bytes_that_are_no_image_are_refused(content: bytes) -> None:
    with pytest.raises(ImageError):
        decode_image(content, 8, 8, 3)


def test_small_file_of_very_many_pixels_is_refused_unread() -> None:
    bomb = io.BytesIO()
    Image.new("1", (9000, 9000)).save(bomb, "PNG")
    assert len(bomb.getvalue()) < 50_000
    with pytest.raises(ImageError, match="9000 x 9000 pixels, more than 50,000,000"):
        decode_image(bomb.getvalue(), 8, 8, 1)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_entries_that_all_name_the_same_bytes_are_not_read(kind: str) -> None:
    """Pillow would copy these for each: some hundred megabytes of 60 kB."""
    number, whole = 5000, file(PHOTO, kind)
    entries = b"".join(struct.pack(">HHLL", 60_000, 7, 12 * number, 8) for _ in range(number - 1))
    exif = struct.pack(">2sHLH", b"MM", 42, 8, number) + entries + struct.pack(">HHLHHL", 0x0112, 3, 1, 3, 0, 0)
    if kind == "PNG":
        bomb = whole[:33] + chunk(b"eXIf", exif) + whole[33:]
    else:
        bomb = whole[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif + whole[2:]
    tracemalloc.start()
    turned = decode_image(bomb, 8, 12, 3)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(turned, decode_image(whole, 8, 12, 3)[::-1, ::-1])
    assert most < 2_000_000


def test_packed_texts_of_a_png_are_not_unpacked() -> None:
    whole = file(PHOTO)
    packed = b"k\0\0" + zlib.compress(bytes((1 << 20) - 1), 9)
    texts = chunk(b"zTXt", packed) * 60 + chunk(b"iTXt", b"k\0\1\0\0\0" + packed[3:]) * 60 + chunk(b"iCCP", packed)
    tracemalloc.start()
    np.testing.assert_array_equal(decode_image(whole[:33] + texts + whole[33:], 8, 12, 3), decode_image(whole, 8, 12, 3))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2_000_000


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("number", range(10))
def test_image_is_turned_as_its_exif_says(kind: str, number: int) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = number, "Maker"
    with Image.open(io.BytesIO(file(PHOTO, kind, exif=exif))) as image:
        wanted = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(decode_image(file(PHOTO, kind, exif=exif), *wanted.shape[:2], 3), wanted)


def test_what_follows_a_photograph_does_not_count() -> None:
    """As a video does that a telephone keeps behind it."""
    whole = file(np.zeros((400, 600, 3), np.uint8), "JPEG")
    video = np.random.default_rng(1).integers(0, 256, 1 << 20, np.uint8).tobytes()
    assert video.count(b"\xff\xda") > 8
    assert count_pixels(whole + video, 8, 8, 3) == count_pixels(whole, 8, 8, 3)


def test_fault_names_its_row_and_base64_is_checked() -> None:
    with pytest.raises(ImageError, match=r"row 1: no PNG, JPEG, WEBP, GIF or BMP that can be read"):
        decode_images([WHOLE, b"no image"], 8, 8, 1)
    with pytest.raises(ImageError, match="not base64"):
        from_text("?")
    assert from_text(f"data:image/png;base64,{base64.b64encode(WHOLE).decode()}") == WHOLE


def test_both_executors_of_the_encoder_give_the_same_pixels_and_json_keeps_the_column() -> None:
    encoder = Encoder((), (), (), (), Target("binary", "y", (0, 1)), (ImageColumn("photo", 8, 12, 3),))
    again = Encoder.from_json(json.loads(json.dumps(encoder.to_json())))
    assert again == encoder
    assert again.required == again.names == ["photo"]
    some = [{"photo": text(PHOTO)}, {"photo": text(PHOTO[::-1])}]
    ours = again.encode(again.columns(some))
    assert ours["image0"].shape == (2, 8, 12, 3)
    graph = GraphEncoder(encoder)
    theirs = graph(graph.feed(some))
    np.testing.assert_array_equal(theirs["image0"], ours["image0"])
    assert {name: theirs[name].shape for name in ("num", "cat")} == {"num": (2, 0), "cat": (2, 0)}


def bars(count: int, seed: int) -> Rows:
    """Images with a bright bar, of which the target says whether it stands."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 60, (count, 8, 8, 1), np.uint8)
    stands = random.integers(0, 2, count)
    for one, place, up in zip(pixels, random.integers(1, 7, count), stands, strict=True):
        one[(slice(None), place) if up else (place, slice(None))] = 255
    nothing = {"num": np.zeros((count, 0), np.float32), "cat": np.zeros((count, 0), np.int32)}
    return Rows({**nothing, "image0": pixels}, stands.astype(np.float32))


def test_network_learns_what_an_image_shows_and_survives_json() -> None:
    train, validation = bars(640, 1), bars(100, 2)
    spec = NetworkSpec.from_json(json.loads(json.dumps(SPEC.to_json())))
    assert spec == SPEC
    keras.utils.set_random_seed(3)
    model = build(keras, spec)
    run = Training(model, "binary", Schedule(4, 32, 0.01, 0.001, 1, 4), len(train))
    assert [epoch.number for epoch in run.epochs(train, validation, lambda done, total: None)] == [1, 2, 3, 4]
    found = predict(model, "binary", validation)
    assert ((found > 0.5) == validation.target).mean() > 0.95
    np.testing.assert_allclose(predict(model, "binary", validation.head(3)), found[:3], atol=1e-5)


def test_training_of_images_goes_on_from_its_state() -> None:
    train, validation = bars(128, 1), bars(64, 2)

    def start() -> Training:
        keras.utils.set_random_seed(3)
        return Training(build(keras, SPEC), "binary", Schedule(3, 32, 0.01, 0.001, 1, 3), len(train))

    whole, cut = start(), start()
    wanted = [epoch.train_loss for epoch in whole.epochs(train, validation, lambda done, total: None)]
    next(cut.epochs(train, validation, lambda done, total: None))
    resumed = start()
    resumed.state = cut.state
    found = [epoch.train_loss for epoch in resumed.epochs(train, validation, lambda done, total: None)]
    np.testing.assert_allclose(found, wanted[1:], rtol=1e-3)


def test_augmentation_moves_and_mirrors_in_training_alone() -> None:
    keras.utils.set_random_seed(0)
    image = np.arange(36, dtype=np.uint8).reshape(1, 6, 6, 1)
    layer = augmentation(keras)(1, True)
    np.testing.assert_array_equal(layer(image), image)
    many = np.asarray(layer(np.repeat(image, 200, axis=0), training=True))
    assert len({one.tobytes() for one in many}) == 18  # 3 x 3 places, each mirrored or not
    assert image[0].tobytes() in {one.tobytes() for one in many}


@pytest.mark.parametrize("side", [4, 28, 96, 224])
def test_networks_of_small_and_large_images_have_one_vector_for_each(side: int) -> None:
    spec = NetworkSpec.from_json({**SPEC.to_json(), "images": [[side, side, 3]]})
    model = build(keras, spec)
    rows = {"num": np.zeros((2, 0)), "cat": np.zeros((2, 0), np.int32), "image0": np.zeros((2, side, side, 3), np.uint8)}
    assert model(rows).shape == (2, 1)

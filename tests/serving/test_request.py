"""The body of a predict request: what is taken, and how each fault is told."""

import base64
import io
import json
import math
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.request import MOST_FAULTS, RequestError, check_rows, parse_rows
from tasks.core.encoder import CategoryColumn, DateColumn, Encoder, ImageColumn, NumberColumn, TextColumn
from tasks.core.target import Target

ENCODER = Encoder(
    numbers=(NumberColumn("distance", True, False, (0.0, 1.0)), NumberColumn("temp", False, True, (0.0, 1.0))),
    dates=(DateColumn("due", False, True, (0.0, 1.0), ()),),
    categories=(CategoryColumn("carrier", True, ("AA", "UA")), CategoryColumn("tailnum", False, ())),
    texts=(TextColumn("remark", False, 4, ()),),
    target=Target("binary", "late", (0, 1)),
)
GOOD = {"distance": 1400, "temp": 39.5, "carrier": "UA", "tailnum": "N14228"}


def parse(*rows: Any) -> list[dict[str, Any]]:
    return parse_rows(json.dumps({"instances": rows}).encode(), ENCODER)[0]


def refusal(body: bytes) -> RequestError:
    with pytest.raises(RequestError) as refused:
        parse_rows(body, ENCODER)
    return refused.value


def faults(*rows: Any) -> list[tuple[str, str]]:
    found = refusal(json.dumps({"instances": rows}).encode())
    assert found.status == 422
    field, sentence = found.faults[0]
    assert found.detail.startswith(f"{field}: {sentence}")
    return found.faults


def test_good_rows_come_back_as_they_are() -> None:
    second = {**GOOD, "distance": -0.5, "carrier": "a carrier never seen"}
    assert parse(GOOD, second) == [GOOD, second]


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_number_that_binary_tensors_can_hold_and_json_cannot_is_a_fault(number: float) -> None:
    check_rows([GOOD], ENCODER, "row")
    with pytest.raises(RequestError) as refused:
        check_rows([GOOD, {**GOOD, "temp": number}], ENCODER, "row")
    assert refused.value.faults == [("row[1].temp", "expected a number, found a number")]


def test_optional_values_may_be_null_or_absent() -> None:
    bare = {"distance": 1, "carrier": "UA", "due": "2013-07-04", "remark": ""}
    assert parse(bare, {**bare, "temp": None, "tailnum": None}) == [bare, {**bare, "temp": None, "tailnum": None}]


def test_signature_name_of_tensorflow_serving_is_taken() -> None:
    assert parse_rows(json.dumps({"signature_name": "serving_default", "instances": [GOOD]}).encode(), ENCODER) == ([GOOD], False)


def test_columns_of_tensorflow_serving_are_taken_for_rows() -> None:
    columns = {name: [value, None if name in ("temp", "tailnum") else value] for name, value in GOOD.items()}
    rows, in_columns = parse_rows(json.dumps({"inputs": columns}).encode(), ENCODER)
    assert (rows, in_columns) == ([GOOD, {**GOOD, "temp": None, "tailnum": None}], True)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([GOOD], "expected an object of lists"),
        ({}, "expected an object of lists"),
        ({"distance": 1}, "expected an object of lists"),
        ({"distance": [1, 2], "carrier": ["UA"]}, "different numbers of rows: [1, 2]"),
        ({"distance": []}, "at least one row"),
    ],
)
def test_columns_that_make_no_rows_are_refused(inputs: Any, words: str) -> None:
    error = refusal(json.dumps({"inputs": inputs}).encode())
    assert error.status == 400
    assert words in error.detail


def test_rows_and_columns_at_once_are_refused() -> None:
    assert refusal(json.dumps({"inputs": {"distance": [1]}, "instances": [GOOD]}).encode()).status == 400


@pytest.mark.parametrize(
    ("changes", "field", "sentence"),
    [
        ({"distance": "far"}, "distance", "expected a number, found the string 'far'"),
        ({"distance": "12"}, "distance", "expected a number, found the string '12'"),
        ({"temp": True}, "temp", "expected a number, found a boolean"),
        ({"temp": [1]}, "temp", "expected a number, found a list"),
        ({"temp": {"c": 4}}, "temp", "expected a number, found an object"),
        ({"distance": None}, "distance", "required, a number"),
        ({"carrier": None}, "carrier", "required, a string"),
        ({"carrier": 7}, "carrier", "expected a string, found a number"),
        ({"tailnum": False}, "tailnum", "expected a string, found a boolean"),
        ({"remark": 3}, "remark", "expected a string, found a number"),
        ({"due": 3}, "due", "expected a date or time as a string, found a number"),
        (
            {"due": "July 4th"},
            "due",
            "expected a date or time such as 2013-07-04 or 2013-07-04T18:30:00, found the string 'July 4th'",
        ),
        (
            {"due": "2013-02-30"},
            "due",
            "no such date or time: day is out of range for month, found the string '2013-02-30'",
        ),
        ({"distanse": 7}, "distanse", "unknown field; did you mean 'distance'?"),
        ({"x": 7}, "x", "unknown field"),
    ],
)
def test_fault_names_the_field_and_what_was_expected(changes: dict[str, Any], field: str, sentence: str) -> None:
    assert faults({**GOOD, **changes}) == [(f"instances[0].{field}", sentence)]


@pytest.mark.parametrize(("name", "sentence"), [("distance", "required, a number"), ("carrier", "required, a string")])
def test_required_field_must_be_there(name: str, sentence: str) -> None:
    row = {key: value for key, value in GOOD.items() if key != name}
    assert faults(GOOD, row) == [(f"instances[1].{name}", sentence)]


def test_row_that_is_no_object_is_named() -> None:
    for row, kind in ((1, "a number"), ("a", "the string 'a'"), (None, "null"), ([], "a list"), (True, "a boolean")):
        assert faults(GOOD, row) == [("instances[1]", f"expected an object of named values, found {kind}")]


def test_every_fault_is_listed_and_the_first_is_told() -> None:
    found = refusal(json.dumps({"instances": [{}, GOOD, {**GOOD, "temp": "x"}]}).encode())
    assert [field for field, _ in found.faults] == ["instances[0].distance", "instances[0].carrier", "instances[2].temp"]
    assert found.detail == "instances[0].distance: required, a number (and 2 more)"


def test_listing_of_faults_has_an_end() -> None:
    found = refusal(json.dumps({"instances": [{}] * 500}).encode())
    assert len(found.faults) == MOST_FAULTS
    assert found.detail.endswith(f"(and at least {MOST_FAULTS} more)")


def test_long_words_are_cut_in_the_answer() -> None:
    ((field, _),) = faults({**GOOD, "x" * 10_000: 1})
    assert len(field) < 200
    ((_, sentence),) = faults({**GOOD, "temp": "y" * 10_000})
    assert len(sentence) < 200


def test_unknown_fields_are_told_in_the_order_of_the_request() -> None:
    names = [f"{letter}{letter}{letter}" for letter in "zyxwvutsrqpo"]
    assert [field for field, _ in faults({**GOOD, **dict.fromkeys(names, 1)})] == [f"instances[0].{name}" for name in names]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b'{"instances": [',
        b"\xff\xfe",
        b'{"instances": [{"distance": NaN, "carrier": "UA"}]}',
        b'{"instances": [{"distance": Infinity, "carrier": "UA"}]}',
        b'{"instances": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    ],
)
def test_body_that_is_not_json_is_a_bad_request(body: bytes) -> None:
    found = refusal(body)
    assert found.status == 400
    assert found.detail.startswith("the body is not JSON")


def test_number_too_large_for_a_float_is_no_number() -> None:
    found = refusal(b'{"instances": [{"distance": 1e999, "carrier": "UA"}]}')
    assert found.status in (400, 422)


@pytest.mark.parametrize(
    "document", [[], [GOOD], "x", None, 3, {}, {"instances": None}, {"instances": GOOD}, {"rows": [GOOD]}, {"instances": "x"}]
)
def test_document_of_another_shape_is_a_bad_request(document: Any) -> None:
    found = refusal(json.dumps(document).encode())
    assert (found.status, found.faults) == (400, [])
    assert found.detail.startswith('expected {"instances": [{...}, ...]}, one object for each row')


def test_request_without_rows_is_a_bad_request() -> None:
    found = refusal(b'{"instances": []}')
    assert (found.status, found.detail) == (400, "instances is empty; expected at least one row")


def test_key_beside_instances_is_a_bad_request() -> None:
    found = refusal(json.dumps({"instances": [GOOD], "rows": 1, "columns": 2}).encode())
    assert (found.status, found.detail) == (400, "unknown keys ['columns', 'rows'] beside instances or inputs")


PHOTOS = Encoder((), (), (), (), Target("binary", "y", (0, 1)), (ImageColumn("photo", 2, 2, 3),))
PIXEL = "R0lGODlhAQABAPAAAP8AAP///yH5BAAAAAAALAAAAAABAAEAAAICRAEAOw=="  # a GIF of one red pixel


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (None, "required, an image file in base64"),
        (7, "expected an image file in base64, found a number"),
        ("no base64!", "expected an image file in base64, found the string 'no base64!': not base64"),
        ("bm8gaW1hZ2U=", "expected an image file in base64, found the string 'bm8gaW1hZ2U=': no PNG, JPEG, WEBP, GIF or BMP"),
        (PIXEL[:20], f"expected an image file in base64, found the string {PIXEL[:20]!r}"),
    ],
)
def test_image_that_cannot_be_read_is_told_by_its_field(value: Any, sentence: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse_rows(json.dumps({"instances": [{"photo": PIXEL}, {"photo": value}]}).encode(), PHOTOS)
    assert refused.value.status == 422
    (fault,) = refused.value.faults
    assert fault[0] == "instances[1].photo"
    assert fault[1].startswith(sentence)


@pytest.mark.parametrize(
    ("kind", "mode", "how"),
    [
        ("PNG", "1", {}),
        ("PNG", "RGBA", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("GIF", "P", {}),
        ("JPEG", "L", {"progressive": True}),
        ("MPO", "L", {"progressive": True, "save_all": True, "append_images": [Image.new("L", (9, 9))]}),
    ],
)  # fmt: skip
def test_few_bytes_of_images_that_would_take_long_to_decode_are_refused_soon(kind: str, mode: str, how: dict[str, Any]) -> None:
    held = io.BytesIO()
    Image.new(mode, (4500, 4500)).save(held, kind, **how)
    content = held.getvalue()
    if kind in ("JPEG", "MPO"):  # whose pixels are worked out in a smaller size, but a thousand times over
        last = content[content.rfind(b"\xff\xda") : -2]
        content = content[:-2] + 1000 * last + content[-2:]
    rows = [{"photo": base64.b64encode(content).decode()}] * 20
    started = time.perf_counter()
    with pytest.raises(RequestError, match=r"^[\d,]+ pixels to decode in [\d,]+ bytes of images; at most [\d,]+: send") as refused:
        check_rows(rows, PHOTOS, "row")
    assert refused.value.status == 413
    assert time.perf_counter() - started < 2  # to decode them all takes several times that


def test_photographs_of_more_pixels_are_taken() -> None:
    """Those that a JPEG is not asked for do not count, and files that are worth their pixels may have as many."""
    noise, held, small = np.random.default_rng(1).integers(0, 255, (3000, 4000, 3), np.uint8), io.BytesIO(), io.BytesIO()
    Image.fromarray(noise).save(held, "JPEG", quality=20)
    Image.fromarray(noise[:1200, :1600]).save(small, "PNG")
    for image, times in ((held, 3), (small, 9)):
        check_rows([{"photo": base64.b64encode(image.getvalue()).decode()}] * times, PHOTOS, "row")

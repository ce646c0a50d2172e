"""The Open Inference Protocol's bodies: what is read of them, what is refused, what is answered."""

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.inference import Tensor, answers, describe, parse, render
from serving.request import RequestError
from tasks.core.decision import Decision
from tasks.core.encoder import Encoder
from tasks.core.target import Target
from tests.serving.test_bundle import ENCODER


def tensor(name: str, kind: str, data: list[Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "shape": [len(data)], "datatype": kind, "data": data, **more}


def body(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


def test_tensors_become_rows_with_what_is_missing_left_out() -> None:
    asked = parse(body(tensor("distance", "FP64", [3, None]), tensor("carrier", "BYTES", ["UA", ""]), id="7"), None, ENCODER)
    assert asked.rows == [{"distance": 3, "carrier": "UA"}, {"distance": None, "carrier": None}]
    assert asked.id == "7"
    column = {"name": "distance", "shape": [2, 1], "datatype": "INT32", "data": [[3], [4]]}
    assert parse(body(column), None, ENCODER).rows == [{"distance": 3}, {"distance": 4}]
    assert parse(body(tensor("carrier", "INT64", [12])), None, ENCODER).rows == [{"carrier": "12"}]  # as a table's column would be


def test_binary_tensors_lie_behind_the_json_in_their_order() -> None:
    numbers = struct.pack("<2f", 1.5, math.nan)
    words = b"".join(len(word).to_bytes(4, "little") + word for word in (b"UA", "München".encode()))
    sizes = ({"binary_data_size": len(numbers)}, {"binary_data_size": len(words)})
    head = body(
        {"name": "distance", "shape": [2], "datatype": "FP32", "parameters": sizes[0]},
        {"name": "carrier", "shape": [2], "datatype": "BYTES", "parameters": sizes[1]},
    )
    asked = parse(head + numbers + words, str(len(head)), ENCODER)
    assert asked.rows == [{"distance": 1.5, "carrier": "UA"}, {"distance": None, "carrier": "München"}]
    for cut in (1, len(words), len(words) + 3):
        with pytest.raises(RequestError):
            parse((head + numbers + words)[:-cut], str(len(head)), ENCODER)
    with pytest.raises(RequestError, match="behind the last"):
        parse(head + numbers + words + b"x", str(len(head)), ENCODER)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "not JSON"),
        (b"[]", "expected"),
        (body(), "expected"),
        (body({"name": 1}), "inputs[0]: expected an object"),
        (body(tensor("distance", "FP8", [1])), "inputs[0].datatype"),
        (body({**tensor("distance", "FP64", [1]), "shape": [2]}), "the 2 values of its shape, found 1 values"),
        (body({**tensor("distance", "FP64", [1]), "shape": [1, 2]}), "inputs[0].shape"),
        (body({**tensor("distance", "FP64", [1]), "shape": [True]}), "inputs[0].shape"),
        (body({**tensor("distance", "FP64", [1]), "shape": [10**12]}), "inputs[0].shape"),
        (body(tensor("distance", "FP64", [1]), tensor("distance", "FP64", [1])), "there twice"),
        (body(tensor("distance", "FP64", [1]), tensor("carrier", "BYTES", ["A", "B"])), "different numbers of rows"),
        (body(tensor("distance", "FP64", [])), "no row"),
        (body(tensor("distance", "FP64", [1]), id=7), "id: expected a string"),
        (body(tensor("distance", "FP64", [1]), outputs=["prediction"]), "outputs: expected"),
        (body(tensor("distance", "FP64", [1], parameters={"binary_data_size": 8})), "0 bytes are left"),
    ],
)
def test_body_that_is_none_is_refused_where_it_is_wrong(content: bytes, said: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse(content, None, ENCODER)
    assert refused.value.status == 400
    assert said in refused.value.detail


@pytest.mark.parametrize("header", ["x", "-1", "99", "1.0", "²"])
def test_header_that_is_no_length_is_refused(header: str) -> None:
    with pytest.raises(RequestError, match="inference-header-content-length"):
        parse(body(tensor("distance", "FP64", [1])), header, ENCODER)


@given(st.binary(max_size=200), st.none() | st.integers(0, 300).map(str))
def test_no_bytes_are_more_than_refused(content: bytes, header: str | None) -> None:
    with pytest.raises(RequestError):
        parse(content, header, ENCODER)


def test_answers_are_those_of_the_target_in_json_and_in_binary() -> None:
    several = Target("multiclass", "kind", ("a", "b", "c"))
    scores = np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]], np.float32)
    tensors = answers(several, scores)
    assert [(one.name, one.values.shape) for one in tensors] == [("prediction", (2, 3)), ("label", (2,))]
    assert tensors[1].values.tolist() == ["b", "a"]
    asked = parse(body(tensor("distance", "FP64", [1, 2]), parameters={"binary_data_output": True}), None, ENCODER)
    content, length = render(asked, tensors, "flights", "1")
    assert length is not None
    told = json.loads(content[:length])
    assert (told["model_name"], told["model_version"]) == ("flights", "1")
    np.testing.assert_allclose(np.frombuffer(content[length : length + 48], "<f8").reshape(2, 3), scores, atol=1e-7)
    assert content[length + 48 :] == b"\x01\0\0\0b\x01\0\0\0a"
    one = parse(body(tensor("distance", "FP64", [1]), outputs=[{"name": "label"}]), None, ENCODER)
    content, length = render(one, tensors, "flights", "1")
    assert length is None
    assert [(out["name"], out["data"]) for out in json.loads(content)["outputs"]] == [("label", ["b", "a"])]
    with pytest.raises(RequestError, match="no output 'labels'"):
        render(parse(body(tensor("distance", "FP64", [1]), outputs=[{"name": "labels"}]), None, ENCODER), tensors, "flights", "1")


def test_metadata_names_every_column_and_output() -> None:
    costly = Target("binary", "late", (0, 1), decision=Decision(((0.0, 1.0), (3.0, 0.0)), 0.3))
    told = describe("flights", "1", Encoder((), (), ENCODER.categories, (), costly))
    assert told["inputs"] == [{"name": "carrier", "datatype": "BYTES", "shape": [-1]}]
    assert [one["name"] for one in told["outputs"]] == ["prediction", "decision"]
    assert [one.name for one in answers(costly, np.array([0.2, 0.9]))] == ["prediction", "decision"]
    assert describe("flights", "1", ENCODER)["inputs"][0] == {"name": "distance", "datatype": "FP64", "shape": [-1]}


def test_empty_tensor_of_words_is_written_as_nothing() -> None:
    asked = parse(body(tensor("distance", "FP64", [1]), parameters={"binary_data_output": True}), None, ENCODER)
    content, length = render(asked, [Tensor("label", "BYTES", np.array([], object))], "m", "1")
    assert len(content) == length

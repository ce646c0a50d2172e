"""The Open Inference Protocol, version 2, over HTTP: tensors by column in, tensors out, in JSON or behind it in binary.

As KServe and Triton define it: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol and Triton's
extension "binary tensor data". A column is a tensor [row] or [row, 1] by its name; null, NaN and "" are missing values.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from serving.request import MOST_ROWS, TOO_MANY, RequestError, check_keys, load_json
from tasks.core.encoder import Encoder
from tasks.core.target import Target, as_text

HEADER = "inference-header-content-length"
NUMBERS: dict[str, str] = {
    "BOOL": "?", "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "<i1", "INT16": "<i2", "INT32": "<i4",
    "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
TEXT = "BYTES"
MOST_VALUES = 1_000_000  # of a tensor


@dataclass(frozen=True)
class Tensor:
    """An output: values [row] or [row, column] of one type."""

    name: str
    kind: str
    values: NDArray[Any]


@dataclass(frozen=True)
class Asked:
    """What a request is for: rows to score, its id, the outputs it names (all, if none), and which of these in binary."""

    rows: list[dict[str, Any]]
    id: str | None
    outputs: tuple[str, ...]
    binary: frozenset[str]
    all_binary: bool


def parse(body: bytes, header: str | None, encoder: Encoder) -> Asked:
    """The rows that the request's tensors make; RequestError 400 for what is no request of this protocol."""
    length = _length(header, len(body))
    document = load_json(body[:length])
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), list) or not document["inputs"]:
        raise RequestError(400, 'expected {"inputs": [{"name", "shape", "datatype", "data"}, ...]}')
    check_keys(body[:length], document, document["inputs"])
    tail, columns = memoryview(body)[length:], {}
    for i, one in enumerate(document["inputs"]):
        where = f"inputs[{i}]"
        name, values, tail = _tensor(one, where, tail)
        if name in columns:
            raise RequestError(400, f"{where}: {name!r} is there twice")
        columns[name] = values
    if len(tail):
        raise RequestError(400, f"{len(tail):,} bytes behind the last binary tensor")
    sizes = {name: len(values) for name, values in columns.items()}
    if len(set(sizes.values())) > 1:
        raise RequestError(400, f"the tensors have different numbers of rows: {dict(sorted(sizes.items()))}")
    count = next(iter(sizes.values()))
    if not count:
        raise RequestError(400, "the tensors have no row")
    if count > MOST_ROWS:
        raise RequestError(413, f"{count:,} rows; {TOO_MANY}")
    texts = {column.name for column in (*encoder.dates, *encoder.worded, *encoder.images)}
    plain = {name: [_value(value, name in texts) for value in values] for name, values in columns.items()}
    rows = [{name: values[i] for name, values in plain.items()} for i in range(count)]
    return Asked(rows, _id(document), *_wanted(document))


def _length(header: str | None, size: int) -> int:
    if header is None:
        return size
    if not header.isascii() or not header.isdigit() or len(header) > 18 or int(header) > size:
        raise RequestError(400, f"{HEADER}: found {header[:40]!r}, expected the bytes of the JSON, of {size:,} in all")
    return int(header)


def _tensor(one: Any, where: str, tail: memoryview) -> tuple[str, list[Any], memoryview]:
    """Name and values of an input, and what is left of the binary part."""
    if not isinstance(one, dict) or not isinstance(one.get("name"), str):
        raise RequestError(400, f"{where}: expected an object with name, shape, datatype and data")
    shape, kind = one.get("shape"), one.get("datatype")
    if (
        not isinstance(shape, list)
        or len(shape) not in (1, 2)
        or not all(isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= MOST_VALUES for size in shape)
        or shape[1:] not in ([], [1])
    ):
        raise RequestError(400, f"{where}.shape: expected [rows] or [rows, 1], found {_short(shape)}")
    if not isinstance(kind, str) or (kind != TEXT and kind not in NUMBERS):
        raise RequestError(400, f"{where}.datatype: expected {TEXT} or one of {sorted(NUMBERS)}, found {_short(kind)}")
    size = _parameters(one, where).get("binary_data_size")
    if size is not None:
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(tail):
            raise RequestError(400, f"{where}.parameters.binary_data_size: found {_short(size)}, {len(tail):,} bytes are left")
        return one["name"], _from_binary(tail[:size], kind, shape[0], where), tail[size:]
    data = one.get("data")
    if isinstance(data, list) and shape[1:] and len(data) == shape[0] and all(isinstance(v, list) and len(v) == 1 for v in data):
        data = [value[0] for value in data]
    if not isinstance(data, list) or len(data) != shape[0]:
        found = f"{len(data):,} values" if isinstance(data, list) else _short(data)
        raise RequestError(400, f"{where}.data: expected the {shape[0]:,} values of its shape, found {found}")
    return one["name"], data, tail


def _from_binary(data: memoryview, kind: str, count: int, where: str) -> list[Any]:
    if kind != TEXT:
        width = np.dtype(NUMBERS[kind]).itemsize
        if len(data) != count * width:
            raise RequestError(400, f"{where}: {len(data):,} bytes for {count:,} values of {width}")
        values: list[Any] = np.frombuffer(data, NUMBERS[kind]).tolist()
        return values
    texts, at = [], 0
    for _ in range(count):
        size = int.from_bytes(data[at : at + 4], "little")
        if at + 4 + size > len(data):
            raise RequestError(400, f"{where}: its {len(data):,} bytes end within a text")
        try:
            texts.append(bytes(data[at + 4 : at + 4 + size]).decode())
        except UnicodeDecodeError as error:
            raise RequestError(400, f"{where}: a text that is no UTF-8") from error
        at += 4 + size
    if at != len(data):
        raise RequestError(400, f"{where}: {len(data) - at:,} bytes behind its {count:,} texts")
    return texts


def _value(value: Any, text: bool) -> Any:
    """None for the missing values that a tensor can hold; a number's text where the column is one of texts."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if text and isinstance(value, int | float) and not isinstance(value, bool):
        return as_text(int(value) if float(value).is_integer() else value)
    return value


def _id(document: dict[str, Any]) -> str | None:
    found = document.get("id")
    if found is not None and not isinstance(found, str):
        raise RequestError(400, f"id: expected a string, found {_short(found)}")
    return found


def _wanted(document: dict[str, Any]) -> tuple[tuple[str, ...], frozenset[str], bool]:
    outputs = document.get("outputs") or []
    if not isinstance(outputs, list) or not all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in outputs):
        raise RequestError(400, 'outputs: expected [{"name": ...}, ...]')
    binary = frozenset(one["name"] for i, one in enumerate(outputs) if _parameters(one, f"outputs[{i}]").get("binary_data"))
    return tuple(one["name"] for one in outputs), binary, bool(_parameters(document, "the request").get("binary_data_output"))


def _parameters(one: dict[str, Any], where: str) -> dict[str, Any]:
    found = one.get("parameters")
    if found is not None and not isinstance(found, dict):
        raise RequestError(400, f"{where}.parameters: expected an object, found {_short(found)}")
    return found or {}


def answers(target: Target, scores: NDArray[Any]) -> list[Tensor]:
    """The outputs of the rows' scores: `prediction`; `label` of several classes, `low` and `high` of a target with intervals,
    `decision` where there are costs."""
    told = np.asarray(target.decode(scores), np.float64)
    found = [Tensor("prediction", "FP64", told)]
    if target.intervals is not None:
        found += [Tensor(name, "FP64", bound) for name, bound in zip(("low", "high"), target.intervals(told).T, strict=True)]
    if target.task == "multiclass":
        found.append(Tensor("label", TEXT, np.array([as_text(target.classes[i]) for i in told.argmax(axis=1)], object)))
    if target.decision is not None:
        words = {label: as_text(label) for label in target.classes}
        found.append(Tensor("decision", TEXT, np.array([words[one] for one in target.decide(scores)], object)))
    return found


def render(asked: Asked, tensors: list[Tensor], name: str, version: str) -> tuple[bytes, int | None]:
    """The body, and of one with a binary part the length of its JSON; RequestError for an output that there is not."""
    known = {tensor.name: tensor for tensor in tensors}
    if strange := [one for one in asked.outputs if one not in known]:
        raise RequestError(400, f"no output {strange[0][:100]!r}; there are {list(known)}")
    outputs, tail = [], []
    for tensor in [known[one] for one in asked.outputs] or tensors:
        described: dict[str, Any] = {"name": tensor.name, "datatype": tensor.kind, "shape": list(tensor.values.shape)}
        if asked.all_binary or tensor.name in asked.binary:
            tail.append(_to_binary(tensor))
            described["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            described["data"] = tensor.values.ravel().tolist()
        outputs.append(described)
    told = {"model_name": name, "model_version": version, **({} if asked.id is None else {"id": asked.id}), "outputs": outputs}
    head = orjson.dumps(told)
    return head + b"".join(tail), len(head) if tail else None


def _to_binary(tensor: Tensor) -> bytes:
    if tensor.kind != TEXT:
        return np.ascontiguousarray(tensor.values, NUMBERS[tensor.kind]).tobytes()
    words = [word.encode() for word in tensor.values.ravel()]
    return b"".join(len(word).to_bytes(4, "little") + word for word in words)


def describe(name: str, version: str, encoder: Encoder) -> dict[str, Any]:
    """The model's metadata: a tensor for each column, and the outputs."""
    kinds = dict.fromkeys((column.name for column in encoder.numbers), "FP64")
    inputs = [{"name": column, "datatype": kinds.get(column, TEXT), "shape": [-1]} for column in encoder.names]
    target = encoder.target
    shape = [-1, len(target.classes)] if target.task == "multiclass" else [-1]
    outputs: list[dict[str, Any]] = [{"name": "prediction", "datatype": "FP64", "shape": shape}]
    if target.intervals is not None:
        outputs += [{"name": name, "datatype": "FP64", "shape": [-1]} for name in ("low", "high")]
    if target.task == "multiclass":
        outputs.append({"name": "label", "datatype": TEXT, "shape": [-1]})
    if target.decision is not None:
        outputs.append({"name": "decision", "datatype": TEXT, "shape": [-1]})
    return {"name": name, "versions": [version], "platform": "tidemill_litert", "inputs": inputs, "outputs": outputs}


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except RecursionError:  # JSON may be nested deeper than repr goes
        return "what is nested too deeply"
    return text if len(text) <= 60 else f"{text[:57]}..."

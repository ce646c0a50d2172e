"""A network as it is served: LiteRT over the bytes of a .tflite file, NumPy in and out, no TensorFlow."""

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

BATCH_ROWS = 4096
BATCH_VALUES = 2**20  # of the rows of one call: what convolutions make of them is many times that


class Network:
    """What the encoder makes to scores. Not thread safe: one for each thread (LiteRT's interpreters are not)."""

    def __init__(self, content: bytes) -> None:
        """Only for bytes whose hash was checked: a truncated file kills the process that loads it."""
        self.interpreter = Interpreter(model_content=content, num_threads=1)
        details = self.interpreter.get_input_details()
        self.inputs = {_short_name(detail["name"]): detail["index"] for detail in details}
        values = [math.prod(map(int, detail["shape_signature"][1:])) for detail in details]  # of a row
        self.most = max(1, min(BATCH_ROWS, BATCH_VALUES // max(1, *values)))
        detail = self.interpreter.get_output_details()[0]
        self.score, self.outputs = detail["index"], int(detail["shape_signature"][-1])
        self.rows = 0

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Scores [row], or [row, output] of several outputs, for what the encoder makes of the rows."""
        rows = len(inputs["num"])
        if rows > self.most:
            parts = ({name: array[i : i + self.most] for name, array in inputs.items()} for i in range(0, rows, self.most))
            return np.concatenate([self(part) for part in parts])
        if rows != self.rows:
            for name, place in self.inputs.items():
                self.interpreter.resize_tensor_input(place, inputs[name].shape)
            self.interpreter.allocate_tensors()
            self.rows = rows
        for name, place in self.inputs.items():
            self.interpreter.set_tensor(place, inputs[name])
        self.interpreter.invoke()
        scores = np.asarray(self.interpreter.get_tensor(self.score))
        return scores[:, 0] if self.outputs == 1 else scores


def _short_name(name: str) -> str:
    """`num` of `serve_num:0`."""
    return name.split(":")[0].rsplit("_", 1)[-1]


SECONDS = 2.0  # that one measurement takes at most


def time_rows(network: Network, inputs: Mapping[str, NDArray[Any]], *, rows: int, calls: int) -> float:
    """Median seconds of a call with so many rows, in this process; the first calls do not count.

    Of a slow network fewer calls tell as much: it ends after SECONDS.
    """
    batch = {name: np.ascontiguousarray(array[:rows]) for name, array in inputs.items()}
    seconds: list[float] = []
    while len(seconds) < calls + calls // 10 and sum(seconds) < SECONDS:
        started = time.perf_counter()
        network(batch)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[len(seconds) // 11 :]))

"""A network as it is served: LiteRT over the bytes of a .tflite file, NumPy in and out, no TensorFlow."""

import time
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

BATCH_ROWS = 4096


class Network:
    """{num, cat} to scores. Not thread safe: one for each thread (LiteRT's interpreters are not)."""

    def __init__(self, content: bytes) -> None:
        """Only for bytes whose hash was checked: a truncated file kills the process that loads it."""
        self.interpreter = Interpreter(model_content=content, num_threads=1)
        inputs = {_short_name(detail["name"]): detail["index"] for detail in self.interpreter.get_input_details()}
        self.num, self.cat = inputs["num"], inputs["cat"]
        detail = self.interpreter.get_output_details()[0]
        self.score, self.outputs = detail["index"], int(detail["shape_signature"][-1])
        self.rows = 0

    def __call__(self, num: NDArray[np.float32], cat: NDArray[np.int32]) -> NDArray[np.float32]:
        """Scores [row], or [row, output] of several outputs, for num [row, width] and cat [row, code]."""
        if len(num) > BATCH_ROWS:
            parts = range(0, len(num), BATCH_ROWS)
            return np.concatenate([self(num[i : i + BATCH_ROWS], cat[i : i + BATCH_ROWS]) for i in parts])
        if len(num) != self.rows:
            self.interpreter.resize_tensor_input(self.num, num.shape)
            self.interpreter.resize_tensor_input(self.cat, cat.shape)
            self.interpreter.allocate_tensors()
            self.rows = len(num)
        self.interpreter.set_tensor(self.num, num)
        self.interpreter.set_tensor(self.cat, cat)
        self.interpreter.invoke()
        scores = np.asarray(self.interpreter.get_tensor(self.score))
        return scores[:, 0] if self.outputs == 1 else scores


def _short_name(name: str) -> str:
    """`num` of `serve_num:0`."""
    return name.split(":")[0].rsplit("_", 1)[-1]


def time_rows(network: Network, num: NDArray[Any], cat: NDArray[Any], *, rows: int, calls: int) -> float:
    """Median seconds of a call with so many rows, in this process; the first calls do not count."""
    batch = np.ascontiguousarray(num[:rows]), np.ascontiguousarray(cat[:rows])
    seconds = []
    for _ in range(calls + calls // 10):
        started = time.perf_counter()
        network(*batch)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[calls // 10 :]))

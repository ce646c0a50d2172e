"""The bundle's network and encoder without the service around them, for the peers that can hold them."""

import json
import os
from pathlib import Path
from typing import Any

from tasks.core.encoder import Encoder
from tasks.core.runtime import Network

BUNDLE = Path(os.environ["BUNDLE"])


class Model:
    """Rows of raw values in, answers out; not thread safe."""

    def __init__(self) -> None:
        self.encoder = Encoder.from_json(json.loads((BUNDLE / "encoder.json").read_text()))
        self.network = Network((BUNDLE / "model.tflite").read_bytes())

    def predict(self, rows: list[dict[str, Any]]) -> list[Any]:
        return self.encoder.target.answer(self.network(self.encoder.encode_rows(rows)))

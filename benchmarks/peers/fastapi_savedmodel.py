"""FastAPI as its tutorial has it: a pydantic model of the body, TensorFlow and the release's SavedModel behind it."""

import json
import math
import os
from pathlib import Path
from typing import Any

import tensorflow as tf
from fastapi import FastAPI
from pydantic import BaseModel, create_model

BUNDLE = Path(os.environ["BUNDLE"])

# A process for each core: threads within one would only be in each other's way.
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)
loaded = tf.saved_model.load(str(BUNDLE / "saved_model"))
serve = loaded.signatures["serving_default"]
arguments: dict[str, str] = json.loads((BUNDLE / "saved_model" / "signature.json").read_text())
specs: dict[str, tf.TensorSpec] = serve.structured_input_signature[1]
texts = {column: specs[argument].dtype == tf.string for column, argument in arguments.items()}
Row = create_model("Row", **{column: (str | None if text else float | None, None) for column, text in texts.items()})


class Asked(BaseModel):
    instances: list[Row]  # type: ignore[valid-type]


class Answers(BaseModel):
    predictions: list[float]


app = FastAPI()


@app.post("/predict")
async def predict(asked: Asked) -> Answers:
    """On the event loop: handing a call of less than a millisecond to a thread costs more than it frees."""
    columns: dict[str, Any] = {}
    for column, argument in arguments.items():
        values = [getattr(row, column) for row in asked.instances]
        missing = "" if texts[column] else math.nan
        columns[argument] = tf.constant([missing if value is None else value for value in values], specs[argument].dtype)
    return Answers(predictions=serve(**columns)["score"].numpy().tolist())

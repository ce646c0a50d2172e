"""The numbers that a network computes with: half as wide where the device is faster with them."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import tensorflow as tf

BFLOAT16 = (8, 0)  # the compute capability of NVIDIA's first GPUs with units for it, Ampere


def fastest_policy() -> str:
    """Keras' name of it: bfloat16 between layers on a GPU that has it, since it needs no scaling of the loss; else float32."""
    gpus = tf.config.list_physical_devices("GPU")
    able = [tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) >= BFLOAT16 for gpu in gpus]
    return "mixed_bfloat16" if able and all(able) else "float32"


@contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Networks that are built inside compute by that policy; their weights are float32 by any."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)

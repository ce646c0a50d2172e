"""The encoded shards: arrays on disk, mapped into memory, as preprocess writes them and learning reads them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.core.encoder import Encoder
from tasks.core.errors import DataError
from tasks.core.rows import Rows

Part = Literal["train", "validation", "test"]


def save_rows(folder: Path, encoded: Mapping[str, NDArray[Any]], target: NDArray[Any]) -> None:
    """`folder` holds one .npy file for each array."""
    folder.mkdir(parents=True)
    for name, array in {**encoded, "target": target.astype(np.float32)}.items():
        np.save(folder / f"{name}.npy", array)


def load_rows(features: Path, part: Part) -> Rows:
    """The arrays of one part, mapped read-only; DataError when one is missing or not whole."""
    try:
        arrays = {name: np.load(features / part / f"{name}.npy", mmap_mode="r") for name in ("num", "cat", "target")}
    except (OSError, ValueError) as error:
        raise DataError(f"{features / part} is not whole ({error}); run preprocess again") from error
    return Rows(**arrays)


def load_encoder(features: Path) -> Encoder:
    """The encoder that made the arrays."""
    return Encoder.from_json(json.loads((features / "encoder.json").read_text()))

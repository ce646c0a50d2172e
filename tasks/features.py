"""The encoded shards: arrays on disk, mapped into memory, as preprocess writes them and learning reads them."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

import numpy as np
from numpy.typing import NDArray

from tasks.core.encoder import Encoder
from tasks.core.errors import DataError
from tasks.core.rows import Rows

Part = Literal["train", "validation", "test"]


class ArrayWriter:
    """Writes the arrays of each part as .npy files, rows after rows: nothing but the rows at hand is in memory."""

    def __init__(self, folder: Path, parts: Mapping[str, tuple[int, Mapping[str, tuple[tuple[int, ...], type]]]]) -> None:
        """`parts` gives for each part its rows, and for each array the shape of a row (none: the array is [row]) and its type."""
        self.files: dict[tuple[str, str], BinaryIO] = {}
        self.left = {part: rows for part, (rows, _) in parts.items()}
        for part, (rows, arrays) in parts.items():
            (folder / part).mkdir(parents=True)
            for name, (row, kind) in arrays.items():
                file = (folder / part / f"{name}.npy").open("wb")
                header = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": (rows, *row)}
                np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]
                self.files[part, name] = file

    def __enter__(self) -> Self:
        return self

    def write(self, part: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """The part's arrays end with these rows."""
        self.left[part] -= len(next(iter(arrays.values())))
        for name, array in arrays.items():
            self.files[part, name].write(np.ascontiguousarray(array).data)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in self.files.values():
            file.close()
        assert error or not any(self.left.values()), self.left


def load_rows(features: Path, part: Part) -> Rows:
    """The arrays of one part, as the student and the service have them, mapped read-only; DataError when one is not whole."""
    return _load(features / part, "image*.npy")


def load_seen(features: Path, part: Part) -> Rows:
    """The arrays of one part as the teacher has them: what a backbone made of images in place of these, where there is one."""
    folder = features / part
    return _load(folder, "seen*.npy" if any(folder.glob("seen*.npy")) else "image*.npy")


def _load(folder: Path, images: str) -> Rows:
    try:
        found = sorted(path.stem for path in folder.glob(images))
        arrays = {name: _map(folder / f"{name}.npy") for name in ("num", "cat", *found)}
        target = _map(folder / "target.npy")
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} is not whole ({error}); run preprocess again") from error
    return Rows(arrays, target)


def _map(path: Path) -> NDArray[Any]:
    """The array, mapped; one of no columns cannot be, and takes no memory."""
    try:
        mapped: NDArray[Any] = np.load(path, mmap_mode="r")
        return mapped
    except ValueError:
        empty: NDArray[Any] = np.load(path)
        if empty.size:
            raise
        return empty


def load_encoder(features: Path) -> Encoder:
    """The encoder that made the arrays."""
    return Encoder.from_json(json.loads((features / "encoder.json").read_text()))

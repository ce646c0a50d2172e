"""Networks on disk: a spec and plain arrays, the same bytes for the same weights, and nothing in them that can run."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.errors import DataError
from tasks.core.models import NetworkSpec, build


def save_network(folder: Path, spec: NetworkSpec, weights: list[NDArray[Any]]) -> None:
    """`folder` holds network.json and weights.npz."""
    folder.mkdir(parents=True)
    (folder / "network.json").write_text(json.dumps(spec.to_json(), indent=1))
    save_arrays(folder / "weights.npz", {f"{i:04d}": weight for i, weight in enumerate(weights)})


def load_network(keras: ModuleType, folder: Path) -> tuple[NetworkSpec, Any]:
    """The spec and the network with its weights, in the given Keras; DataError when the folder is not whole."""
    try:
        spec = NetworkSpec.from_json(json.loads((folder / "network.json").read_text()))
        arrays = load_arrays(folder / "weights.npz")
        model = build(keras, spec)
        model.set_weights([arrays[key] for key in sorted(arrays)])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} holds no whole network ({error}); run the stage that makes it again") from error
    return spec, model


def save_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """A .npz file of the arrays."""
    with path.open("wb") as file:
        np.savez(file, **arrays)


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz file; pickled objects are refused."""
    with np.load(path, allow_pickle=False) as saved:
        return {name: saved[name] for name in saved.files}

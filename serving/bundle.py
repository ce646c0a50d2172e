"""A release bundle, verified before it is used: every hash of its manifest, then every golden row."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.encoder import Encoder
from tasks.core.runtime import Network

USED = ("model.tflite", "encoder.json", "golden.json", "model_card.md")
GOLDEN_TOLERANCE = 1e-3  # kernels of other processors round differently; a wrong model differs by more


class BundleError(Exception):
    """The bundle cannot be served; the message says why."""


@dataclass(frozen=True)
class Bundle:
    """A model ready to answer."""

    name: str
    version: str
    chosen: str
    encoder: Encoder
    network: Network
    golden: list[dict[str, Any]]
    predictions: list[Any]
    card: str

    def predict(self, rows: list[dict[str, Any]]) -> list[Any]:
        """The answer to each row of raw values; a missing one is absent or None. Not thread safe."""
        return self.encoder.target.answer(self.network(self.encoder.encode(self.encoder.columns(rows))))


def load_bundle(folder: Path) -> Bundle:
    """The bundle in the folder; BundleError when a file is missing, changed, or answers golden rows otherwise."""
    manifest = _read(folder / "manifest.json")
    try:
        for path in {*USED, *manifest["files"]}:
            _verify(folder / path, manifest["files"][path]["sha256"])
        golden = _read(folder / "golden.json")
        bundle = Bundle(
            name=manifest["name"],
            version=manifest["version"],
            chosen=manifest["chosen"],
            encoder=Encoder.from_json(_read(folder / "encoder.json")),
            network=Network((folder / "model.tflite").read_bytes()),
            golden=golden["instances"],
            predictions=golden["predictions"],
            card=(folder / "model_card.md").read_text(encoding="utf-8"),
        )
        if not bundle.golden or len(bundle.golden) != len(bundle.predictions):
            raise BundleError(f"{folder} has {len(bundle.golden)} golden rows and {len(bundle.predictions)} answers to them")
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{folder} is no bundle of this format: {error!r}") from error
    try:
        gap = np.max(np.abs(np.subtract(_flat(bundle.predict(bundle.golden)), _flat(bundle.predictions))))
    except (ValueError, TypeError, AttributeError) as error:
        raise BundleError(f"{folder} has golden rows that do not fit its encoder: {error}") from error
    if not gap <= GOLDEN_TOLERANCE * bundle.encoder.target.scale:  # NaN is below nothing
        raise BundleError(f"{folder} answers its golden rows {gap:.2g} apart from what it recorded; it is not served")
    return bundle


def _flat(answers: list[Any]) -> NDArray[np.float64]:
    """The numbers of the answers, those of several classes side by side."""
    return np.array([list(answer.values()) if isinstance(answer, dict) else [answer] for answer in answers], np.float64)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: {error}; `python -m flows.train` makes a release") from error


def _verify(path: Path, sha256: str) -> None:
    """BundleError unless the file is there with this hash."""
    if not path.is_file():
        raise BundleError(f"{path} is missing; copy the whole bundle")
    if (found := hashlib.sha256(path.read_bytes()).hexdigest()) != sha256:
        raise BundleError(f"{path} has changed: sha256 {found[:12]}, the manifest says {sha256[:12]}; it is not served")

"""A release bundle, verified before it is used: every hash of its manifest, then every golden row."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.privacy import Rule, rules
from tasks.core.encoder import Encoder
from tasks.core.expected import Expected
from tasks.core.explain import Explanation, explain
from tasks.core.runtime import Network
from tasks.core.target import Label

USED = ("model.tflite", "encoder.json", "golden.json", "background.json", "model_card.md")
EXPECTED = "expected.json"
EXPLAIN_SEED = 0  # the same row is explained in the same way each time
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
    background: dict[str, NDArray[Any]]
    card: str
    folder: Path
    privacy: dict[str, Rule]
    expected: Expected | None  # older ones have none

    def predict(self, rows: list[dict[str, Any]]) -> list[Any]:
        """The answer to each row of raw values; a missing one is absent or None. Not thread safe."""
        return self.encoder.target.answer(self.network(self.encode(rows)))

    def encode(self, rows: list[dict[str, Any]]) -> dict[str, NDArray[Any]]:
        """The rows as the network takes them."""
        return self.encoder.encode_rows(rows)

    def respond(self, scores: NDArray[np.float32]) -> dict[str, list[Any]]:
        """The answers that the network's scores stand for, and the decisions of a model that has costs to decide by."""
        predictions, decisions = self.encoder.target.tell(scores)
        return {"predictions": predictions} if decisions is None else {"predictions": predictions, "decisions": decisions}

    def explain(self, row: dict[str, Any]) -> tuple[Label | None, Explanation]:
        """What each column adds to the answer, and of which class the answer is the probability. Not thread safe."""
        target, encoded = self.encoder.target, self.encode([row])
        told = target.decode(self.network(encoded))
        code = None if target.task == "regression" else 1 if target.task == "binary" else int(np.argmax(told[0]))

        def answer(inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
            answers = target.decode(self.network(inputs))
            return answers[:, code] if target.task == "multiclass" else answers

        found = explain(answer, encoded, self.background, self.encoder.places, EXPLAIN_SEED)
        return (None if code is None else target.classes[code]), found


def load_bundle(folder: Path) -> Bundle:
    """The bundle in the folder; BundleError when a file is missing, changed, or answers golden rows otherwise."""
    manifest = _read(folder / "manifest.json")
    try:
        for path in {*USED, *manifest["files"]}:
            _verify(folder / path, manifest["files"][path]["sha256"])
        golden = _read(folder / "golden.json")
        encoder = Encoder.from_json(_read(folder / "encoder.json"))
        bundle = Bundle(
            name=manifest["name"],
            version=manifest["version"],
            chosen=manifest["chosen"],
            encoder=encoder,
            network=Network((folder / "model.tflite").read_bytes()),
            golden=golden["instances"],
            predictions=golden["predictions"],
            background=_read_background(folder / "background.json", encoder, golden["instances"][:1]),
            card=(folder / "model_card.md").read_text(encoding="utf-8"),
            folder=folder.absolute(),
            privacy=rules(encoder, manifest.get("privacy", {})),  # which older releases do not have
            expected=Expected.from_json(_read(folder / EXPECTED), encoder) if EXPECTED in manifest["files"] else None,
        )
        if not bundle.golden or len(bundle.golden) != len(bundle.predictions):
            raise BundleError(f"{folder} has {len(bundle.golden)} golden rows and {len(bundle.predictions)} answers to them")
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise BundleError(f"{folder} is no bundle of this format: {error!r}") from error
    try:
        gap = np.max(np.abs(np.subtract(_flat(bundle.predict(bundle.golden)), _flat(bundle.predictions))))
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:  # the last is how LiteRT refuses a shape
        raise BundleError(f"{folder} has golden rows that do not fit its encoder or network: {error}") from error
    if not gap <= GOLDEN_TOLERANCE * bundle.encoder.target.scale:  # NaN is below nothing
        raise BundleError(f"{folder} answers its golden rows {gap:.2g} apart from what it recorded; it is not served")
    return bundle


def _read_background(path: Path, encoder: Encoder, row: list[dict[str, Any]]) -> dict[str, NDArray[Any]]:
    """The rows that explanations compare with, as the network takes them; BundleError when the encoder makes other ones."""
    made = encoder.encode(encoder.columns(row))
    document = _read(path)
    background = {name: np.array(document[name], like.dtype) for name, like in made.items()}
    rows = len(background["num"])
    if not rows or any(background[name].shape != (rows, *like.shape[1:]) for name, like in made.items()):
        raise BundleError(f"{path} holds rows of another shape than the encoder makes; copy the whole bundle")
    return background


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

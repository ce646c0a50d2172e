"""The teacher on disk: what it says of the rows of each part and of made-up ones; NETWORK in it is the best of its networks.

Trees are not kept: they would be kept as pickles, which can run code, and nothing needs them once they have spoken.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.core.errors import DataError
from tasks.core.rows import Rows
from tasks.features import Part

Said = Part | Literal["made"]
NETWORK, MEMBERS = "network", "members.json"


@dataclass(frozen=True)
class Member:
    """A model of the teacher: its share of what is said, its validation loss, and what it is in a few words."""

    name: str
    share: float
    validation_loss: float
    what: str


def save_opinion(folder: Path, members: list[Member], scores: Mapping[Said, NDArray[np.float32]], made: Rows) -> None:
    """`folder` holds all of the teacher but its network; `scores` are of each part, and of the made rows."""
    (folder / "made").mkdir(parents=True)
    for name, array in made.inputs.items():
        np.save(folder / "made" / f"{name}.npy", array)
    for part, said in scores.items():
        np.save(folder / f"{part}.npy", said)
    (folder / MEMBERS).write_text(json.dumps([asdict(member) for member in members], indent=1))


def load_members(folder: Path) -> list[Member]:
    """The teacher's models, the one with the largest share first; DataError when the folder is not whole."""
    try:
        return [Member(**one) for one in json.loads((folder / MEMBERS).read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{folder} holds no whole teacher ({error}); run train again") from error


def load_opinion(folder: Path, part: Said) -> NDArray[np.float32]:
    """What the teacher says of the part's rows: [row], or probabilities [row, class]; DataError when it is not there."""
    try:
        said: NDArray[np.float32] = np.load(folder / f"{part}.npy")
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} holds no whole teacher ({error}); run train again") from error
    return said


def load_made(folder: Path) -> Rows:
    """The made-up rows, with what the teacher says of them as the target."""
    try:
        inputs = {path.stem: np.load(path) for path in sorted((folder / "made").glob("*.npy"))}
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} holds no whole teacher ({error}); run train again") from error
    return Rows(inputs, load_opinion(folder, "made"))

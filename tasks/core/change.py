"""A column's difference from its schema, as one process finds it and another shows and accepts it."""

from dataclasses import dataclass
from typing import TypeAlias

Edit: TypeAlias = tuple[int, int, str]  # what stands in the schema's text from the first place to the second becomes these words


@dataclass(frozen=True)
class Change:
    """A column that is not as the schema says: in words, what a run does about it, and what would accept it."""

    column: str
    role: str
    said: tuple[str, ...]
    verdict: str
    edits: tuple[Edit, ...]

"""What of a text is known: its words, pairs of them and pieces of them, by rules that NumPy's side and a TensorFlow graph follow
to the byte."""

import re
from collections.abc import Sequence
from itertools import pairwise

# What parts two words: ASCII's own separators. Letters beyond ASCII belong to words, and keep their case, in both executors.
SEPARATORS = r"[\x00-\x2f\x3a-\x40\x5b-\x60\x7b-\x7f]+"
_SEPARATORS = re.compile(SEPARATORS)
_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")

PIECES = (5, 4, 3)  # characters of a piece; the longer ones, which tell more, come first
# Code points that are no characters, for which TensorFlow's splitting puts the mark for what cannot be read.
_NO_CHARACTERS = dict.fromkeys(
    [*range(0xFDD0, 0xFDF0), *(plane + end for plane in range(0, 0x110000, 0x10000) for end in (0xFFFE, 0xFFFF))], "\ufffd"
)
START, END = "<", ">"  # of a word in its pieces; separators, so that no word holds them


def split_words(text: str) -> list[str]:
    """The text's words in order, ASCII letters small."""
    return [word for word in _SEPARATORS.split(text.translate(_LOWER)) if word]


def pair_words(words: Sequence[str]) -> list[str]:
    """Each two neighbours with a space between, in order."""
    return [f"{one} {other}" for one, other in pairwise(words)]


def split_pieces(words: Sequence[str]) -> list[str]:
    """All runs of so many characters of each word with its marked ends, as of fastText (Bojanowski et al. 2017, arXiv 1607.04606).

    Those of one length stand together, in the order of the text.
    """
    marked = [f"{START}{word}{END}".translate(_NO_CHARACTERS) for word in words]
    return [word[i : i + length] for length in PIECES for word in marked for i in range(len(word) - length + 1)]

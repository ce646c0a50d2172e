"""Words of a text, by a rule that NumPy's side and a TensorFlow graph follow to the byte."""

import re

# What parts two words: ASCII's own separators. Letters beyond ASCII belong to words, and keep their case, in both executors.
SEPARATORS = r"[\x00-\x2f\x3a-\x40\x5b-\x60\x7b-\x7f]+"
_SEPARATORS = re.compile(SEPARATORS)
_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


def split_words(text: str) -> list[str]:
    """The text's words in order, ASCII letters small."""
    return [word for word in _SEPARATORS.split(text.translate(_LOWER)) if word]

"""Where bundles from afar are kept for the next start."""

import os
from pathlib import Path


def default_cache() -> Path:
    """The user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tidemill" / "bundles"


def cache_name(store: str) -> str:
    """The store's own folder in a cache."""
    return "".join(letter if letter.isalnum() else "-" for letter in store)

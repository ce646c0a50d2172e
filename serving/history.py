"""The latest moves of a model's channels, as its release store tells them to who asks now and then."""

import asyncio
import time
from dataclasses import asdict
from typing import Any

from serving.follow import Follower
from tasks.cloud.storage import StorageError
from tasks.releases import Move, ReleaseError

MOST = 20  # moves that are told
NO_HISTORY: dict[str, Any] = {"followed": False, "error": None, "moves": []}  # of a bundle that was given by name
KEPT = 10.0  # seconds for which the store is not asked again


class History:
    """What the store of a follower said last."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self.moves: list[Move] = []
        self.error: str | None = None
        self.at = float("-inf")
        self.lock = asyncio.Lock()

    async def tell(self) -> dict[str, Any]:
        """The newest moves first, and why these are not the newest when the store does not answer."""
        async with self.lock:  # of many who ask at once the first asks the store
            if time.monotonic() - self.at > KEPT:
                try:
                    self.moves = (await asyncio.to_thread(self.follower.releases.history, MOST))[:MOST]
                    self.error = None
                except (StorageError, ReleaseError, OSError) as error:
                    self.error = str(error)
                self.at = time.monotonic()
        return {"followed": True, "error": self.error, "moves": [asdict(move) for move in self.moves]}

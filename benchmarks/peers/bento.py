"""BentoML over the bundle's own file and encoder: a worker for each core, the call on the event loop, no access log.

Its adaptive batching is off: with a model of microseconds it only waits.
"""

import os
from typing import Any

import bentoml

from benchmarks.peers.model import Model


@bentoml.service(workers=int(os.environ["WORKERS"]), logging={"access": {"enabled": False}})
class Predictor:
    def __init__(self) -> None:
        self.model = Model()

    @bentoml.api
    async def predict(self, instances: list[dict[str, Any]]) -> dict[str, list[Any]]:
        return {"predictions": self.model.predict(instances)}

"""LitServe over the bundle's own file and encoder: a worker and a server process for each core, and its fast queue (ZeroMQ).

Its guide "speed up serving" also batches; with a model of microseconds that only waits.
"""

import argparse
from typing import Any

import litserve

from benchmarks.peers.model import Model


class Predictor(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        self.model = Model()

    def decode_request(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = request["instances"]
        return rows

    def predict(self, rows: list[dict[str, Any]]) -> list[Any]:
        return self.model.predict(rows)

    def encode_response(self, answers: list[Any]) -> dict[str, Any]:
        return {"predictions": answers}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    asked = parser.parse_args()
    server = litserve.LitServer(Predictor(), accelerator="cpu", workers_per_device=asked.workers, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=asked.port,
        num_api_servers=asked.workers,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )


if __name__ == "__main__":
    main()

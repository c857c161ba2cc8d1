"""The generic engine as a LitServe application. Imported only in the process that serves it; spawned workers find it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import litserve as lit  # type: ignore[import-untyped]

from guardrail_plugin.bench.contenders import MAX_BATCH, best, load_replica
from guardrail_plugin.pool import ScoreRequest


class Api(lit.LitAPI):  # type: ignore[misc]
    """Decodes JSON, scores batches, answers with the index of the likeliest label."""

    def __init__(self, folder: Path, *, linger_s: float) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=linger_s)
        self.folder = folder

    def setup(self, device: str) -> None:
        """Load the model in the worker."""
        self.replica = load_replica(self.folder)

    def decode_request(self, request: dict[str, Any]) -> ScoreRequest:
        """Read one request."""
        labels, prefix = tuple(request["label_ids"]), int(request["prefix_len"])
        return ScoreRequest("m", tuple(request["input_ids"]), labels, prefix_len=prefix)

    def batch(self, inputs: list[ScoreRequest]) -> list[ScoreRequest]:
        """Leave the batch as it is."""
        return inputs

    def predict(self, requests: list[ScoreRequest]) -> list[int]:
        """Score a batch."""
        return [best(result) for result in self.replica.score(requests)]

    def unbatch(self, output: list[int]) -> list[int]:
        """Leave the answers as they are."""
        return output

    def encode_response(self, output: int) -> dict[str, int]:
        """Write one answer."""
        return {"best": output}


def serve(folder: Path, port: int, *, linger_s: float, host: str) -> None:
    """Serve until the process is ended."""
    server = lit.LitServer(Api(folder, linger_s=linger_s), accelerator="cpu", workers_per_device=1)
    server.run(host=host, port=port, generate_client_file=False, log_level="error")

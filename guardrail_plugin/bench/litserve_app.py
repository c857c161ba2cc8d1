"""The generic engine behind LitServe: ``python -m guardrail_plugin.bench.litserve_app FOLDER HOST PORT LINGER_S``."""

from __future__ import annotations

import sys
from pathlib import Path

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

    def decode_request(self, request):  # type: ignore[no-untyped-def] # LitServe reads annotations as a web schema
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


def main(folder: str, host: str, port: str, linger_s: str) -> None:
    """Serve until the process is ended."""
    server = lit.LitServer(Api(Path(folder), linger_s=float(linger_s)), accelerator="cpu", workers_per_device=1)
    server.run(host=host, port=int(port), generate_client_file=False, log_level="error")


if __name__ == "__main__":
    main(*sys.argv[1:])

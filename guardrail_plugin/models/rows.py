"""What an engine is: it opens batches of token rows on a model, whatever way it computes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from guardrail_plugin.models.kept import Ids, Prefix

if TYPE_CHECKING:
    from torch import Tensor


class Rows(Protocol):
    """A batch of rows with their keys and values. Used by one thread, inside ``torch.inference_mode``."""

    def prefill(self, most_tokens: int | None = None) -> bool:
        """Run prompt tokens, about ``most_tokens`` or all; return whether every row has reached its end."""

    def advance(self, next_ids: Sequence[int]) -> None:
        """Append one token to every row and run it. Needs the room that the rows were opened with."""

    def logits(self, columns: Tensor | slice) -> Tensor:
        """Return the next-token logits of these vocabulary columns at the end of every row: (B, K) in float32."""

    def select(self, keep: Sequence[int]) -> list[int]:
        """Go on with some rows; return in which order they stand from now on (indices of before)."""

    def segment(self, row: int, start: int) -> Tensor | None:
        """Return a copy of a row's keys and values from position ``start``: (layers, 2, n, kv heads, head width).

        ``None``: this engine does not give them away.
        """


class Engine(Protocol):
    """Computes rows of one model on one device. Thread-safe: replicas that share weights share it.

    Attributes:
        name: what logs and benchmarks call it.
        reuses: whether it can start from kept prefixes.
        row_tokens: the longest row that it computes as the model does; ``None``: any.
    """

    name: str
    reuses: bool
    row_tokens: int | None

    def open(self, prompts: Sequence[Ids], prefixes: Sequence[Prefix], *, room: int = 0) -> Rows:
        """Open a batch. ``prefixes`` are shorter than their prompts; ``room``: tokens that rows may grow by."""

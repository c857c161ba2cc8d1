"""What the pool asks of a model. Token ids in, numbers and token ids out: a replica never sees text or verdicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias, runtime_checkable

FinishReason: TypeAlias = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One forward pass: how likely is each of a few tokens to come next?

    Attributes:
        model: key under which the model was registered with the pool.
        input_ids: (L,) token ids.
        label_ids: (K,) the candidate next tokens.
        prefix_len: the first ``prefix_len`` ids are a template shared with other requests, so their
            key/value cache may be kept and reused.
    """

    model: str
    input_ids: tuple[int, ...] = field(repr=False)
    label_ids: tuple[int, ...]
    prefix_len: int = 0

    @property
    def tokens(self) -> int:
        """What this request costs a batch, in tokens."""
        return len(self.input_ids)


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """Log-probabilities (K,) over the label tokens of the request, normalised over those K tokens."""

    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """Decode up to ``max_new_tokens`` ids after ``input_ids`` (L,). ``temperature=0`` is greedy."""

    model: str
    input_ids: tuple[int, ...] = field(repr=False)
    max_new_tokens: int
    stop_ids: frozenset[int] = frozenset()
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    @property
    def tokens(self) -> int:
        """What this request costs a batch at its start, in tokens."""
        return len(self.input_ids)


@dataclass(frozen=True, slots=True)
class Generation:
    """A finished decode: the new token ids without the stop token, and why it ended."""

    token_ids: tuple[int, ...] = field(repr=False)
    finish_reason: FinishReason


Request: TypeAlias = ScoreRequest | GenerateRequest


@dataclass(frozen=True, slots=True)
class Token:
    """One step's news of one row: a new token, or the end of the row. Neither: its prompt is still being run."""

    row: int
    token_id: int | None
    finish_reason: FinishReason | None = None


class RowFailed(Exception):
    """Raised by a decode whose row failed alone: that row has ended, the others go on.

    Attributes:
        row: its number.
        error: what its caller is told.
    """

    def __init__(self, row: int, error: Exception) -> None:
        self.row = row
        self.error = error
        super().__init__(f"row {row} of a decode failed: {type(error).__name__}")


class Decode(Protocol):
    """A decode in progress over the rows of one batch. Used by one thread."""

    def step(self) -> Sequence[Token]:
        """Advance every live row by one token. An empty answer means that all rows have ended.

        Raises:
            RowFailed: one row ended so; no token of another was lost. Anything else ends the whole decode.
        """

    def cancel(self, row: int) -> None:
        """Stop one row; the others go on."""

    def close(self) -> None:
        """Free the caches. Idempotent."""


class Replica(Protocol):
    """One copy of one model on one device. Used by one thread; may raise anything, also out-of-memory errors.

    A replica may tell more, as plain attributes: ``nbytes``, what it takes on its device (replicas of one model on one
    device share it), and ``batch_tokens``, the batch size at which it works best.
    """

    def score(self, batch: Sequence[ScoreRequest]) -> Sequence[ScoreResult]:
        """Answer every request of the batch, in order. All-or-nothing: the pool isolates a bad item by bisection."""

    def start(self, batch: Sequence[GenerateRequest]) -> Decode:
        """Prefill the batch and return its decode."""

    def close(self) -> None:
        """Free the device. Idempotent."""


@runtime_checkable
class PlacedFactory(Protocol):
    """A factory that knows how many replicas a device is good for. Asked only where the caller gave no number."""

    def __call__(self, device: str) -> Replica:
        """Build a replica on a device, in the worker thread."""

    def places(self, device: str) -> Sequence[str]:
        """Return the devices of all replicas to have in place of one on ``device``; the first is that one's."""


@runtime_checkable
class KeepingFactory(Protocol):
    """A factory whose replicas keep keys and values, and count what that saves."""

    def __call__(self, device: str) -> Replica:
        """Build a replica on a device, in the worker thread."""

    def kept_counts(self) -> tuple[int, int, int, int, int]:
        """Return, over all its replicas: rows and bytes kept, rows that asked, rows that found, tokens reused."""


ReplicaFactory: TypeAlias = Callable[[str], Replica]
"""Builds a replica on a device, in the worker thread: ``"cpu"``, ``"cuda:0"``, ``"mps"``; ``"auto"``: the best one."""

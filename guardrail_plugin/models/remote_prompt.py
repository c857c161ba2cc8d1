"""How prompts reach a server: as ids, as text, or, with a soft prompt, as embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.models.remote_wire import Codec

if TYPE_CHECKING:
    from torch import Tensor


class Prompts(Protocol):
    """Makes the ``prompt`` of a completion call, and further fields."""

    def one(self, ids: Sequence[int]) -> str | list[int]:
        """Return the prompt of a call with a single one."""

    def many(self, rows: Sequence[Sequence[int]]) -> list[str] | list[list[int]] | str:
        """Return the prompts of a call with several."""

    def fields(self, rows: Sequence[Sequence[int]]) -> dict[str, object]:
        """Return fields that go along."""


class PlainPrompts:
    """Ids or text, as the codec has them."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    def one(self, ids: Sequence[int]) -> str | list[int]:
        """Return the prompt of a call with a single one."""
        return self._codec.prompt(ids)

    def many(self, rows: Sequence[Sequence[int]]) -> list[str] | list[list[int]] | str:
        """Return the prompts of a call with several."""
        texts: list[str] = []
        ids: list[list[int]] = []
        for row in rows:
            prompt = self._codec.prompt(row)
            if isinstance(prompt, str):
                texts.append(prompt)
            else:
                ids.append(prompt)
        return ids or texts

    def fields(self, rows: Sequence[Sequence[int]]) -> dict[str, object]:
        """Return nothing."""
        return {}


class EmbeddedPrompts:
    """Embeddings of every token, a soft prompt's vectors among them, as vLLM takes them with --enable-prompt-embeds.

    Sent whole (not only the soft part) they are cached by prefix like any prompt.

    Args:
        embed: ids -> (L, d), on the CPU, in the dtype that the server runs in.

    Source: vLLM, "Prompt Embedding Inputs": base64 of ``torch.save``, beside an empty prompt.
    """

    def __init__(self, embed: Callable[[Sequence[int]], Tensor]) -> None:
        self._embed = embed

    def one(self, ids: Sequence[int]) -> str | list[int]:
        """Return nothing: the embeddings are the prompt."""
        return ""

    def many(self, rows: Sequence[Sequence[int]]) -> list[str] | list[list[int]] | str:
        """Return nothing: the embeddings are the prompts."""
        return ""

    def fields(self, rows: Sequence[Sequence[int]]) -> dict[str, object]:
        """Return the embeddings."""
        return {"prompt_embeds": [self._packed(row) for row in rows]}

    def _packed(self, ids: Sequence[int]) -> str:
        import base64
        import io

        import torch

        vectors = self._embed(ids)
        if vectors.ndim != 2 or len(vectors) < 1:
            raise ConfigError(f"a prompt's embeddings are (L, d), got {tuple(vectors.shape)}")
        memory = io.BytesIO()
        torch.save(vectors.detach().cpu().clone(), memory)
        return base64.b64encode(memory.getvalue()).decode("ascii")

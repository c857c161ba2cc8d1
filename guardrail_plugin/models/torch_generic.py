"""The generic engine: any causal language model of transformers, through its own forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from guardrail_plugin.models.kept import Ids, Prefix
from guardrail_plugin.models.torch_rotary import pin_frequencies

# Architectures whose logits are exactly hidden @ output_embedding.T: for them only the columns read are computed.
# Others scale or cap their logits (Gemma 2, Granite, Cohere), so their own head is asked.
_PLAIN_HEADS = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3", "phi3", "gemma"})

# Attention whose keys and values at one position depend on the tokens up to there and on nothing else.
_REUSABLE = frozenset({"full_attention", "sliding_attention", "chunked_attention"})


class GenericEngine:
    """Runs a model as it is. Rows are padded to rectangles.

    Attributes:
        reuses: whether rows start from kept prefixes; a model with recurrent state cannot.
        row_tokens: the longest row that the model's frequencies, which are pinned here, are right for.
    """

    name = "generic"

    def __init__(self, model: Any, *, reuses: bool = True, pad_id: int = 0) -> None:
        kinds = set(getattr(model.config, "layer_types", None) or ())
        self.reuses = reuses and kinds <= _REUSABLE
        self.model = model
        self.row_tokens = pin_frequencies(model)
        self.pad_id = pad_id
        self.plain_head = model.config.model_type in _PLAIN_HEADS and model.get_output_embeddings().bias is None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.get_input_embeddings().weight.device

    def open(self, prompts: Sequence[Ids], prefixes: Sequence[Prefix], *, room: int = 0) -> GenericRows:
        """Open a batch; see ``Engine.open``."""
        return GenericRows(self, prompts, prefixes, grows=room > 0)

    def forward(self, final: Tensor | None, **inputs: Any) -> Tensor:
        """Return the states (B, d) behind the logits at ``final`` (B,), or at the end; else logits (B, V)."""
        if self.plain_head:
            hidden = self.model.get_decoder()(**inputs).last_hidden_state  # (B, T, d)
            return hidden[:, -1] if final is None else hidden[torch.arange(len(final), device=final.device), final]
        if final is None:
            return self.model(**inputs, logits_to_keep=1).logits[:, -1]
        keep, where = torch.unique(final, return_inverse=True)
        logits = self.model(**inputs, logits_to_keep=keep).logits  # (B, U, V)
        return logits[torch.arange(len(final), device=final.device), where]

    def head(self, states: Tensor, columns: Tensor | slice) -> Tensor:
        """Return logits (B, K) of some vocabulary columns from what ``forward`` returned, in float32."""
        if not self.plain_head:
            return states[:, columns].float()
        weight = self.model.get_output_embeddings().weight  # (V, d)
        return torch.nn.functional.linear(states, weight[columns]).float()


class GenericRows:
    """See ``Rows``.

    Two layouts. Rows that start from nothing and will not grow are padded on the right: under a causal mask no real
    token can see a padded one. All others end at the same column, padded on the left, behind the kept keys and values;
    a row whose rest is shorter than the longest rest runs some kept tokens again, where it would else be padded.
    """

    def __init__(
        self, engine: GenericEngine, prompts: Sequence[Ids], prefixes: Sequence[Prefix], *, grows: bool
    ) -> None:
        self._engine = engine
        self._lengths = [len(prompt) for prompt in prompts]
        rest = max(len(prompt) - prefix.length for prompt, prefix in zip(prompts, prefixes, strict=True))
        self._right_padded = not grows and not any(prefix.length for prefix in prefixes)
        kept = [max(0, length - rest) for length in self._lengths]
        # Layers that slide or carry a state need a cache of their own kind where rows are not given away.
        self._cache: Any = DynamicCache() if engine.reuses else DynamicCache(config=engine.model.config)
        width = max(kept)
        ids = torch.full((len(prompts), rest), engine.pad_id, dtype=torch.long)  # (B, T)
        mask = torch.zeros((len(prompts), width + rest), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            tail = prompt[kept[row] :]
            at = slice(0, len(tail)) if self._right_padded else slice(rest - len(tail), rest)
            ids[row, at] = torch.tensor(tail)
            mask[row, width + rest - len(prompt) :] = 1
        self._ids = ids.to(engine.device)
        self._mask = mask.to(engine.device)
        self._done = 0  # columns of ids that were run
        self._states: Tensor | None = None
        if width:
            self._load(prefixes, kept, width)

    def prefill(self, most_tokens: int | None = None) -> bool:
        """Run prompt tokens; see ``Rows``."""
        left = self._ids.shape[1] - self._done
        columns = left if most_tokens is None else min(left, max(1, most_tokens // len(self._ids)))
        if self._right_padded:
            last = torch.tensor(self._lengths, device=self._ids.device) - 1  # (B,)
            self._states = self._engine.forward(last, input_ids=self._ids, **self._caching())
            self._done = self._ids.shape[1]
            return True
        self._run(self._ids[:, self._done : self._done + columns])
        return self._done == self._ids.shape[1]

    def advance(self, next_ids: Sequence[int]) -> None:
        """Append one token to every row and run it."""
        column = torch.tensor(next_ids, device=self._ids.device)[:, None]  # (B, 1)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(column), 1)], dim=1)
        self._lengths = [length + 1 for length in self._lengths]
        self._run(column)

    def logits(self, columns: Tensor | slice) -> Tensor:
        """Return next-token logits (B, K)."""
        if self._states is None:
            raise RuntimeError("the prompts have not been run")
        return self._engine.head(self._states, columns)

    def select(self, keep: Sequence[int]) -> list[int]:
        """Keep some rows, in their order."""
        index = torch.tensor(keep, device=self._ids.device)
        self._lengths = [self._lengths[row] for row in keep]
        self._ids, self._mask = self._ids[index], self._mask[index]
        self._states = None if self._states is None else self._states[index]
        if self._cache.get_seq_length() > 0:
            self._cache.batch_select_indices(index)
        return list(keep)

    def segment(self, row: int, start: int) -> Tensor | None:
        """Return a copy of a row's keys and values from ``start``."""
        if not self._engine.reuses:
            return None
        layers = self._cache.layers
        first = start if self._right_padded else layers[0].keys.shape[2] - self._lengths[row] + start
        stop = first + self._lengths[row] - start
        pairs = [torch.stack([layer.keys[row, :, first:stop], layer.values[row, :, first:stop]]) for layer in layers]
        return torch.stack(pairs).transpose(2, 3).contiguous()  # (layers, 2, n, kv heads, D)

    def _load(self, prefixes: Sequence[Prefix], kept: Sequence[int], width: int) -> None:
        """Put kept keys and values into the cache, right-aligned at column ``width``."""
        some = next(segment for prefix in prefixes for segment in prefix.segments)
        layers, _, _, heads, size = some.shape
        kv = some.new_zeros(layers, 2, len(prefixes), width, heads, size)
        for row, prefix in enumerate(prefixes):
            at = width - kept[row]
            for segment in prefix.segments:
                n = min(segment.shape[2], width - at)
                kv[:, :, row, at : at + n] = segment[:, :, :n]
                at += n
        kv = kv.transpose(3, 4)  # (layers, 2, B, kv heads, width, D)
        for layer in range(layers):
            self._cache.update(kv[layer, 0], kv[layer, 1], layer)

    def _run(self, ids: Tensor) -> None:
        seen = self._cache.get_seq_length() + ids.shape[1]
        mask = self._mask[:, :seen]
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]  # (B, T)
        self._done += ids.shape[1]
        self._states = self._engine.forward(
            None,
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )

    def _caching(self) -> dict[str, Any]:
        return {"past_key_values": self._cache, "use_cache": True} if self._engine.reuses else {"use_cache": False}

"""Turn a trained adapter up or down until a model refuses the wanted share of requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from guardrail_plugin.core.refusal import is_refusal
from guardrail_plugin.dro.config import Sampling
from guardrail_plugin.dro.sample import Sampler
from guardrail_plugin.models.chat_template import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Dial:
    """Scales a trained adapter, and measures how often the model then refuses held-out requests.

    Args:
        peft: with a trained adapter, at full strength.
        rows: held-out conversations, harmful and harmless ones.
        seed: of the sampled responses, two per conversation.
    """

    def __init__(
        self, peft: Any, tokenizer: PreTrainedTokenizerBase, rows: Mapping[bool, Sequence[Row]], *, seed: int
    ) -> None:
        self._ups = [parameter for name, parameter in peft.named_parameters() if "lora_B" in name]
        self._trained = [up.detach().clone() for up in self._ups]
        sampling = Sampling(samples=2, max_new_tokens=12, rows=48, seed=seed)
        self._sampler = Sampler(peft.get_base_model(), tokenizer, sampling=sampling)
        self._rows = rows

    def turn(self, *, share: float, tries: int) -> tuple[float, dict[float, float]]:
        """Bisect the scale in 0..1 towards a share of refused harmful requests; stay at the best one tried.

        Returns the scale, and the share at every scale tried.
        """
        seen: dict[float, float] = {}
        low, high = 0.0, 1.0
        scale = 1.0
        for _ in range(tries):
            self._set(scale)
            seen[scale] = self.refused(harmful=True)
            if seen[scale] > share:
                high = scale
            else:
                low = scale
            scale = (low + high) / 2
        best = min(seen, key=lambda one: abs(seen[one] - share))
        self._set(best)
        return best, seen

    def refused(self, *, harmful: bool) -> float:
        """Return the share of sampled responses to held-out requests that refuse."""
        texts = [text for texts in self._sampler.responses(self._rows[harmful]) for text in texts]
        return sum(map(is_refusal, texts)) / max(1, len(texts))

    @torch.no_grad()
    def _set(self, scale: float) -> None:
        for up, trained in zip(self._ups, self._trained, strict=True):
            up.copy_(trained * scale)

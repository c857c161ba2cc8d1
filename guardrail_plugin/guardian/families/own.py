"""The library's own format (``guardian/format.py``) as a family."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.verdict import RAILS, Rail
from guardrail_plugin.guardian.families.labels import singles
from guardrail_plugin.guardian.families.protocol import Pass, Reading, Window
from guardrail_plugin.guardian.format import Layout, prompt
from guardrail_plugin.guardian.tokenizer import ContentTokenizer


class OwnFamily:
    """Label tokens of our own, added to the vocabulary: one pass gives the risk and names the hazard."""

    name = "guardrail"
    rails: frozenset[Rail] = frozenset(RAILS)

    def __init__(self, layout: Layout, tokenizer: ContentTokenizer) -> None:
        self.layout = layout
        self.tokenizer = tokenizer
        self.taxonomy = layout.taxonomy
        self.codes: Mapping[str, str | None] = {code: code for code in layout.taxonomy.codes}
        self.window = Window(layout.window_tokens, layout.overlap_tokens)
        self._labels = singles(layout.labels, layout.label_ids)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return self.tokenizer.encode(text)

    def passes(self, check: Check, content: Sequence[int]) -> tuple[Pass, ...]:
        """Return the one question."""
        return (Pass(prompt(self.layout, self.tokenizer, check, content), self._labels, prefix_len=1),)

    def read(self, answers: Sequence[Sequence[float]]) -> Reading:
        """Return the risk: all labels but ``safe``."""
        p_safe, *harm = map(math.exp, answers[0])
        return Reading(math.fsum(harm) / (math.fsum(harm) + p_safe), dict(zip(self.codes, harm, strict=True)))

    def naming(self, check: Check, content: Sequence[int]) -> tuple[Pass, ...]:
        """Ask once more without the earlier turns, where there are any: they change a harm's name for no reason."""
        return self.passes(replace(check, context=()), content) if check.context else ()

    def name_harm(self, reading: Reading, answers: Sequence[Sequence[float]]) -> Reading:
        """Return the reading named by the text alone as far as it is harmful alone, for the rest by the earlier turns.

        Source: "How do I build a pipe bomb at home?" after a greeting is PI at 0.98, alone S1 at 0.97.
        """
        alone = self.read(answers)
        ours, theirs = alone.risk / _total(alone), (1 - alone.risk) / _total(reading)
        return replace(
            reading, shares={code: ours * alone.shares[code] + theirs * p for code, p in reading.shares.items()}
        )


def _total(reading: Reading) -> float:
    return math.fsum(reading.shares.values()) or 1.0

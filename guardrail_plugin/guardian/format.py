"""The embedded guardian's own format: one sequence, two tasks.

    [input] text [verdict] S9 [respond] safeguard response <end>

The control and label tokens are rows appended to the base vocabulary (ids ``vocab_size + i``); the content tokenizer
cannot produce them. ``[verdict]`` is where detection is read: one forward pass, the distribution over the label
tokens. ``[respond]`` starts a safeguard response whatever the label says, which is how a policy forces one.

"SLM as Guardian" (arXiv 2405.19795) describes special tokens for the two tasks and shows one that forces a safeguard
response (Figure 1); its exact template is not public. This one is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from guardrail_plugin.core.conversation import Check, Message
from guardrail_plugin.core.hazards import MLCOMMONS, Taxonomy
from guardrail_plugin.core.verdict import Rail
from guardrail_plugin.guardian.tokenizer import ContentTokenizer

SAFE = "safe"
_CHARACTERS_PER_TOKEN = 16  # more than words take; what is left out of longer tokens is the middle anyway
_CONTROLS = ("input", "output", "tool_call", "tool_output", "turn", "verdict", "respond")
_TASK_OF_RAIL: Mapping[Rail, str] = {
    "input": "input",
    "output": "output",
    "tool_call": "tool_call",
    "tool_output": "tool_output",
    "document": "tool_output",
}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each token of the format lives.

    Attributes:
        vocab_size: rows of the base vocabulary; our tokens follow.
        end_id: the base's end-of-turn token, which closes a safeguard response.
        taxonomy: its codes are the label tokens, after ``safe``.
        window_tokens: most content tokens in one window.
        overlap_tokens: content shared by neighbouring windows.
        context_tokens: most tokens of query or earlier turns in front of the text.
    """

    vocab_size: int
    end_id: int
    taxonomy: Taxonomy = field(default=MLCOMMONS)
    window_tokens: int = 384
    overlap_tokens: int = 64
    context_tokens: int = 128

    @property
    def token_names(self) -> tuple[str, ...]:
        """Names of the added tokens in id order."""
        return (*_CONTROLS, SAFE, *self.taxonomy.codes)

    def control(self, name: str) -> int:
        """Return the id of a control token."""
        return self.vocab_size + _CONTROLS.index(name)

    def label(self, code: str) -> int:
        """Return the id of a label token (``safe`` or a hazard code)."""
        return self.vocab_size + len(_CONTROLS) + self.labels.index(code)

    @property
    def labels(self) -> tuple[str, ...]:
        """``safe`` and the hazard codes, in the order of ``label_ids``."""
        return (SAFE, *self.taxonomy.codes)

    @property
    def label_ids(self) -> tuple[int, ...]:
        """Ids of the label tokens."""
        first = self.vocab_size + len(_CONTROLS)
        return tuple(range(first, first + 1 + len(self.taxonomy)))


def windows(ids: Sequence[int], *, size: int, overlap: int, limit: int) -> tuple[list[Sequence[int]], bool]:
    """Cut ids into overlapping windows of at most ``size``; return them and whether some were left out.

    Past ``limit`` windows the first, the last and evenly spaced ones between are kept, and the answer says so.
    """
    if len(ids) <= size:
        return [ids], False
    step = size - overlap
    starts = list(range(0, len(ids) - overlap, step))
    truncated = len(starts) > limit
    if truncated:
        starts = [starts[round(i * (len(starts) - 1) / max(limit - 1, 1))] for i in range(limit)]
    return [ids[start : start + size] for start in starts], truncated


def prompt(layout: Layout, tokenizer: ContentTokenizer, check: Check, content: Sequence[int]) -> tuple[int, ...]:
    """Return the ids of one window up to and with ``[verdict]``: (L,)."""
    task = layout.control(_TASK_OF_RAIL[check.rail])
    before = _before(layout, tokenizer, check)
    return (task, *before, *content, layout.control("verdict"))


def response_prompt(verdict_prompt: Sequence[int], layout: Layout, label: str) -> tuple[int, ...]:
    """Return the ids after which the model writes a safeguard response for ``label``."""
    return (*verdict_prompt, layout.label(label), layout.control("respond"))


def _before(layout: Layout, tokenizer: ContentTokenizer, check: Check) -> list[int]:
    turn = layout.control("turn")
    if check.query is None:
        return _context(layout, tokenizer, check.context, room=layout.context_tokens)
    # Without earlier turns this is the trained prompt to the letter; with them the query has the first claim.
    query = [*encoded_ends(tokenizer.encode, check.query, layout.context_tokens), turn]
    return [*_context(layout, tokenizer, check.context, room=layout.context_tokens - len(query)), *query]


def _context(layout: Layout, tokenizer: ContentTokenizer, turns: Sequence[Message], *, room: int) -> list[int]:
    """Newest turns first until the budget is spent; each at most half of it, so that one cannot push out the rest."""
    turn = layout.control("turn")
    kept: list[list[int]] = []
    for message in reversed(turns):
        ids = encoded_ends(tokenizer.encode, message.text, layout.context_tokens // 2)
        if len(ids) + 1 > room:
            break
        room -= len(ids) + 1
        kept.append([*ids, turn])
    return [i for ids in reversed(kept) for i in ids]


def encoded_ends(encode: Callable[[str], list[int]], text: str, most: int, *, seam: Sequence[int] = ()) -> list[int]:
    """Return the ids of a text cut to ``most`` as ``ends`` cuts them. Of a long text only the ends are tokenised:
    it stands in front of every window, and is none of them.
    """
    reach = _CHARACTERS_PER_TOKEN * most
    if len(text) <= 2 * reach:
        return ends(encode(text), most, seam=seam)
    return _joined(encode(text[:reach]), encode(text[-reach:]), most, seam)


def ends(ids: Sequence[int], most: int, *, seam: Sequence[int] = ()) -> list[int]:
    """Return ids cut to ``most`` by leaving out the middle: what matters in a query stands at its ends.

    ``seam`` takes the middle's place, so that head and tail cannot make a marker together. Where no text is one, as in
    the own format, whose controls are ids that content never has, there need be none.
    """
    return list(ids) if len(ids) <= most else _joined(ids, ids, most, seam)


def _joined(first: Sequence[int], last: Sequence[int], most: int, seam: Sequence[int]) -> list[int]:
    head = most // 2
    tail = max(0, most - head - len(seam))
    return [*first[:head], *seam, *last[max(0, len(last) - tail) :]]

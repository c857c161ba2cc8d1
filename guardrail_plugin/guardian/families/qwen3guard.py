"""Qwen3Guard-Gen: ``Safety: Safe | Unsafe | Controversial``, then ``Categories:``.

Source: Qwen3Guard technical report (figures 10, 11) and the checkpoints' chat template.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.guardian.families.frame import Frame, compile_frame, render, slot
from guardrail_plugin.guardian.families.prompted import PromptedFamily
from guardrail_plugin.guardian.families.protocol import FamilyKind, Kit, Pass, Reading
from guardrail_plugin.guardian.families.turns import Conversation

_STRICT = 1.0
_CODES: Mapping[str, str | None] = {
    "Violent": "S1",
    "Non-violent Illegal Acts": "S2",
    "Sexual Content or Sexual Acts": "S12",
    "PII": "S7",
    "Suicide & Self-Harm": "S11",
    "Unethical Acts": "S10",  # the report's definition: bias, discrimination, stereotype, hate, insult, threat
    "Politically Sensitive Topics": None,
    "Copyright Violation": "S8",
    "Jailbreak": "PI",
}
_INPUT_ONLY = "Jailbreak"
_SUBJECT = {"user": ("USER", "query"), "assistant": ("ASSISTANT", "response")}
_CONTROVERSIAL = {
    "user": "does not explicitly contain prohibited content, but its intent, context, or potential responses could be "
    "misinterpreted, misused, or exploited to generate unsafe content under certain conditions.",
    "assistant": "is not explicitly harmful, but could become risky or offensive depending on context or audience.",
}
_THOUGHT = "<think>\n\n</think>\n\n"


class Qwen3Guard(PromptedFamily):
    """Risk = P(Unsafe) + strictness * P(Controversial), read after ``Safety:``.

    Strictness is 1 by default: what the report calls strict mode. 0 is its loose mode. The report's own F1 on ToxicChat
    moves from 65 to 78 between the two, so measure which suits the traffic.
    """

    name = "qwen3guard"
    rails = frozenset({"input", "output", "tool_call"})
    codes = _CODES
    markers: ClassVar[tuple[str, ...]] = (
        "<BEGIN SAFETY POLICY>", "<END SAFETY POLICY>", "<BEGIN UNSAFE CONTENT CATEGORIES>",
        "<END UNSAFE CONTENT CATEGORIES>", "<BEGIN REFUSAL POLICY>", "<END REFUSAL POLICY>",
        "<BEGIN CONVERSATION>", "<END CONVERSATION>", "<think>", "</think>",
    )  # fmt: skip
    speakers: ClassVar[tuple[str, ...]] = ("USER", "ASSISTANT", "Safety", "Categories", "Refusal")
    takes: ClassVar[frozenset[str]] = frozenset({"strictness"})

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        strictness = kit.options.strictness
        self.strictness = _STRICT if strictness is None else strictness
        if not 0.0 <= self.strictness <= 1.0:
            raise ConfigError(f"strictness is a weight from 0 (loose) to 1 (strict), got {strictness!r}")
        self._verdict = self.words({word: [f" {word}"] for word in ("Safe", "Unsafe", "Controversial")})
        line_ends = [i for ids in map(kit.tokenizer.label, (",", "\n")) if len(ids) == 1 for i in ids]
        self._category = self.words({name: [f" {name}"] for name in _CODES}, ends=[kit.tokenizer.end, *line_ends])

    def make_frame(self, conversation: Conversation, topic: str) -> Frame:
        """Return the frame up to and with ``Safety:``."""
        if self.template is not None:
            text, _ = render(self.template, conversation.roles, conversation.names, family=self.name)
        else:
            text = self._text(conversation)
        if not text.rstrip().endswith("</think>"):
            text += _THOUGHT  # the verdict comes after a thought that is left empty
        return compile_frame(
            f"{text}Safety:",
            self.tokenizer,
            family=self.name,
            slots=conversation.names,
            shows=_categories(conversation),
            between=("<BEGIN CONVERSATION>", "<END CONVERSATION>"),
        )

    def passes(self, check: Check, content: Sequence[int]) -> tuple[Pass, ...]:
        """Ask for the verdict."""
        return (self.ask(check, content, self._verdict),)

    def read(self, answers: Sequence[Sequence[float]]) -> Reading:
        """Return the risk."""
        _, unsafe, controversial = map(math.exp, answers[0])
        return Reading(min(1.0, unsafe + self.strictness * controversial))

    def naming(self, check: Check, content: Sequence[int]) -> tuple[Pass, ...]:
        """Ask for the first category, as if the verdict had been ``Unsafe``."""
        after = self.tokenizer.template(" Unsafe\nCategories:")
        return (self.ask(check, content, self._verdict).then(after, self._category),)

    def name_harm(self, reading: Reading, answers: Sequence[Sequence[float]]) -> Reading:
        """Return the reading with the categories' probabilities."""
        return Reading(reading.risk, dict(zip(_CODES, map(math.exp, answers[0]), strict=True)))

    def _text(self, conversation: Conversation) -> str:
        judged = conversation.roles[-1]
        who, what = _SUBJECT[judged]
        answering = judged == "assistant"
        turns = "\n\n".join(
            f"{_SUBJECT[role][0]}: {slot(name)}"
            for role, name in zip(conversation.roles, conversation.names, strict=True)
        )
        categories = "".join(f"{name}.\n" for name in _categories(conversation))
        refusal_task = f"3) Determine if THE LAST {who}'s {what} is a refusal to the USER's query.\n" * answering
        refusal_policy = (
            "<BEGIN REFUSAL POLICY>\n"
            "**Refusal: Yes**: The ASSISTANT refused to answer or did not comply with the USER's request.\n"
            "**Refusal: No**: The ASSISTANT directly answered or complied with the USER's request.\n"
            "<END REFUSAL POLICY>\n\n"
        ) * answering
        refusal_line = "\n - The third line must be one of: 'Refusal: Yes', 'Refusal: No'." * answering
        return (
            "<|im_start|>user\n# Task:\n"
            f"1) Evaluate whether THE LAST {who}'s {what} belongs to safe or unsafe content based on our safety "
            "policy.\n2) Identify the category of unsafe content found.\n"
            f"{refusal_task}\n<BEGIN SAFETY POLICY>\n"
            f"**Safety: Safe**: The {who}'s {what} does not contain any prohibited content or content that could lead "
            f"to prohibited content.\n**Safety: Unsafe**: The {who}'s {what} contains prohibited content.\n"
            f"**Safety: Controversial**: The {who}'s {what} {_CONTROVERSIAL[judged]}\n<END SAFETY POLICY>\n\n"
            f"<BEGIN UNSAFE CONTENT CATEGORIES>\n{categories}<END UNSAFE CONTENT CATEGORIES>\n\n{refusal_policy}"
            f"<BEGIN CONVERSATION>\n\n{turns}\n\n<END CONVERSATION>\n\n"
            f"Provide your safety assessment for ONLY THE LAST **{who}'s {what}** in the above conversation:\n"
            " - The first line must be one of: 'Safety: Safe', 'Safety: Unsafe', 'Safety: Controversial'.\n"
            " - The second line should start with 'Categories:' followed by a list of any unsafe content categories, "
            f"separated by commas. If the content is safe, use 'Categories: None'.{refusal_line}"
            f"<|im_end|>\n<|im_start|>assistant\n{_THOUGHT}"
        )


def _categories(conversation: Conversation) -> list[str]:
    return [name for name in _CODES if name != _INPUT_ONLY or conversation.roles[-1] == "user"]


QWEN3GUARD = FamilyKind(
    name="qwen3guard",
    recognises=lambda checkpoint: "qwen3guard-gen" in checkpoint.label or checkpoint.label == "qwen3guard",
    build=Qwen3Guard,
)

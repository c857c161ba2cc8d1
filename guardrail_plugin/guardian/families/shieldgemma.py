"""ShieldGemma: one ``Yes`` or ``No`` per guideline.

Source: ShieldGemma model card (ai.google.dev) and arXiv 2407.21772. The guidelines are the card's, word for word: the
model was tuned to them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.guardian.families.frame import Frame, compile_frame, slot
from guardrail_plugin.guardian.families.prompted import PromptedFamily, chosen
from guardrail_plugin.guardian.families.protocol import FamilyKind, Kit, Pass, Reading
from guardrail_plugin.guardian.families.turns import Conversation

_CODES: Mapping[str, str | None] = {
    "Dangerous Content": "S1",
    "Harassment": "S10",
    "Hate Speech": "S10",
    "Sexually Explicit Information": "S12",
}
_FORBIDDEN = {
    "Dangerous Content": "harming oneself and/or others (e.g., accessing or building firearms and explosive devices, "
    "promotion of terrorism, instructions for suicide).",
    "Harassment": "is malicious, intimidating, bullying, or abusive content targeting another individual (e.g., "
    "physical threats, denial of tragic events, disparaging victims of violence).",
    "Hate Speech": "targeting identity and/or protected attributes (e.g., racial slurs, promotion of discrimination, "
    "calls to violence against protected groups) or dehumanizing/belittling/vilifying on the bases of race, ethnicity, "
    "religion, disability, age, nationality, veteran status, sexual orientation, gender, gender identity, caste, or "
    "any other protected status. We do allow content that includes a reference to a protected individual or group in "
    "a positive manner.",
    "Sexually Explicit Information": "contains references to sexual acts or other lewd content (e.g., sexually graphic "
    "descriptions, content aimed at causing arousal). Medical or scientific terms related to human anatomy or sex "
    "education are permitted.",
}


class ShieldGemma(PromptedFamily):
    """Risk per guideline = softmax over the logits of {Yes, No}; the risk is that of the worst guideline."""

    name = "shieldgemma"
    markers: ClassVar[tuple[str, ...]] = ("<start_of_turn>", "<end_of_turn>")
    speakers: ClassVar[tuple[str, ...]] = ("Human Question", "Chatbot Response")
    takes: ClassVar[frozenset[str]] = frozenset({"hazards"})

    def __init__(self, kit: Kit) -> None:
        by_code: dict[str, list[str]] = {}
        for native, code in _CODES.items():
            by_code.setdefault(str(code), []).append(native)
        wanted = chosen(self.name, kit.options.hazards, by_code)
        self.codes = {native: code for native, code in _CODES.items() if code in wanted}
        super().__init__(kit)
        self._labels = self.words({"Yes": ["Yes"], "No": ["No"]})

    def make_frame(self, conversation: Conversation, topic: str) -> Frame:
        """Return the frame for one guideline."""
        guideline = topic or next(iter(self.codes))
        return compile_frame(
            _text(conversation, guideline),
            self.tokenizer,
            family=self.name,
            slots=conversation.names[-2:],
            shows=[f"No {guideline}"],
            between=("<start_of_turn>", "<end_of_turn>"),
        )

    def passes(self, check: Check, content: Sequence[int]) -> tuple[Pass, ...]:
        """Ask once per guideline; what stands before the guideline is computed once."""
        alone = Check(check.text, rail=check.rail, query=check.query)
        return tuple(self.ask(alone, content, self._labels, topic=name, share_text=True) for name in self.codes)

    def read(self, answers: Sequence[Sequence[float]]) -> Reading:
        """Return the highest risk, and each guideline's own."""
        risks = {name: math.exp(answer[0]) for name, answer in zip(self.codes, answers, strict=True)}
        return Reading(max(risks.values()), risks, independent=True)


def _text(conversation: Conversation, guideline: str) -> str:
    answering = conversation.roles[-1] == "assistant"
    subject = "an AI response to prompt" if answering else "a user prompt"
    sentence = (
        "The chatbot shall not generate content that"
        if answering
        else ("The prompt shall not contain or seek generation of content that")
    )
    names = conversation.names
    question = f"<start_of_turn>\nHuman Question: {slot(names[0])}\n<end_of_turn>\n\n"
    response = f"<start_of_turn>\nChatbot Response: {slot(names[-1])}\n<end_of_turn>\n\n" * answering
    judged = "Chatbot Response" if answering else "human question"
    return (
        f"You are a policy expert trying to help determine whether {subject} is in violation of the defined safety "
        f"policies.\n\n{question}{response}Our safety principle is defined in the below:\n\n"
        f'* "No {guideline}": {sentence} {_FORBIDDEN[guideline]}\n\n===\n\n'
        f"Does the {judged} violate the above principle? Your answer must start with 'Yes' or 'No'. And then walk "
        "through step by step to be sure we answer correctly.\n"
    )


SHIELDGEMMA = FamilyKind(
    name="shieldgemma",
    # ``shieldgemma-2b``, ``-9b``, ``-27b``; ``shieldgemma-2-4b-it`` judges images.
    recognises=lambda checkpoint: re.match(r"shieldgemma-\d+b", checkpoint.label) is not None,
    build=ShieldGemma,
)

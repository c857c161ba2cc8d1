"""Llama Guard 2, 3 (1B, 8B) and 4: ``safe`` or ``unsafe`` after the header, then the violated categories' codes.

Source: Meta's model cards and prompt format pages. Codes are matched, never names: templates spell several hazards in
other words (``Sex Crimes``), and Llama Guard 2 numbers them differently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.guardian.families.frame import Frame, compile_frame, render, slot
from guardrail_plugin.guardian.families.labels import LabelSet
from guardrail_plugin.guardian.families.prompted import PromptedFamily, chosen
from guardrail_plugin.guardian.families.protocol import Checkpoint, Family, FamilyKind, Kit, Pass, Reading
from guardrail_plugin.guardian.families.turns import Conversation

# The names as the published templates spell them.
_NAMES_3 = (
    "Violent Crimes", "Non-Violent Crimes", "Sex Crimes", "Child Exploitation", "Defamation", "Specialized Advice",
    "Privacy", "Intellectual Property", "Indiscriminate Weapons", "Hate", "Self-Harm", "Sexual Content", "Elections",
    "Code Interpreter Abuse",
)  # fmt: skip
_NAMES_2 = (
    "Violent Crimes", "Non-Violent Crimes", "Sex-Related Crimes", "Child Sexual Exploitation", "Specialized Advice",
    "Privacy", "Intellectual Property", "Indiscriminate Weapons", "Hate", "Suicide & Self-Harm", "Sexual Content",
)  # fmt: skip
_CODES_3 = {f"S{i}": f"S{i}" for i in range(1, 15)}
# Version 2 lacks defamation, so that everything after S4 is one number lower.
_CODES_2 = {f"S{i}": f"S{i if i < 5 else i + 1}" for i in range(1, 12)}
_ROLES = {"user": "User", "assistant": "Agent"}
_HEADERS = {
    "llama-guard-2": ("<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>"),
    "llama-guard-3": ("<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>"),
    "llama-guard-4": ("<|header_start|>{}<|header_end|>\n\n", "<|eot|>"),
}


class LlamaGuard(PromptedFamily):
    """Risk = P(``unsafe``) over {safe, unsafe}; a second question after ``unsafe`` names the category."""

    rails = frozenset({"input", "output", "tool_call"})
    markers: ClassVar[tuple[str, ...]] = (
        "<BEGIN UNSAFE CONTENT CATEGORIES>", "<END UNSAFE CONTENT CATEGORIES>",
        "<BEGIN CONVERSATION>", "<END CONVERSATION>",
    )  # fmt: skip
    speakers: ClassVar[tuple[str, ...]] = ("User", "Agent")
    takes: ClassVar[frozenset[str]] = frozenset({"hazards"})

    def __init__(self, kit: Kit, name: str) -> None:
        self.name = name
        two = name == "llama-guard-2"
        codes: Mapping[str, str] = _CODES_2 if two else _CODES_3
        if "1b" in kit.checkpoint.label:
            codes = {native: code for native, code in codes.items() if code != "S14"}  # "not optimised for S14"
        covered = {code: native for native, code in codes.items()}
        wanted = chosen(name, kit.options.hazards, covered)
        self._natives = [covered[code] for code in wanted]
        self._names = dict(zip(codes, _NAMES_2 if two else _NAMES_3, strict=False))
        self.codes = {native: codes[native] for native in self._natives}
        # The published templates of most versions cannot take another list of categories.
        self._own_text = kit.options.hazards is not None or kit.template is None
        super().__init__(kit)
        self._verdict = self.words({"safe": ["safe"], "unsafe": ["unsafe"]})
        self._category = _numbers(self, self._natives) if len(self._natives) > 1 else None

    def make_frame(self, conversation: Conversation, topic: str) -> Frame:
        """Return the frame: the checkpoint's own template, or the published text where it has none."""
        if self._own_text or self.template is None:
            text = self._text(conversation)
        else:
            text, _ = render(self.template, conversation.roles, conversation.names, family=self.name)
            if not text.endswith("\n"):
                text += "\n\n"  # the 8B's template ends at the header; the model's first token would be the blank line
        return compile_frame(
            text,
            self.tokenizer,
            family=self.name,
            slots=conversation.names,
            shows=[f"{native}:" for native in self._natives],
            between=("<BEGIN CONVERSATION>", "<END CONVERSATION>"),
        )

    def passes(self, check: Check, content: Sequence[int]) -> tuple[Pass, ...]:
        """Ask for the verdict."""
        return (self.ask(check, content, self._verdict),)

    def read(self, answers: Sequence[Sequence[float]]) -> Reading:
        """Return P(unsafe)."""
        shares = {} if self._category is not None else {self._natives[0]: 1.0}
        return Reading(math.exp(answers[0][1]), shares)

    def naming(self, check: Check, content: Sequence[int]) -> tuple[Pass, ...]:
        """Ask for the first violated category, as if the verdict had been ``unsafe``."""
        if self._category is None:
            return ()
        return (self.ask(check, content, self._verdict).then(self.tokenizer.template("unsafe\nS"), self._category),)

    def name_harm(self, reading: Reading, answers: Sequence[Sequence[float]]) -> Reading:
        """Return the reading with the categories' probabilities."""
        return Reading(reading.risk, dict(zip(self._natives, map(math.exp, answers[0]), strict=True)))

    def _text(self, conversation: Conversation) -> str:
        header, end = _HEADERS[self.name]
        role = _ROLES[conversation.roles[-1]]
        categories = "".join(f"{native}: {self._names[native]}.\n" for native in self._natives)
        turns = "".join(
            f"{_ROLES[who]}: {slot(name)}\n\n" for who, name in zip(conversation.roles, conversation.names, strict=True)
        )
        return (
            f"{header.format('user')}Task: Check if there is unsafe content in '{role}' messages in conversations "
            "according our safety policy with the below categories.\n\n"
            f"<BEGIN UNSAFE CONTENT CATEGORIES>\n{categories}<END UNSAFE CONTENT CATEGORIES>\n\n"
            f"<BEGIN CONVERSATION>\n\n{turns}<END CONVERSATION>\n\n"
            f"Provide your safety assessment for ONLY THE LAST {role} message in the above conversation:\n"
            " - First line must read 'safe' or 'unsafe'.\n"
            " - If unsafe, a second line must include a comma-separated list of violated categories."
            f"{end}{header.format('assistant')}"
        )


def _numbers(family: LlamaGuard, natives: Sequence[str]) -> LabelSet:
    """Return the categories by their numbers; a number that begins another is told apart by what ends it."""
    tokenizer = family.tokenizer
    ends = [tokenizer.end, *(ids[0] for ids in (tokenizer.label(","), tokenizer.label("\n")) if len(ids) == 1)]
    return LabelSet({native: [tokenizer.label(native[1:])] for native in natives}, ends=ends)


def _kind(name: str) -> FamilyKind:
    def recognises(checkpoint: Checkpoint) -> bool:
        label = checkpoint.label.replace("_", "-").replace("meta-", "")
        return label.startswith((name, name.replace("guard-", "guard")))

    def build(kit: Kit) -> Family:
        return LlamaGuard(kit, name)

    return FamilyKind(name=name, recognises=recognises, build=build)


LLAMA_GUARDS = tuple(_kind(name) for name in _HEADERS)

"""Granite Guardian 3.x: ``Yes`` or ``No`` about one risk, asked through the checkpoint's own template.

Source: IBM's cookbooks and the checkpoints' chat templates. Templates and definitions differ between versions, so there
is no built-in text: without its template the family refuses to start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.guardian.families.frame import Frame, compile_frame, render
from guardrail_plugin.guardian.families.prompted import PromptedFamily, chosen
from guardrail_plugin.guardian.families.protocol import FamilyKind, Kit, Pass, Reading
from guardrail_plugin.guardian.families.turns import Conversation

_UMBRELLA = "harm"
_NAMED: Mapping[str, str | None] = {
    "violence": "S1",
    "unethical_behavior": "S2",
    "social_bias": "S10",
    "sexual_content": "S12",
    "profanity": None,
}
_JAILBREAK = "jailbreak"
_YES = ("Yes", " Yes", "yes", " yes", "YES", " YES")
_NO = ("No", " No", "no", " no", "NO", " NO")


class GraniteGuardian(PromptedFamily):
    """Risk = P(yes) / (P(yes) + P(no)), each summed over its spellings.

    By default the one risk ``harm`` decides and the others only name what was found. With ``hazards`` there is one
    question per hazard, and the worst decides; ``PI`` asks about ``jailbreak``.
    """

    name = "granite-guardian"
    markers: ClassVar[tuple[str, ...]] = (
        "<start_of_turn>", "<end_of_turn>", "<start_of_conversation>", "<end_of_conversation>",
        "<start_of_risk_definition>", "<end_of_risk_definition>", "<guardian>", "<score>", "</score>", "<think>",
        "</think>",
    )  # fmt: skip
    speakers: ClassVar[tuple[str, ...]] = ("User Message", "Assistant Message", "### Criteria", "### Scoring Schema")
    takes: ClassVar[frozenset[str]] = frozenset({"hazards"})

    def __init__(self, kit: Kit) -> None:
        if kit.template is None:
            raise ConfigError(
                f"{self.name} needs the checkpoint's own chat template (it differs between versions); give base=FOLDER"
            )
        self._scores = "criteria_id" in kit.checkpoint.template
        native_of = {str(code): native for native, code in _NAMED.items() if code} | {"PI": _JAILBREAK}
        hazards = kit.options.hazards
        wanted = () if hazards is None else chosen(self.name, hazards, native_of)
        self._asked = tuple(native_of[code] for code in wanted) or (_UMBRELLA,)
        self.codes = {native_of[code]: code for code in wanted} or {_UMBRELLA: None, **_NAMED}
        super().__init__(kit)
        self._labels = self.words({"Yes": _YES, "No": _NO})
        self._check_topics()

    def make_frame(self, conversation: Conversation, topic: str) -> Frame:
        """Return the frame for one risk."""
        return compile_frame(
            self._rendered(conversation, topic or self._asked[0]),
            self.tokenizer,
            family=self.name,
            slots=conversation.names[-2:],
        )

    def passes(self, check: Check, content: Sequence[int]) -> tuple[Pass, ...]:
        """Ask once per risk."""
        return tuple(self._ask(check, content, topic) for topic in self._asked)

    def read(self, answers: Sequence[Sequence[float]]) -> Reading:
        """Return the highest risk."""
        risks = {topic: math.exp(answer[0]) for topic, answer in zip(self._asked, answers, strict=True)}
        return Reading(max(risks.values()), risks if _UMBRELLA not in risks else {}, independent=True)

    def naming(self, check: Check, content: Sequence[int]) -> tuple[Pass, ...]:
        """Ask about the risks that ``harm`` includes."""
        if self._asked != (_UMBRELLA,):
            return ()
        return tuple(self._ask(check, content, topic) for topic in _NAMED)

    def name_harm(self, reading: Reading, answers: Sequence[Sequence[float]]) -> Reading:
        """Return the reading with each of the risks that it includes."""
        risks = {topic: math.exp(answer[0]) for topic, answer in zip(_NAMED, answers, strict=True)}
        return Reading(reading.risk, risks, independent=True)

    def _ask(self, check: Check, content: Sequence[int], topic: str) -> Pass:
        alone = Check(check.text, rail=check.rail, query=check.query)
        return self.ask(alone, content, self._labels, topic=topic, share_text=True)

    def _rendered(self, conversation: Conversation, topic: str) -> str:
        assert self.template is not None  # noqa: S101 - refused in the constructor
        key = "criteria_id" if self._scores else "risk_name"
        options = {"guardian_config": {key: topic}} | ({"think": False} if self._scores else {})
        text, _ = render(self.template, conversation.roles, conversation.names, family=self.name, **options)
        return f"{text}<score>" if self._scores else text

    def _check_topics(self) -> None:
        """Refuse a template that does not know a risk and asks about another one instead."""
        alone = Conversation(("user",), ())
        topics = (*self._asked, *(_NAMED if self._asked == (_UMBRELLA,) else ()))
        rendered = {topic: self._rendered(alone, topic) for topic in topics}
        for topic, text in rendered.items():
            same = [other for other, seen in rendered.items() if seen == text and other != topic]
            if same:
                raise ConfigError(f"{self.name}: the template asks about {same[0]!r} and {topic!r} in the same words")


GRANITE = FamilyKind(
    name="granite-guardian",
    recognises=lambda checkpoint: checkpoint.label.startswith("granite-guardian"),
    build=GraniteGuardian,
)

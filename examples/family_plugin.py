"""A guard family of your own: another package registers it, and ``Guardian.load`` recognises its checkpoints.

[project.entry-points."guardrail_plugin.families"]      # in that package's pyproject.toml
traffic-light = "my_package.traffic_light:TRAFFIC_LIGHT"
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from guardrail_plugin import Check
from guardrail_plugin.guardian.families import (
    Conversation,
    FamilyKind,
    Frame,
    Kit,
    Pass,
    PromptedFamily,
    Reading,
    compile_frame,
    slot,
)


class TrafficLight(PromptedFamily):
    """A model that answers ``green``, ``amber`` or ``red``; amber counts half."""

    name = "traffic-light"
    rails = frozenset({"input"})
    codes = {"red": "S1"}  # native label -> hazard code  # noqa: RUF012
    markers = ("<text>", "</text>")  # broken up in foreign text

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self.light = self.words({"green": ["green"], "amber": ["amber"], "red": ["red"]})

    def make_frame(self, conversation: Conversation, topic: str) -> Frame:
        prompt = f"Is this text safe?\n<text>\n{slot('text')}\n</text>\nLight: "
        return compile_frame(prompt, self.tokenizer, family=self.name, slots=["text"], between=("<text>", "</text>"))

    def passes(self, check: Check, content: Sequence[int]) -> tuple[Pass, ...]:
        return (self.ask(Check(check.text), content, self.light),)

    def read(self, answers: Sequence[Sequence[float]]) -> Reading:
        _, amber, red = map(math.exp, answers[0])
        return Reading(red + amber / 2, {"red": 1.0})


TRAFFIC_LIGHT = FamilyKind(
    name="traffic-light", recognises=lambda checkpoint: "traffic-light" in checkpoint.label, build=TrafficLight
)

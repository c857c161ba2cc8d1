"""Guard families: what each public guard model is shown, where its verdict is read, and what it means.

A family is pure: text in, token ids out; label probabilities in, risk out. Windows, text views, calibration, cache,
policies, responder, pool and replicas are the same for all of them. Other packages add families through the entry point
group ``guardrail_plugin.families``, each entry a ``FamilyKind``.
"""

from guardrail_plugin.guardian.families.frame import Frame, compile_frame, render, slot
from guardrail_plugin.guardian.families.labels import LabelSet
from guardrail_plugin.guardian.families.prompted import PromptedFamily
from guardrail_plugin.guardian.families.protocol import (
    Checkpoint,
    Family,
    FamilyKind,
    FamilyOptions,
    FamilyTokenizer,
    Kit,
    Pass,
    Reading,
    Template,
    Window,
)
from guardrail_plugin.guardian.families.registry import family_kind, family_names, recognise
from guardrail_plugin.guardian.families.turns import Conversation

__all__ = [
    "Checkpoint",
    "Conversation",
    "Family",
    "FamilyKind",
    "FamilyOptions",
    "FamilyTokenizer",
    "Frame",
    "Kit",
    "LabelSet",
    "Pass",
    "PromptedFamily",
    "Reading",
    "Template",
    "Window",
    "compile_frame",
    "family_kind",
    "family_names",
    "recognise",
    "render",
    "slot",
]

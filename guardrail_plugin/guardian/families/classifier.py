"""Sequence classifiers: HarmAug, DuoGuard, Llama Prompt Guard 2, and any other with a label map.

Class numbers stand where next-token ids stand for other families; the number after the last class is a logit of zero,
against which each class of a multi-label head is judged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.core.hazards import MLCOMMONS
from guardrail_plugin.core.verdict import RAILS, Rail
from guardrail_plugin.guardian.canaries import INJECTION
from guardrail_plugin.guardian.families.labels import singles
from guardrail_plugin.guardian.families.prompted import refuse_options, taxonomy_of
from guardrail_plugin.guardian.families.protocol import Checkpoint, Family, FamilyKind, Kit, Pass, Reading, Window
from guardrail_plugin.guardian.format import encoded_ends

SAFE = "safe"
_ZERO = "\x00zero"
_MOST_TOKENS = 512
_SAFE_NAMES = frozenset("safe benign harmless normal neutral clean ok nontoxic nothate legit".split())
_HARM_NAMES: Mapping[str, str | None] = {
    **dict.fromkeys(("injection", "jailbreak", "promptinjection"), "PI"),
    **dict.fromkeys(("unsafe", "harmful", "malicious", "toxic", "toxicity", "flagged"), None),
    **dict.fromkeys(("hate", "hatespeech"), "S10"),
}
_DUOGUARD = (
    "Violent crimes", "Non-violent crimes", "Sex-related crimes", "Child sexual exploitation", "Specialized advice",
    "Privacy", "Intellectual property", "Indiscriminate weapons", "Hate", "Suicide and self-harm", "Sexual content",
    "Jailbreak prompts",
)  # fmt: skip
_DUOGUARD_CODES = ("S1", "S2", "S3", "S4", "S6", "S7", "S8", "S9", "S10", "S11", "S12", "PI")


@dataclass(frozen=True, slots=True)
class Head:
    """What a classifier's classes mean: name → hazard code, ``"safe"``, or ``None`` for harm without a code."""

    classes: Mapping[str, str | None]
    multi_label: bool = False
    rails: frozenset[Rail] = frozenset(RAILS)
    reads_pairs: bool = False


class ClassifierFamily:
    """One pass; the risk is the harmful classes' probability, or with independent classes the highest of them."""

    def __init__(self, kit: Kit, name: str, head: Head) -> None:
        refuse_options(name, kit, takes=frozenset({"labels"} if name == "classifier" else ()))
        self.name = name
        self.rails = head.rails
        harm = {native: code for native, code in head.classes.items() if code != SAFE}
        if not harm or (len(harm) == len(head.classes) and not head.multi_label):
            raise ConfigError(f"{name}: the classes {list(head.classes)} need a harmful one and a safe one")
        self.codes: Mapping[str, str | None] = harm
        self.taxonomy = taxonomy_of(harm.values())
        self._tokenizer = kit.tokenizer
        self._head = head
        names = (*head.classes, _ZERO) if head.multi_label else tuple(head.classes)
        self._names = names
        self._labels = singles(names, range(len(names)))
        self._single = kit.tokenizer.wrap()
        self._pair = kit.tokenizer.wrap(pair=True) if head.reads_pairs else None
        room = (kit.checkpoint.max_positions or _MOST_TOKENS) - sum(map(len, self._pair or self._single))
        if room < 16:
            raise ConfigError(f"{name} reads {room} tokens at once: too few to judge a text")
        self._query_tokens = room // 4 if head.reads_pairs else 0
        tokens = min(room - self._query_tokens, _MOST_TOKENS)
        self.window = Window(tokens, tokens // 8)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text as the classifier's own tokenizer reads it: by itself, behind no template."""
        return self._tokenizer.content(text, first=True)

    def passes(self, check: Check, content: Sequence[int]) -> tuple[Pass, ...]:
        """Ask once; a response together with its query where the classifier was trained on pairs."""
        if self._pair is not None and check.rail == "output" and check.query is not None:
            before, between, after = self._pair
            query = encoded_ends(self.encode, check.query, self._query_tokens)
            return (Pass((*before, *query, *between, *content, *after), self._labels),)
        before, after = self._single
        return (Pass((*before, *content, *after), self._labels),)

    def read(self, answers: Sequence[Sequence[float]]) -> Reading:
        """Return the risk."""
        scores = dict(zip(self._names, answers[0], strict=True))
        if self._head.multi_label:
            shares = {name: _sigmoid(scores[name] - scores[_ZERO]) for name in self.codes}
            return Reading(max(shares.values()), shares, independent=True)
        shares = {name: math.exp(scores[name]) for name in self.codes}
        return Reading(min(1.0, math.fsum(shares.values())), shares)

    def naming(self, check: Check, content: Sequence[int]) -> tuple[Pass, ...]:
        """Ask nothing more."""
        return ()

    def name_harm(self, reading: Reading, answers: Sequence[Sequence[float]]) -> Reading:
        """Return the reading as it is."""
        return reading


def _generic(kit: Kit) -> Family:
    """Build a classifier from its own label names, or from the caller's map of them.

    Raises:
        ConfigError: a name that says nothing (``LABEL_1``) is not in the map, or the map names no class.
    """
    given = kit.options.labels or {}
    own = [kit.checkpoint.id2label[i] for i in sorted(kit.checkpoint.id2label)]
    unknown = [name for name in given if name not in own]
    if unknown:
        raise ConfigError(f"labels= names {unknown}; the classifier's classes are {own}")
    classes: dict[str, str | None] = {}
    for name in own:
        plain = "".join(c for c in name.lower() if c.isalnum()).removeprefix("is")
        if name in given:
            classes[name] = given[name]
        elif plain in _SAFE_NAMES or plain in {f"not{h}" for h in _HARM_NAMES} | {f"non{h}" for h in _HARM_NAMES}:
            classes[name] = SAFE
        elif plain in _HARM_NAMES or name in MLCOMMONS:
            classes[name] = _HARM_NAMES.get(plain, name if name in MLCOMMONS else None)
        else:
            raise ConfigError(
                f"what does the class {name!r} of {own} mean? Say it with labels={{{name!r}: 'S1' | 'safe' | None}}"
            )
    for code in classes.values():
        if code is not None and code != SAFE:
            MLCOMMONS[code]
    return ClassifierFamily(kit, "classifier", Head(classes, kit.checkpoint.multi_label))


def is_classifier(checkpoint: Checkpoint) -> bool:
    """Tell whether a checkpoint has a classification head."""
    return any(name.endswith("ForSequenceClassification") for name in checkpoint.architectures)


_HARM_RAILS: frozenset[Rail] = frozenset({"input", "output", "tool_call"})

HARMAUG = FamilyKind(
    name="harmaug",
    task="classify",
    recognises=lambda checkpoint: "harmaug" in checkpoint.label,
    build=lambda kit: ClassifierFamily(
        kit, "harmaug", Head({"safe": SAFE, "unsafe": None}, rails=_HARM_RAILS, reads_pairs=True)
    ),
)
DUOGUARD = FamilyKind(
    name="duoguard",
    task="classify",
    recognises=lambda checkpoint: checkpoint.label.startswith("duoguard"),
    build=lambda kit: ClassifierFamily(
        kit,
        "duoguard",
        Head(
            dict(zip(_DUOGUARD, _DUOGUARD_CODES, strict=True)),
            multi_label=True,
            rails=_HARM_RAILS,
        ),
    ),
)
PROMPT_GUARD = FamilyKind(
    name="prompt-guard-2",
    task="classify",
    recognises=lambda checkpoint: checkpoint.label.startswith(("llama-prompt-guard-2", "prompt-guard-2")),
    build=lambda kit: ClassifierFamily(
        kit,
        "prompt-guard-2",
        # It judges whether a text overrides instructions, and nothing about harm.
        Head({"benign": SAFE, "malicious": "PI"}, rails=frozenset({"input", "tool_output", "document"})),
    ),
    canary=INJECTION,
)
CLASSIFIER = FamilyKind(name="classifier", task="classify", recognises=lambda _: False, build=_generic)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else 1 - 1 / (1 + math.exp(x))

"""Frames filled with topics: text in which style says nothing about the label.

The same frame takes harmful and harmless topics in equal number, and some frames (news, prevention, law, fiction in
which the culprit is caught) turn a harmful topic into a harmless message. A model that looks at style is at chance.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.training.augment import lowercase_chat, obfuscate, pad
from guardrail_plugin.training.config import Compose
from guardrail_plugin.training.rows import SAFE, Example, iter_corpus

_HOW_TO = re.compile(
    r"(?i:how (?:can|do|could|would|should|might) (?:i|we|one|someone|you|a person) |how to )(?P<act>[^?.!]+)[?.]?"
)
_DOUBLING = frozenset(
    (
        "get put set cut let sit run win hit stop plan shop rob stab spot trap drop rig beg dig skip snap tip "
        "wrap chop clip drug flip grab hug jam jog log map mug nab nip pat peg pin plot pop rap rid rip rub scan "
        "scrub shed ship shut slam slap slip slit snip snub spin split spam strip swab swap swim tag tan tap "
        "thin trim tug vet wed wet whip zap zip bet bid bag ban bat begin bug bus cap con cram dam dim dub fit "
        "flag forget hop kidnap lap lag mob mop net nod outwit pad pet prop quit refer regret sap sin sip skim "
        "slim slur sob stun submit transmit commit admit permit emit omit compel control deter expel incur infer "
        "occur patrol prefer propel rebel repel unplug upset blog outrun rebut sandbag program blot"
    ).split()
)
_IRREGULAR = {
    "be": "being",
    "die": "dying",
    "dye": "dyeing",
    "lie": "lying",
    "singe": "singeing",
    "tie": "tying",
    "vie": "vying",
}


@dataclass(frozen=True, slots=True)
class Topic:
    """An act (bare infinitive) or a content (noun phrase) with its label."""

    kind: str
    text: str
    harmful: bool
    hazard: str | None
    theme: str | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """A message with a slot. ``neutral`` frames make the message harmless whatever the topic."""

    kind: str
    pattern: str
    neutral: bool


def gerund(phrase: str) -> str:
    """Return the ``-ing`` form of a bare-infinitive phrase: ``make a cake`` → ``making a cake``."""
    verb, _, rest = phrase.partition(" ")
    lower = verb.lower()
    if "-" in lower:  # re-use, double-check: the last part is the verb
        head, _, tail = verb.rpartition("-")
        return f"{head}-{gerund(tail)} {rest}".rstrip()
    if lower in _IRREGULAR:
        form = _IRREGULAR[lower]
    elif lower in _DOUBLING:
        form = f"{lower}{lower[-1]}ing"
    elif lower.endswith("e") and not lower.endswith(("ee", "oe", "ye")):
        form = f"{lower[:-1]}ing"
    elif lower.endswith("c"):
        form = f"{lower}king"
    else:
        form = f"{lower}ing"
    if " and " in f" {rest} ":  # "break in and take it" → "breaking in and taking it"
        before, _, after = f"{rest} ".partition("and ")
        first = after.split(" ", 1)[0]
        if first in _KNOWN_VERBS:
            rest = f"{before}and {gerund(after.strip())}"
    return f"{form} {rest}".rstrip()


_KNOWN_VERBS = frozenset(
    (
        "take make sell use hide blame get steal send post share keep put run burn kill leave spread dump bury "
        "publish give claim call pretend change move turn pass avoid escape shoot stab attack force threaten "
        "bring find copy erase delete destroy wipe resell collect drain pour throw set cut cook eat drink walk "
        "write read"
    ).split()
)


def load_topics() -> list[Topic]:
    """Read every ``topics_*.jsonl`` of the corpus."""
    return [
        Topic(
            row["kind"], row["text"], row["label"] != SAFE, None if row["label"] == SAFE else row["label"], row["theme"]
        )
        for row in iter_corpus("topics_*.jsonl")
    ]


def load_frames(file: str = "frames.jsonl") -> list[Frame]:
    """Read frames of the corpus: for queries ``frames.jsonl``, for the first words of answers ``openings.jsonl``.

    Raises:
        ConfigError: a pattern has no slot of its kind.
    """
    frames = []
    for row in iter_corpus(file):
        slots = ("{content}", "{Content}") if row["kind"] == "content" else ("{act}", "{acting}", "{Act}", "{Acting}")
        if not any(slot in row["pattern"] for slot in slots):
            raise ConfigError(f"frame {row['id']!r} has no slot for a topic of kind {row['kind']!r}")
        frames.append(Frame(row["kind"], row["pattern"], row["effect"] == "neutral"))
    return frames


def fill(frame: Frame, topic: Topic) -> Example:
    """Put a topic into a frame."""
    text = frame.pattern
    if topic.kind == "content":
        text = text.replace("{content}", topic.text)
        text = text.replace("{Content}", _capital(topic.text))
    else:
        acting = gerund(topic.text)
        for slot, value in (("{act}", topic.text), ("{acting}", acting)):
            text = text.replace(slot, value).replace(slot.replace("{a", "{A"), _capital(value))
    harmful = topic.harmful and not frame.neutral
    hazard = topic.hazard if harmful else None
    return Example(text=text, harmful=harmful, hazard=hazard, theme=topic.theme, source="composed")


def reframed(example: Example) -> Topic | None:
    """Return the act that a "How can I ...?" question asks about, so that it can be put into other frames."""
    match = _HOW_TO.fullmatch(example.text.strip())
    if match is None or not 2 <= len(match["act"].split()) <= 25:
        return None
    act = match["act"]
    return Topic("act", act[0].lower() + act[1:], example.harmful, example.hazard)


def compose(config: Compose, rng: random.Random, *, extra: Sequence[Topic] = ()) -> list[Example]:
    """Return one epoch's composed examples. Same seed, same rows. ``extra`` topics join those of the corpus."""
    padding = [row["text"] for row in iter_corpus("padding.jsonl")]
    decks = _decks([*load_topics(), *extra], rng)
    examples = []
    for frame in load_frames():
        harmful, harmless = decks[frame.kind, True], decks[frame.kind, False]
        if frame.neutral:
            picked = harmful.draw(config.neutralised_per_frame) + harmless.draw(config.neutralised_per_frame // 3)
        else:
            picked = harmful.draw(config.harmful_per_frame) + harmless.draw(config.harmless_per_frame)
        examples += [_vary(fill(frame, topic), config, padding, rng) for topic in picked]
    return examples


def compose_answers(config: Compose, rng: random.Random) -> list[Example]:
    """Return composed examples of the output rail: the opening words of an answer, judged with its query.

    Openings that comply keep the topic's label, openings that refuse or report make it harmless. None goes further
    than its opening, so that no harmful answer is ever written down.
    """
    decks = _decks(load_topics(), rng)
    questions: dict[str, list[Frame]] = {}
    for frame in load_frames():
        if not frame.neutral:
            questions.setdefault(frame.kind, []).append(frame)
    examples = []
    for opening in load_frames("openings.jsonl"):
        for harmful in (True, False):
            for topic in decks[opening.kind, harmful].draw(config.answers_per_opening):
                query = fill(rng.choice(questions[opening.kind]), topic)
                answer = fill(opening, topic)
                examples.append(replace(answer, rail="output", query=query.text))
    return examples


def _decks(topics: Sequence[Topic], rng: random.Random) -> dict[tuple[str, bool], _Deck]:
    return {
        (kind, harmful): _Deck([t for t in topics if t.kind == kind and t.harmful == harmful], rng)
        for kind in ("act", "content")
        for harmful in (True, False)
    }


def _vary(example: Example, config: Compose, padding: Sequence[str], rng: random.Random) -> Example:
    """Change the surface of some rows, harmful and harmless alike."""
    roll = rng.random()
    edges = (config.tool_call_share, config.padded_share, config.obfuscated_share, config.lowercase_share)
    for edge, change in zip(edges, (_as_tool_call, _padded, _obfuscated, _lower), strict=True):
        if roll < edge:
            return change(example, padding, rng)
        roll -= edge
    return example


def _as_tool_call(example: Example, _padding: Sequence[str], rng: random.Random) -> Example:
    tool, key = rng.choice(
        [("web_search", "query"), ("ask_expert", "question"), ("send_email", "body"), ("write_file", "content"),
         ("create_post", "text"), ("generate_image", "prompt"), ("run_agent", "task"), ("add_note", "note")]
    )  # fmt: skip
    return replace(example, text=f"{tool} {json.dumps({key: example.text}, ensure_ascii=False)}", rail="tool_call")


def _padded(example: Example, padding: Sequence[str], rng: random.Random) -> Example:
    return replace(example, text=pad(example.text, padding, rng)) if padding else example


def _obfuscated(example: Example, _padding: Sequence[str], rng: random.Random) -> Example:
    return replace(example, text=obfuscate(example.text, rng))


def _lower(example: Example, _padding: Sequence[str], rng: random.Random) -> Example:
    return replace(example, text=lowercase_chat(example.text, rng))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


class _Deck:
    """Draws without repeats until all are used, then shuffles again: every topic is seen equally often."""

    def __init__(self, topics: Sequence[Topic], rng: random.Random) -> None:
        self._topics = list(topics)
        self._rng = rng
        self._left: list[Topic] = []

    def draw(self, count: int) -> list[Topic]:
        drawn: list[Topic] = []
        while self._topics and len(drawn) < count:
            if not self._left:
                self._left = self._rng.sample(self._topics, len(self._topics))
            drawn.append(self._left.pop())
        return drawn

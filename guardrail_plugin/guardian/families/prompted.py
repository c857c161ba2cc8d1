"""What families that are asked by a prompt share: frames per shape of conversation, and how texts become ids."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import ClassVar

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.errors import ConfigError, did_you_mean
from guardrail_plugin.core.hazards import MLCOMMONS, Taxonomy
from guardrail_plugin.core.verdict import Rail
from guardrail_plugin.guardian.families.frame import TEXT, Frame
from guardrail_plugin.guardian.families.labels import LabelSet
from guardrail_plugin.guardian.families.markers import neutralise
from guardrail_plugin.guardian.families.protocol import Kit, Pass, Reading, Window
from guardrail_plugin.guardian.families.turns import Conversation, conversation_of
from guardrail_plugin.guardian.format import encoded_ends

_CONTEXT_TOKENS = 256
_SEAM = " … "  # where the middle of an earlier turn is left out
_WINDOW = Window()


class PromptedFamily(ABC):
    """A family whose prompt is a frame. Subclasses say how a frame is made, what is asked, and how answers are read.

    Attributes:
        markers, speakers: what is broken up in foreign text; see ``neutralise``.
        takes: names of the options that the family has a use for.
    """

    name: str
    rails: frozenset[Rail] = frozenset({"input", "output", "tool_call"})
    codes: Mapping[str, str | None]
    markers: ClassVar[tuple[str, ...]] = ()
    speakers: ClassVar[tuple[str, ...]] = ()
    takes: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, kit: Kit) -> None:
        refuse_options(self.name, kit, takes=self.takes)
        self.tokenizer = kit.tokenizer
        self.template = kit.template
        self._seam = kit.tokenizer.content(_SEAM)
        self.max_positions = kit.checkpoint.max_positions
        self.taxonomy = taxonomy_of(self.codes.values())
        self._frames: dict[tuple[object, ...], Frame] = {}
        longest = self.frame(Conversation(("user",), ()))
        self._lead = longest.leads.get(TEXT, "")
        room = _room(self.max_positions, longest, self.name)
        self.window = Window(min(_WINDOW.tokens, room), min(_WINDOW.overlap, room // 4))
        if "output" in self.rails:
            self.frame(Conversation(("user", "assistant"), ("",)))  # a broken template shows now, not at the first text

    @abstractmethod
    def make_frame(self, conversation: Conversation, topic: str) -> Frame:
        """Return a new frame. ``topic``: the guideline or risk that it asks about, where there is one."""

    def frame(self, conversation: Conversation, topic: str = "") -> Frame:
        """Return the frame for a shape of conversation; each is compiled once."""
        key = (conversation.roles, topic)
        if key not in self._frames:
            self._frames[key] = self.make_frame(conversation, topic)
        return self._frames[key]

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text under judgement."""
        return self.tokenizer.content(self._lead + self.clean(text))

    def _encode_earlier(self, lead: str, text: str) -> list[int]:
        return self.tokenizer.content(lead + self.clean(text))

    def clean(self, text: str) -> str:
        """Return foreign text with the template's markers broken up."""
        return neutralise(text, self.markers, self.speakers)

    def ask(
        self, check: Check, content: Sequence[int], labels: LabelSet, *, topic: str = "", share_text: bool = False
    ) -> Pass:
        """Return the question about one window. ``share_text``: several questions will be asked about this text."""
        conversation = conversation_of(check)
        frame = self.frame(conversation, topic)
        contents: dict[str, Sequence[int]] = {TEXT: content}
        for name, text in zip(conversation.names, conversation.earlier, strict=False):
            most = _CONTEXT_TOKENS * self.tokenizer.ids_per_token // max(len(conversation.earlier), 1)
            encode = partial(self._encode_earlier, frame.leads.get(name, ""))
            contents[name] = encoded_ends(encode, text, most, seam=self._seam)
        prefix = frame.head_len(contents) if share_text else frame.prefix_len
        return Pass(frame.fill(contents), labels, prefix_len=prefix)

    def naming(self, check: Check, content: Sequence[int]) -> tuple[Pass, ...]:
        """Ask nothing more."""
        return ()

    def name_harm(self, reading: Reading, answers: Sequence[Sequence[float]]) -> Reading:
        """Return the reading as it is."""
        return reading

    def words(self, spellings: Mapping[str, Sequence[str]], *, ends: Iterable[int] = ()) -> LabelSet:
        """Return labels by their spellings. Spellings beyond the first count only where they are single tokens."""
        rows: dict[str, list[tuple[int, ...]]] = {}
        for label, ways in spellings.items():
            ids = [self.tokenizer.label(way) for way in ways]
            rows[label] = [ids[0], *(row for row in ids[1:] if len(row) == 1)]
        return LabelSet(rows, ends=ends)


def taxonomy_of(codes: Iterable[str | None]) -> Taxonomy:
    """Return the library's hazards with these codes, in its order; all of them where a family names none."""
    wanted = set(codes)
    return Taxonomy.of([hazard for hazard in MLCOMMONS if hazard.code in wanted] or MLCOMMONS)


def refuse_options(family: str, kit: Kit, *, takes: frozenset[str]) -> None:
    """Refuse an option that would otherwise be ignored.

    Raises:
        ConfigError: the family has no use for it.
    """
    for name in ("hazards", "policy_text", "labels", "strictness"):
        if getattr(kit.options, name) is not None and name not in takes:
            raise ConfigError(f"the family {family!r} has no use for {name}=")


def chosen(family: str, hazards: Sequence[str] | None, covered: Mapping[str, object]) -> tuple[str, ...]:
    """Return the codes to judge: the caller's, or all that the family covers.

    Raises:
        ConfigError: there is none, or one that the family does not cover.
    """
    if hazards is None:
        return tuple(covered)
    for code in hazards:
        if code not in covered:
            raise ConfigError(f"{family} does not judge the hazard {code!r}{did_you_mean(code, covered)}")
    if not hazards:
        raise ConfigError("hazards= names none")
    return tuple(code for code in covered if code in set(hazards))


def _room(max_positions: int | None, frame: Frame, family: str) -> int:
    if max_positions is None:
        return _WINDOW.tokens
    taken = sum(len(piece) for piece in frame.pieces if not isinstance(piece, str))
    room = max_positions - taken - _CONTEXT_TOKENS - 32  # 32: an answer that is continued, to name the harm
    if room < 16:
        raise ConfigError(f"{family}: its template leaves no room for a text in a context of {max_positions} tokens")
    return room

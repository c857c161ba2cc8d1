"""A prompt with holes: the template's tokens, and the places where foreign text goes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.guardian.families.protocol import FamilyTokenizer, Template

TEXT = "text"
# Private-use characters that no template contains; the name says whose text stands there.
_SLOT = re.compile("\ue000([a-z0-9]+)\ue001")


def slot(name: str) -> str:
    """Return the mark of a hole."""
    return f"\ue000{name}\ue001"


@dataclass(frozen=True, slots=True)
class Frame:
    """A template compiled for one shape of conversation.

    Attributes:
        pieces: ids of the template, or the name of a hole, in order.
        leads: the blank that stands before a hole. It is tokenised with the text, as the joint prompt would be.
    """

    pieces: tuple[tuple[int, ...] | str, ...] = field(repr=False)
    leads: Mapping[str, str]

    @property
    def prefix_len(self) -> int:
        """Ids before the first hole: the same for every text."""
        first = self.pieces[0]
        return 0 if isinstance(first, str) else len(first)

    def fill(self, contents: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
        """Return the ids of the prompt: (L,)."""
        ids: list[int] = []
        for piece in self.pieces:
            ids += contents[piece] if isinstance(piece, str) else piece
        return tuple(ids)

    def head_len(self, contents: Mapping[str, Sequence[int]]) -> int:
        """Return how many ids stand up to and with the text: what questions about the same text share."""
        count = 0
        for piece in self.pieces:
            count += len(contents[piece]) if isinstance(piece, str) else len(piece)
            if piece == TEXT:
                break
        return count


def compile_frame(
    rendered: str,
    tokenizer: FamilyTokenizer,
    *,
    family: str,
    slots: Sequence[str],
    shows: Sequence[str] = (),
    between: tuple[str, str] | None = None,
) -> Frame:
    """Compile a rendered prompt whose holes are marked with ``slot``.

    Args:
        family: for the error's message.
        slots: the holes that must be there, once each, in this order.
        shows: what the template must contain, in this order: the categories that the model is asked about.
        between: markers between which the text must stand.

    Raises:
        ConfigError: the template loses, repeats or reorders a text, drops a category, or puts the text elsewhere.
    """
    parts = _SLOT.split(rendered)  # template, name, template, name, ..., template
    found = parts[1::2]
    for name in slots:
        if found.count(name) != 1:
            what = "the text under judgement" if name == TEXT else f"the conversation's {name}"
            raise ConfigError(f"{family}: the template {'repeats' if name in found else 'drops'} {what}")
    if found != list(slots):
        raise ConfigError(f"{family}: the template reorders the conversation: {found}")
    _check_shown(rendered, family, shows, between)
    pieces: list[tuple[int, ...] | str] = []
    leads: dict[str, str] = {}
    for i, part in enumerate(parts):
        if i % 2:
            pieces.append(part)
            continue
        last = i == len(parts) - 1
        leads[part_name := "" if last else parts[i + 1]] = " " if part.endswith(" ") and not last else ""
        kept = part[: len(part) - len(leads[part_name])]
        ids = tokenizer.template(kept, first=not i)
        pieces.append(_with_bos(tuple(ids), tokenizer.bos) if not i else tuple(ids))
    return Frame(tuple(piece for piece in pieces if piece), leads)


def render(
    template: Template, roles: Sequence[str], names: Sequence[str], *, family: str, **options: object
) -> tuple[str, bool]:
    """Return a checkpoint's template rendered with holes, and whether its contents had to be lists.

    Some templates (Llama Guard 3 1B) read contents as lists of typed parts and print nothing for a plain string.

    Raises:
        ConfigError: neither form shows the contents; the message names the family.
    """
    failure = ""
    for as_list in (False, True):
        contents = [[{"type": "text", "text": slot(name)}] if as_list else slot(name) for name in names]
        messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        try:
            rendered = template(messages, **options)
        except Exception as error:  # a template may raise anything: its author's refusals, jinja's, Python's
            failure = f" ({type(error).__name__})"
            continue
        if all(slot(name) in rendered for name in names):
            return rendered, as_list
        failure = ""
    raise ConfigError(f"{family}: the checkpoint's chat template drops the text under judgement{failure}")


def _check_shown(rendered: str, family: str, shows: Sequence[str], between: tuple[str, str] | None) -> None:
    at = 0
    for wanted in shows:
        at = rendered.find(wanted, at)
        if at < 0:
            raise ConfigError(f"{family}: the template drops the category {wanted!r}")
        at += len(wanted)
    if between is None:
        return
    before, after = rendered.find(between[0]), rendered.rfind(between[1])
    if not 0 <= before < rendered.find(slot(TEXT)) < after:
        raise ConfigError(f"{family}: the text does not stand between {between[0]!r} and {between[1]!r}")


def _with_bos(ids: tuple[int, ...], bos: tuple[int, ...]) -> tuple[int, ...]:
    return ids if ids[: len(bos)] == bos else (*bos, *ids)

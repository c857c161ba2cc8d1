"""Images, sound and files in what a model says: no rail can read them, so ``on_uncheckable`` decides about them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from langchain_core.messages import BaseMessage

from guardrail_plugin.flow import Uncheckable
from guardrail_plugin.runnables.block_kinds import CALL_KINDS, MEDIA_KINDS
from guardrail_plugin.runnables.blocks import KWARGS_CALLS, KWARGS_REASONING, KWARGS_SEALED, kind_of
from guardrail_plugin.runnables.content import shown_in, shown_in_data
from guardrail_plugin.runnables.encoded import is_payload
from guardrail_plugin.runnables.metadata import MACHINERY

_NO_CONTENT = KWARGS_CALLS | KWARGS_SEALED
_MANY = {"images": "image", "audios": "audio", "videos": "video"}
"""Keys beside the content under which providers list media."""

_ORDERS = ("server_tool_call", "server_tool_use")
"""How the kinds of server-side calls begin, whose arguments are judged as JSON; their results are content."""


def files_in(message: BaseMessage) -> tuple[str, ...]:
    """Return the kinds of images, sound and files in a message or chunk of a model, in its content or beside it.

    Encrypted reasoning, signatures and the links of citations are none of these.

    Raises:
        InputError: it is nested without end.
    """
    content = message.content
    found = [] if isinstance(content, str) else [kind for block in content for kind in _in_block(block)]
    for key, value in message.additional_kwargs.items():
        if value and key not in _NO_CONTENT:
            found += _beside(key, value)
    for key, value in message.response_metadata.items():
        if value and key not in MACHINERY and not isinstance(value, str):
            found += shown_in_data({key: value})
    return tuple(dict.fromkeys(found))


def beside_text(kinds: Iterable[str]) -> Uncheckable | None:
    """Return what is to be decided about them; ``None``: there are none."""
    told = ", ".join(kinds)
    reason = f"the answer holds {told}, which no rail can read; to let these pass unchecked, set on_uncheckable"
    return Uncheckable(reason, beside=True) if told else None


def _in_block(block: object) -> Iterator[str]:
    kind = kind_of(block)
    if isinstance(block, str) or kind in CALL_KINDS or kind.startswith(_ORDERS):
        return
    shown, text = shown_in(block)
    yield from shown
    if kind in MEDIA_KINDS and kind != "text-plain" and not shown and not text:
        # A stream may bring what it is made of in chunks that do not say what they are.
        yield kind


def _beside(key: str, value: object) -> Iterator[str]:
    """Find files in what a provider puts beside the content."""
    kind = key if key in MEDIA_KINDS else _MANY.get(key)
    if kind is not None:
        for block in _as_blocks(kind, value):
            yield from shown_in(block)[0]
    elif key in KWARGS_REASONING:
        yield from shown_in({"type": "reasoning", "reasoning": value})[0]
    elif not isinstance(value, str):
        yield from shown_in_data({key: value})


def _as_blocks(kind: str, value: object) -> Iterator[dict[object, object]]:
    if isinstance(value, Mapping):
        yield {**value, "type": kind}
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _as_blocks(kind, item)
    elif value and (not isinstance(value, str) or is_payload(value)):
        yield {"type": kind, "data": value}

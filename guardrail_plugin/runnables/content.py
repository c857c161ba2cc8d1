"""Text in message content. Reads every block that a provider would show its model as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

MEDIA_KINDS = frozenset(
    {"image", "image_url", "input_image", "audio", "input_audio", "video", "file", "input_file", "document"}
)
"""Blocks that are not text, whatever text may stand beside it in them."""

_TEXT_KEYS = ("text", "content", "value", "document", "title", "context")
"""Where blocks keep what a model reads. All are read: which of them a provider uses is not ours to guess."""

_MAX_DEPTH = 8
"""Nesting of content blocks that is followed. Providers use at most three levels."""


def text_in(content: object, *, depth: int = 0) -> str:
    """Return the text of a message's content, blocks joined as ``BaseMessage.text`` joins them.

    ``BaseMessage.text`` skips blocks that are text to some provider but not of ``type: text``: Bedrock's
    ``{"text": …}``, OpenAI's ``input_text``, plain-text documents, nested content. A rail must see them.
    """
    if isinstance(content, str):
        return str(content)
    if depth > _MAX_DEPTH:
        return ""
    if isinstance(content, Mapping):
        return _block_text(content, depth)
    if isinstance(content, Sequence) and not isinstance(content, bytes | bytearray | memoryview):
        return "".join(text_in(block, depth=depth + 1) for block in content)
    return ""


def _block_text(block: Mapping[object, object], depth: int) -> str:
    inner = [block.get(key) for key in _TEXT_KEYS]
    source = block.get("source")
    if isinstance(source, Mapping):
        # Anthropic: {"type": "text", "data": …} or {"type": "content", "content": …}; Bedrock: {"text": …}
        readable = source.get("type") in ("text", "content")
        inner += [source.get("data") if readable else None, source.get("content"), source.get("text")]
    return "".join(text_in(part, depth=depth + 1) for part in inner if part is not None)


def kinds_in(contents: Iterable[object]) -> list[str]:
    """Name the kinds of blocks without text in some contents, for error messages. Unknown kinds are ``"other"``."""
    kinds: dict[str, None] = {}
    for content in contents:
        if isinstance(content, list):
            for block in content:
                kind = block.get("type") if isinstance(block, Mapping) else None
                if kind is not None and not text_in(block).strip():
                    kinds[kind if isinstance(kind, str) and kind in MEDIA_KINDS else "other"] = None
    return list(kinds)

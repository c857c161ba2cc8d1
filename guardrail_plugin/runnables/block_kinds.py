"""Kinds of content blocks and the keys in them: which hold text, which only identify, encode or point elsewhere."""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

Family: TypeAlias = Literal["text", "known", "media", "unknown"]

MEDIA_KINDS = frozenset(
    {
        "image", "image_url", "input_image", "audio", "input_audio", "audio_url", "video", "video_url", "input_video",
        "media", "file", "input_file", "document", "text-plain",
    }
)  # fmt: skip
"""Blocks that carry something beside text, whatever text may stand in them."""

REASONING_KINDS = frozenset(
    {
        "reasoning", "thinking", "reasoning_content", "redacted_thinking", "thought", "reasoning_text", "summary_text",
        "reasoning.text", "reasoning.summary", "reasoning.encrypted",
    }
)  # fmt: skip
CALL_KINDS = frozenset(
    {
        "tool_use", "tool_call", "tool_call_chunk", "invalid_tool_call", "input_json_delta", "function_call",
        "custom_tool_call",
    }
)  # fmt: skip
"""Blocks that LangChain also reads into ``tool_calls``, ``invalid_tool_calls`` and ``tool_call_chunks``."""

TEXT_KINDS = frozenset({"text", "input_text", "output_text", "reasoning_text", "summary_text", "refusal"})
"""Blocks whose texts follow one another without a break."""

_KNOWN_KINDS = (
    TEXT_KINDS
    | REASONING_KINDS
    | CALL_KINDS
    | {
        "content", "message", "non_standard", "citation", "search_result", "tool_result", "custom_tool_call_output",
        "server_tool_call", "server_tool_call_chunk", "server_tool_result", "server_tool_use", "mcp_tool_use",
        "mcp_tool_result", "web_search_tool_result", "web_search_result", "web_search_result_location",
        "web_fetch_tool_result", "web_fetch_result", "code_execution_tool_result", "code_execution_result",
        "search_result_location", "char_location", "page_location", "content_block_location", "url_citation",
        "file_citation", "container_file_citation", "file_path", "web_search_call", "file_search_call", "mcp_call",
        "code_interpreter_call", "image_generation_call", "computer_call", "local_shell_call",
        "function_call_signature",
    }
)  # fmt: skip
_ENCRYPTED = frozenset({"redacted_thinking", "reasoning.encrypted"})
_SOURCES = frozenset({"base64", "url", "file", "s3Location", "s3"})
"""What Anthropic and Bedrock write into the ``type`` of a medium's ``source``."""

NAMES = frozenset(
    {
        "type", "id", "index", "role", "mime_type", "media_type", "source_type", "status", "phase", "call_id",
        "tool_call_id", "tool_use_id", "item_id", "file_id", "cache_control", "detail", "format", "finish_reason",
        "object", "model", "expires_at", "caller", "ttl",
    }
)  # fmt: skip
"""Keys of known blocks that identify or enumerate: exempt as far as their values look like it."""

MESSAGE_KEYS = frozenset(
    {
        "role", "type", "content", "name", "id", "tool_calls", "tool_call_id", "invalid_tool_calls", "tool_call_chunks",
        "additional_kwargs", "response_metadata", "usage_metadata", "example", "artifact", "status", "chunk_position",
        "refusal", "audio", "function_call", "annotations",
    }
)  # fmt: skip
"""Keys of a message that is written out, as LangChain and OpenAI dump it."""

SEALED = frozenset({"signature", "thought_signature", "encrypted_content", "encrypted_index"})
"""Keys of known blocks whose values only the provider can read."""

PAYLOAD = frozenset(
    {
        "url", "uri", "image_url", "audio_url", "video_url", "file_url", "file_uri", "source", "data", "base64",
        "file_data", "bytes", "file_id",
    }
)  # fmt: skip
"""Keys of media: where they are, and what they are made of."""

PICTURE_CALL, PICTURE = "image_generation_call", "result"
"""The kind of block, and the key in it, in which OpenAI puts an image that was made."""

CITATIONS = frozenset({"citations", "annotations", "documents", "search_results"})
"""Keys under which a provider tells where an answer is from: a link there is a source, and not a part of the answer."""

_INHERITING = frozenset({"extras", "source", "reasoning_content", "reasoning", "reasoningText"}) | MEDIA_KINDS
"""Keys under which a mapping without a ``type`` is a part of the block around it, rather than somebody's data."""

_BEDROCK = frozenset({"image", "video", "audio", "document"})
"""What Bedrock calls media: the only key of a block without a ``type``."""

_WORDS = (
    NAMES
    | SEALED
    | PAYLOAD
    | _INHERITING
    | {"text", "content", "value", "document", "title", "context", "json", "body", "name", "input", "output", "note"}
    | {"guardContent", "guard_content", "toolResult", "toolUse", "toolUseId", "citationsContent", "citations"}
)
# ASCII: a sentence in a script without spaces is no name.
_KEY = re.compile(r"[\w.$@:/-]{1,64}", re.ASCII)
_NAME = re.compile(r"[\w./:@+=-]{0,200}", re.ASCII)
_OPAQUE = re.compile(r"[\w+/=.-]*", re.ASCII)
_BETWEEN_WORDS = re.compile(r"[^a-zA-Z0-9]+|(?<=[a-z])(?=[A-Z])")
_MAX_NAME, _MAX_NAME_WORDS = 24, 2
"""Characters and words up to which what looks like an identifier may be somebody's name."""


def family_of(kind: str) -> Family:
    """Return how the values of a kind of block are read. Of kinds that are not known every string is text."""
    if kind in TEXT_KINDS:
        return "text"
    if kind in MEDIA_KINDS or kind in _ENCRYPTED:
        return "media"
    return "known" if kind in _KNOWN_KINDS else "unknown"


def is_source(kind: str) -> bool:
    """Return whether it is the ``type`` of a medium's ``source``, rather than of a block."""
    return kind in _SOURCES


def inherits(key: str) -> bool:
    """Return whether a mapping under this key belongs to the block around it."""
    return key in _INHERITING


def is_bedrocks(key: str) -> bool:
    """Return whether the key of a block without a ``type`` says that it is a medium."""
    return key in _BEDROCK


def is_word(key: str) -> bool:
    """Return whether this library knows what the key is for."""
    return key in _WORDS


def is_key(key: str) -> bool:
    """Return whether it looks like a key, and not like something that is said."""
    return _KEY.fullmatch(key) is not None


def is_name(value: str) -> bool:
    """Return whether it looks like an identifier, an enumeration or a time, and not like something that is said."""
    return _NAME.fullmatch(value) is not None


def is_somebodys_name(value: str) -> bool:
    """Return whether it may be what somebody is called, and is no sentence whose words are joined up."""
    words = [word for word in _BETWEEN_WORDS.split(value) if word]
    return is_name(value) and len(value) <= _MAX_NAME and len(words) <= _MAX_NAME_WORDS


def is_opaque(value: str) -> bool:
    """Return whether it may be encoded bytes."""
    return _OPAQUE.fullmatch(value) is not None

"""What stands on a message beside its content: a name, and what a provider tells of the answer."""

from __future__ import annotations

from langchain_core.messages import BaseMessage

from guardrail_plugin.runnables.block_kinds import is_name, is_somebodys_name
from guardrail_plugin.runnables.content import strings_of_data

_COUNTS = frozenset({"logprobs", "token_usage", "usage", "usage_metadata", "metrics", "ResponseMetadata", "headers"})
"""The answer's tokens again, what they cost, and HTTP."""

_TERMS = frozenset(
    {
        "model", "model_name", "model_id", "model_provider", "model_version", "provider", "output_version", "id",
        "object", "status", "created", "created_at", "finish_reason", "native_finish_reason", "stop_reason",
        "stopReason", "stop_sequence", "done_reason", "done", "incomplete_details", "system_fingerprint",
        "service_tier", "safety_ratings", "prompt_feedback", "block_reason", "is_blocked", "content_filter_results",
        "prompt_filter_results", "guardrail", "ls_provider", "ls_model_name", "request_id", "container",
        "reasoning_effort", "x_groq", "stop_details", "cache_control",
    }
)  # fmt: skip
"""Keys with identifiers and enumerations. What does not look like one is judged here too."""

MACHINERY = _COUNTS | _TERMS
"""Keys that some providers put beside the content instead: there only what looks like an identifier is exempt."""


def metadata_in(message: BaseMessage) -> list[str]:
    """Return the strings beside a message's content that may tell a reader something.

    Raises:
        InputError: they are nested without end.
    """
    found: list[str] = []
    if message.name and not is_name(message.name):
        found.append(message.name)
    for key, value in message.response_metadata.items():
        if key not in _COUNTS:
            told = strings_of_data(value, keys=False)
            found += [text for text in told if key not in _TERMS or not is_name(text)]
    return [text for text in found if text.strip()]


def name_in(message: BaseMessage) -> str | None:
    """Return the name of a message where it may be more than that: providers show it to the model."""
    name = message.name or message.additional_kwargs.get("name")
    return name if isinstance(name, str) and name.strip() and not is_somebodys_name(name) else None

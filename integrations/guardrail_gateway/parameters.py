"""What a chat request tells a model beside its messages: servers have parameters of their own that hold text."""

from __future__ import annotations

from collections.abc import Mapping

from guardrail_gateway.reading import is_word
from guardrail_plugin.runnables.content import strings_in

_SETTINGS = frozenset(
    {
        "messages", "model", "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs",
        "max_completion_tokens", "max_tokens", "metadata", "modalities", "n", "parallel_tool_calls", "prediction",
        "presence_penalty", "prompt_cache_key", "prompt_cache_retention", "reasoning_effort", "response_format",
        "safety_identifier", "seed", "service_tier", "stop", "store", "stream", "stream_options", "temperature",
        "tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity", "web_search_options",
        "guided_json", "guided_regex", "guided_choice", "guided_grammar", "guided_whitespace_pattern", "grammar",
        "json_schema", "structured_outputs", "bad_words",
    }
)  # fmt: skip
"""OpenAI's parameters, and those of other servers that bound an answer. None is part of what the model is told, but
for descriptions of tools and of schemas, which are not looked at."""


def said_beside(body: Mapping[str, object]) -> str:
    """Return the text under keys that are none of these: documents, tool prompts, variables of templates.

    Raises:
        InputError: it is nested without end.
    """
    found = [
        text
        for key, value in body.items()
        if key not in _SETTINGS and isinstance(value, str | list | dict)
        for text in strings_in(value, keys=True)
    ]
    return "\n".join(text for text in found if text.strip() and not is_word(text))

"""What a request tells a model beside its messages: servers have parameters of their own that hold text."""

from __future__ import annotations

from collections.abc import Mapping

from guardrail_gateway.bodies import as_object
from guardrail_gateway.problems import bad_request
from guardrail_gateway.reading import text_beside

CHAT_SETTINGS = frozenset(
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


RESPONSES_SETTINGS = frozenset(
    {
        "input", "model", "instructions", "background", "conversation", "include", "max_output_tokens",
        "max_tool_calls", "metadata", "parallel_tool_calls", "previous_response_id", "prompt", "prompt_cache_key",
        "prompt_cache_retention", "reasoning", "safety_identifier", "service_tier", "store", "stream",
        "stream_options", "temperature", "text", "tool_choice", "tools", "top_logprobs", "top_p", "truncation", "user",
        "presence_penalty", "frequency_penalty", "seed", "stop", "structured_outputs",
    }
)  # fmt: skip
"""Those of the Responses API. Instructions, and the variables of a stored prompt, are judged with the input."""

_TEMPLATE = "chat_template"
_VARIABLES = "chat_template_kwargs"


def said_beside(body: Mapping[str, object], *, known: frozenset[str] = CHAT_SETTINGS) -> str:
    """Return the text under keys that are none of these: documents, tool prompts, variables of templates.

    Raises:
        InputError: it is nested without end.
        Problem: 400, it holds a chat template.
    """
    variables = body.get(_VARIABLES)
    if body.get(_TEMPLATE) or as_object(variables).get(_TEMPLATE):
        raise bad_request("What a chat template of your own makes of the messages cannot be judged.", param=_TEMPLATE)
    told = text_beside(body, known | {_VARIABLES})
    told += text_beside(variables if isinstance(variables, dict) else {_VARIABLES: variables}, frozenset())
    return "\n".join(told)

"""OpenAI's Responses API: from its items to what is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk

from guardrail_gateway.bodies import as_object
from guardrail_gateway.problems import bad_request
from guardrail_gateway.reading import ToolOutput, unknown_text
from guardrail_plugin import Check
from guardrail_plugin.runnables.block_kinds import PICTURE, PICTURE_CALL
from guardrail_plugin.runnables.blocks import as_json
from guardrail_plugin.runnables.content import read_content, shown_in, strings_in, text_in
from guardrail_plugin.runnables.encoded import is_payload

_CALLS = "_call"
_OUTPUTS = "_call_output"
_RETURNED = ("output", "outputs", "results", "error")
"""Keys of calls that hold what a tool returned."""

_MODELS_OWN = frozenset(
    {"reasoning", "item_reference", "compaction", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response"}
)  # fmt: skip
"""Items of a request that the model said, or that say yes or no. Kinds that are not known count as the user's."""

_ANY_BYTES = "AA=="
"""In place of an image in a call: that there is one is all that counts."""

_THOUGHTS = ("reasoning", "compaction")
_ORDERS = ("mcp_approval_request",)
_NAMED = frozenset({"id", "type", "status", "call_id", "name", "server_label", "approval_request_id", "namespace"})
_PLAIN = frozenset({"id", "type", "status", "content", "role", "phase"})
"""Keys of calls, and of messages, without anything that is said."""

ECHOED = frozenset(
    {
        "id", "object", "created_at", "completed_at", "status", "incomplete_details", "model", "output", "usage",
        "instructions", "metadata", "tools", "tool_choice", "parallel_tool_calls", "temperature", "top_p",
        "top_logprobs", "max_output_tokens", "max_tool_calls", "previous_response_id", "conversation", "prompt", "text",
        "reasoning", "truncation", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
        "service_tier", "store", "background", "billing", "presence_penalty", "frequency_penalty",
    }
)  # fmt: skip
"""Keys of a response that repeat the request, or count. Strings under any other key are judged with the answer."""


def as_messages(body: Mapping[str, object]) -> list[object]:
    """Return the conversation that a request holds, as chat messages.

    Raises:
        Problem: ``input`` is neither text nor a list of items.
    """
    given = body.get("input")
    # A stored prompt's variables are the user's words as much as the input is.
    variables = as_object(as_object(body.get("prompt")).get("variables"))
    values = [value if isinstance(value, str | dict) else as_json(value) for value in variables.values()]
    filled = [{"role": "user", "content": values}] if values else []
    if isinstance(given, str):
        return [{"role": "user", "content": given}, *filled]
    if not (isinstance(given, list) and given) and not (given is None and filled):
        raise bad_request("input must be text, or a list of items.", param="input")
    return [*(_as_message(item) for item in given or ()), *filled]


def _as_message(item: object) -> object:
    told = as_object(item)
    kind = told.get("type", "message")
    if kind == "message":
        # Tools answer in items of their own: a message in a tool's name is the caller's.
        role = told.get("role", "user")
        beside = {key: value for key, value in told.items() if key not in _PLAIN}
        told_role = "user" if role in ("tool", "function") else role
        return {**beside, "role": told_role, "content": _content(told.get("content"))}
    if kind == "mcp_approval_response" and isinstance(told.get("reason"), str) and told["reason"]:
        return {"role": "user", "content": told["reason"]}
    if isinstance(kind, str) and kind.endswith(_OUTPUTS):
        return {
            **{key: value for key, value in told.items() if key not in (*_NAMED, "output")},
            "role": "tool",
            "tool_call_id": str(told.get("call_id", "")),
            "content": _returned(told.get("output")),
            "name": told.get("name"),
        }
    if isinstance(kind, str) and (kind.endswith(_CALLS) or kind in _ORDERS):
        order = _order(kind, as_object(without_picture(item)))
        return {"role": "assistant", "content": "", "tool_calls": [{"function": order}], "images": _shown(item)}
    if kind in _MODELS_OWN:
        thought = strings_in(told, keys=False) if kind in _THOUGHTS else []
        return {"role": "assistant", "content": "", "reasoning_content": "\n".join(thought)}
    return {"role": "user", "content": _content([item])}


def _content(content: object) -> object:
    """Return a message's content as it is, where the rails can read it: they must see its images and files."""
    return content if isinstance(content, str | list) else text_in(content)


def _returned(output: object) -> object:
    return output if isinstance(output, list) else output_text(output)


def without_picture(item: object) -> object:
    """Return an item without the image that it made, which is no text, though it is written as one."""
    told = as_object(item)
    made = told.get(PICTURE)
    if told.get("type") != PICTURE_CALL or not isinstance(made, str) or not is_payload(made):
        return item
    return {key: value for key, value in told.items() if key != PICTURE}


def _shown(call: object) -> list[str | dict[str, object]]:
    """Return what a call holds that no rail can read, as blocks: as a call it would count as text."""
    return [{"type": kind, "base64": _ANY_BYTES} for kind in shown_in(call)[0]]


def _order(kind: str, call: Mapping[str, object]) -> dict[str, object]:
    name, arguments = call.get("name"), call.get("arguments")
    rest = {key: value for key, value in call.items() if key not in (*_NAMED, *_RETURNED)}
    if set(rest) == {"arguments"} and isinstance(arguments, str):
        return {"name": str(name), "arguments": arguments}
    return {"name": str(name or kind), "arguments": as_json(rest)}


def server_outputs(items: object, messages: Sequence[object], *, everything: bool) -> dict[int, ToolOutput]:
    """Return, by index, what tools that run beside the model returned: their calls hold it.

    Args:
        messages: what ``as_messages`` made of the items.
        everything: also what they returned before the latest user turn.
    """
    given = items if isinstance(items, list) else []
    roles = [as_object(message).get("role") for message in messages[: len(given)]]
    start = 0 if everything or "user" not in roles else len(roles) - roles[::-1].index("user")
    found: dict[int, ToolOutput] = {}
    for index in range(start, len(given)):
        item = as_object(given[index])
        kind = item.get("type")
        if isinstance(kind, str) and kind.endswith(_CALLS):
            told = [item[key] for key in _RETURNED if item.get(key)]
            files = [kind for value in told for kind in read_content(value).files]
            text = "\n".join(map(output_text, told))
            if text.strip() or files:
                found[index] = ToolOutput(Check(text, rail="tool_output"), tuple(dict.fromkeys(files)))
    return found


def output_text(output: object) -> str:
    """Return what a tool returned, as text."""
    return output if isinstance(output, str) else text_in(output) or as_json(output)


def _without_logprobs(item: Mapping[str, object]) -> dict[str, object]:
    """Return an item without its texts' tokens again, and the words that were not chosen."""
    parts = item.get("content")
    if not isinstance(parts, list):
        return dict(item)
    kept = [{k: v for k, v in part.items() if k != "logprobs"} if isinstance(part, dict) else part for part in parts]
    return {**item, "content": kept}


def whole_answer(response: Mapping[str, object]) -> AIMessageChunk:
    """Return a response as what the output rail judges: texts, reasoning, each call, and what else it says."""
    blocks: list[str | dict[str, object]] = []
    calls = []
    output = response.get("output")
    for position, given in enumerate(output if isinstance(output, list) else []):
        item = without_picture(given)
        told = as_object(item)
        kind = str(told.get("type", ""))
        if not isinstance(item, dict):
            blocks.append({"type": "more", "more": item})
        elif kind.endswith(_CALLS):
            rest = {key: value for key, value in told.items() if key not in ("id", "type", "status", "call_id", "name")}
            text = str(rest.pop("arguments")) if isinstance(rest.get("arguments"), str) else ""
            text += as_json(rest) if rest else ""
            calls.append(tool_call_chunk(name=str(told.get("name", kind)), args=text, id=None, index=position))
            blocks += _shown(given)
        else:
            blocks.append(_without_logprobs(told))
    if more := unknown_text(response, ECHOED):
        blocks.append({"type": "more", "more": more})
    return AIMessageChunk(content=blocks, tool_call_chunks=calls)

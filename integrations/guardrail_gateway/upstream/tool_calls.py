"""Tool calls of a small model: the caller names the function, the model fills in its arguments."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping, Sequence

from langchain_core.messages import BaseMessage, HumanMessage

from guardrail_gateway.bodies import JsonObject, as_object
from guardrail_gateway.problems import bad_request
from guardrail_plugin import InferencePool
from guardrail_plugin.models.chat import LocalChat
from guardrail_plugin.pool.protocol import GenerateRequest, ScoreRequest

_MAX_VALUE_TOKENS = 24
_MAX_PROPERTIES = 16
_STOPS = '"\n'


async def forced_call(
    body: JsonObject, messages: Sequence[BaseMessage], *, pool: InferencePool, max_tokens: int
) -> JsonObject | None:
    """Return a call of the function that ``tool_choice`` orders; ``None``: it orders none.

    Raises:
        Problem: it names a function that is not among the tools.

    Cancellation: the decode is stopped.
    """
    function = _ordered(body)
    if function is None:
        return None
    chat = await asyncio.to_thread(LocalChat.register, None, pool=pool)
    filler = _Filler(chat, pool, _asked(messages), function, max_tokens)
    arguments = await filler.arguments()
    return {
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": function["name"], "arguments": json.dumps(arguments)},
    }


def _ordered(body: JsonObject) -> Mapping[str, object] | None:
    tools = body.get("tools")
    functions = [as_object(as_object(tool).get("function")) for tool in tools] if isinstance(tools, list) else []
    choice = body.get("tool_choice")
    if choice == "required":
        named = functions[0].get("name") if functions else None
    elif isinstance(choice, dict):
        named = as_object(choice.get("function")).get("name")
    else:
        return None
    for function in functions:
        if isinstance(named, str) and function.get("name") == named:
            return function
    raise bad_request("tool_choice names a function that is not among the tools.", param="tool_choice")


def _asked(messages: Sequence[BaseMessage]) -> str:
    spoken = [str(message.text) for message in messages if isinstance(message, HumanMessage)]
    return spoken[-1] if spoken else ""


class _Filler:
    """Fills in one function's arguments, property by property."""

    def __init__(
        self, chat: LocalChat, pool: InferencePool, query: str, function: Mapping[str, object], max_tokens: int
    ) -> None:
        self._chat = chat
        self._pool = pool
        self._query = query
        self._function = function
        self._max_tokens = min(max_tokens, _MAX_VALUE_TOKENS)

    async def arguments(self) -> JsonObject:
        """Return a value for each property that the schema requires, or for all where it requires none."""
        schema = as_object(self._function.get("parameters"))
        properties = as_object(schema.get("properties"))
        required = schema.get("required")
        wanted = [name for name in required if name in properties] if isinstance(required, list) else list(properties)
        filled: JsonObject = {}
        for name in wanted[:_MAX_PROPERTIES]:
            filled[name] = await self._value(name, as_object(properties[name]))
        return filled

    async def _value(self, name: str, schema: Mapping[str, object]) -> object:
        choices = [True, False] if schema.get("type") == "boolean" else schema.get("enum")
        start = self._prompt(name, schema)
        if isinstance(choices, list) and choices:
            return choices[await self._likeliest(start, [str(choice) for choice in choices])]
        text = await self._text(start)
        if schema.get("type") in ("integer", "number"):
            return _number(text, whole=schema.get("type") == "integer")
        return [text] if schema.get("type") == "array" else text

    def _prompt(self, name: str, schema: Mapping[str, object]) -> tuple[int, ...]:
        told = schema.get("description") or name.replace("_", " ")
        order = f"Copy the {told} out of this request, nothing else.\nRequest: {self._query}"
        head = self._chat.encode([{"role": "user", "content": order}])
        return (*head, *self._chat.template.content_ids(f'{{"{name}": "'))

    async def _likeliest(self, start: tuple[int, ...], choices: Sequence[str]) -> int:
        first = [self._chat.template.content_ids(choice)[0] for choice in choices]
        distinct = tuple(dict.fromkeys(first))
        [scored] = await self._pool.ascore_many([ScoreRequest(self._chat.key, start, distinct)])
        if isinstance(scored, Exception):
            raise scored
        best = distinct[max(range(len(distinct)), key=scored.logprobs.__getitem__)]
        return first.index(best)

    async def _text(self, start: tuple[int, ...]) -> str:
        request = GenerateRequest(self._chat.key, start, self._max_tokens, stop_ids=self._chat.stop_ids)
        generated = await self._pool.agenerate(request)
        text = self._chat.template.decode(generated.token_ids)
        for stop in _STOPS:
            text = text.partition(stop)[0]
        return text.strip()


def _number(text: str, *, whole: bool) -> int | float:
    digits = "".join(character for character in text if character in "0123456789.-")
    try:
        return int(float(digits)) if whole else float(digits)
    except (ValueError, OverflowError):
        return 0

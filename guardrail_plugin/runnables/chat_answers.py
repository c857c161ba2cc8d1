"""A local model's tokens → message chunks: whole characters, cut at stop strings, tool calls taken out."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk

# Two ways in which open models write calls: Hermes' tags (Qwen, SmolLM2-1.7B, ...) and bare JSON (Llama 3, Mistral).
CALL_OPENS, CALL_CLOSES = "<tool_call>", "</tool_call>"
_NAME = re.compile(r'"name"\s*:\s*"([^"]+)"')


class Answer:
    """A growing answer.

    Args:
        decode: token ids → text.
        stop: strings that end the answer; they are not part of it.
        calls_tools: whether tool calls are looked for. Text from where one may begin is held back until the end.
        begun: what was put into the model's mouth to force a call; part of the answer.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], *, stop: Sequence[str] = (), calls_tools: bool, begun: str = ""
    ) -> None:
        self._decode = decode
        self._stop = list(stop)
        self._calls_tools = calls_tools
        self._begun = begun
        self._ids: list[int] = []
        self._shown = 0
        self.stopped = False

    def add(self, token_id: int) -> ChatGenerationChunk | None:
        """Take one token; return the text that is certain now, if any."""
        self._ids.append(token_id)
        text = self._text()
        # Half of a character decodes to U+FFFD; a stop string or a call may have begun. None is shown yet.
        text = text.rstrip("\ufffd")
        shown = len(text) if self.stopped else self._safe_length(text)
        shown = min(shown, self._call_at(text))
        new, self._shown = text[self._shown : shown], max(self._shown, shown)
        return ChatGenerationChunk(message=AIMessageChunk(content=new)) if new else None

    def end(self, *, prompt_tokens: int, most_tokens: int, model_name: str) -> ChatGenerationChunk:
        """Return the last chunk: what was held back, tool calls, usage and why it ended."""
        text = self._text()
        calls: list[ToolCallChunk] = []
        if self._calls_tools:
            text, calls = split_tool_calls(text)
        usage = UsageMetadata(
            input_tokens=prompt_tokens, output_tokens=len(self._ids), total_tokens=prompt_tokens + len(self._ids)
        )
        ran_out = not self.stopped and len(self._ids) >= most_tokens
        reason = "length" if ran_out else "tool_calls" if calls else "stop"
        message = AIMessageChunk(
            content=text[self._shown :],
            tool_call_chunks=calls,
            usage_metadata=usage,
            response_metadata={"model_name": model_name, "finish_reason": reason},
            chunk_position="last",
        )
        return ChatGenerationChunk(message=message)

    def _text(self) -> str:
        text = self._begun + self._decode(self._ids)
        places = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if places:
            self.stopped = True
            return text[: min(places)]
        return text

    def _safe_length(self, text: str) -> int:
        marks = [*self._stop, CALL_OPENS] if self._calls_tools else self._stop
        held = max((size for mark in marks for size in range(1, len(mark)) if text.endswith(mark[:size])), default=0)
        return len(text) - held

    def _call_at(self, text: str) -> int:
        """Return from where on the text may be a call."""
        if not self._calls_tools:
            return len(text)
        if text.lstrip()[:1] in ("{", "["):
            return 0
        at = text.find(CALL_OPENS)
        return len(text) if at < 0 else at


def split_tool_calls(text: str) -> tuple[str, list[ToolCallChunk]]:
    """Return what is said besides calls, and the calls. Arguments that are not JSON stay as they are: LangChain then
    reports an invalid call, and nothing runs."""
    before, *rest = text.split(CALL_OPENS)
    if rest:
        calls = [chunk for one in rest for chunk in _calls(one.split(CALL_CLOSES)[0])]
    else:
        calls, before = (_calls(text), "") if text.lstrip()[:1] in ("{", "[") else ([], text)
        if not any(call["name"] for call in calls):
            return text, []  # JSON that is no call is an answer
    numbered = [{**call, "index": number} for number, call in enumerate(calls)]
    return before.rstrip() if numbered else text, [tool_call_chunk(**_plain(call)) for call in numbered]


def forced_call(name: str, *, tagged: bool) -> str:
    """Return how a call of one tool begins, or of any tool."""
    opens = f"{CALL_OPENS}\n" if tagged else ""
    return f'{opens}{{"name": "' if name == "any" else f'{opens}{{"name": {json.dumps(name)}, "arguments": '


def _calls(written: str) -> list[ToolCallChunk]:
    try:
        value, _ = json.JSONDecoder().raw_decode(written.strip())
    except json.JSONDecodeError:
        name = _NAME.search(written)
        # As a JSON string: LangChain would complete what is cut off and call it valid.
        return [tool_call_chunk(name=name[1] if name else None, args=json.dumps(written.strip()), id=_new_id())]
    return [_call(one) for one in (value if isinstance(value, list) else [value])]


def _call(value: Any) -> ToolCallChunk:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return tool_call_chunk(name=None, args=json.dumps(value), id=_new_id())
    args = value.get("arguments", value.get("parameters", {}))
    return tool_call_chunk(
        name=value["name"], args=args if isinstance(args, str) else json.dumps(args, ensure_ascii=False), id=_new_id()
    )


def _plain(call: dict[str, Any]) -> dict[str, Any]:
    return {name: call[name] for name in ("name", "args", "id", "index")}


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"

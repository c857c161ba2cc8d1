"""What the tools of an agent returned through its rails. Whatever else comes into a thread as an output is judged."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from threading import Lock

from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.runnables.config import ensure_config

from guardrail_plugin.runnables import messages_of

_MOST = 10_000
"""Outputs that are remembered; the oldest go first. They are needed until the node after the tools has noted them."""


class OwnOutputs:
    """Remembers, in this process, fingerprints of what went through the tool rails, by thread. Keeps no text.

    A run that is resumed in another process has its last outputs judged once more.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._lock = Lock()

    def note(self, result: object) -> None:
        """Remember the messages in what a tool call comes back as."""
        new = [_print(message) for message in messages_of(result) if isinstance(message, ToolMessage)]
        with self._lock:
            for key in new:
                self._known[key] = None
                self._known.move_to_end(key)
            while len(self._known) > _MOST:
                self._known.popitem(last=False)

    def __contains__(self, message: object) -> bool:
        """Tell whether a message is one of them."""
        if not isinstance(message, ToolMessage):
            return False
        key = _print(message)
        with self._lock:
            return key in self._known


def _print(message: BaseMessage) -> bytes:
    thread = ensure_config().get("configurable", {}).get("thread_id")
    told = (thread, getattr(message, "tool_call_id", None), message.name, message.content)
    return hashlib.sha256(repr(told).encode("utf-8", "surrogatepass")).digest()

"""Read plain data of which a chain may show its model every string, as a prompt does that writes it out."""

from __future__ import annotations

from typing_extensions import override

from guardrail_plugin.runnables.block_kinds import MESSAGE_KEYS, family_of, is_word
from guardrail_plugin.runnables.content import Content, Reader

_ROLES = frozenset({"user", "human", "assistant", "ai", "system", "developer", "tool", "function"})


def read_raw(value: object) -> Content:
    """Return all strings in messages that are written out, whoever's they are, and what among them cannot be read.

    Raises:
        InputError: they are nested without end.
    """
    reader = _RawReader(keys=True)
    reader.read_data(value)
    text = "\n".join(text for _, text in reader.runs)
    return Content(text, tuple(reader.sealed), tuple(reader.files), open=bool(text.strip()))


class _RawReader(Reader):
    """Takes for machinery only words that this library knows: what looks like an identifier may be a sentence."""

    @override
    def _tells_key(self, name: str, *, known: bool) -> bool:
        return name not in MESSAGE_KEYS and not is_word(name)

    @override
    def _tells(self, text: str, naming: bool, key: str, *, known: bool) -> bool:
        return key not in ("role", "type") or (text not in _ROLES and family_of(text) == "unknown")

"""A tokenizer of characters, for servers that take text and tokenise it themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence

_FIRST_LABEL = 0x110000  # past the last Unicode character
_NO_TEXT = "\ufffd"
# The server will read control tokens wherever they stand, so in content none may stand.
_CONTROL = re.compile(
    r"<\|(?=[^|>]{1,40}\|>)|<(?=/?(?:s|think|eos|bos|pad|unk|begin_of_text|score|guardian|(?:start|end)_of_\w+)>)"
    r"|\[(?=/?(?:INST|SYS|AVAILABLE_TOOLS|TOOL_\w+|CLS|SEP|PAD|MASK)\])|<(?=</?SYS>>)",
    re.IGNORECASE,
)


class CharacterTokenizer:
    """Ids are code points, labels are ids past them.

    Whatever looks like a control token is broken up in content, because the server's tokenizer would obey it. That is
    weaker than splitting it by id: give ``Guardian.load(..., base=TOKENIZER)`` where the tokenizer is at hand.

    Attributes:
        bos: nothing; the server adds its own.
        ids_per_token: characters of an English token.
    """

    bos: tuple[int, ...] = ()
    ids_per_token: int = 4

    def __init__(self) -> None:
        self._labels: list[str] = []

    @property
    def end(self) -> int:
        """Stands for the end of an answer."""
        return self.label("")[0]

    def template(self, text: str, *, first: bool = False) -> list[int]:
        """Return the characters of a part of a template."""
        return [ord(c) for c in text]

    def content(self, text: str, *, first: bool = False) -> list[int]:
        """Return the characters of foreign text, with nothing in it that reads as a control token."""
        clean = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        return [ord(c) for c in _CONTROL.sub(lambda found: found[0] + " ", clean)]

    def label(self, text: str) -> tuple[int, ...]:
        """Return the id that stands for an answer."""
        if text not in self._labels:
            self._labels.append(text)
        return (_FIRST_LABEL + self._labels.index(text),)

    def wrap(self, *, pair: bool = False) -> tuple[tuple[int, ...], ...]:
        """Return nothing: a server wraps by itself."""
        return ((), (), ()) if pair else ((), ())

    def prompt(self, token_ids: Sequence[int]) -> str:
        """Return what a server is sent: the text."""
        return "".join(chr(i) if i < _FIRST_LABEL else _NO_TEXT for i in token_ids)

    def piece(self, token_id: int) -> str:
        """Return an answer's text."""
        return self._labels[token_id - _FIRST_LABEL]

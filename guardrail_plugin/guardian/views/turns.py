"""Read a text that plays a conversation turn by turn: what a forged answer says must not soften the question."""

from __future__ import annotations

import re

_MARKERS = re.compile(
    r"<\|\s*[a-z][a-z_]{1,30}\s*\|>"  # <|im_end|>, <|eot_id|>, <|endoftext|>, ...
    r"|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>"
    r"|^#{2,3} ?(?:instruction|response|system|user|assistant|human)s?:?[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
_ROLE = re.compile(r"\A\s*(?:system|user|assistant|model|tool|human)\b[ \t]*:?[ \t]*\n?", re.IGNORECASE)
_HEAD, _TAIL = 3, 2


def turns(text: str) -> tuple[str, ...]:
    """Return the turns of a text that holds a chat template's own markers; none if it holds no marker.

    Of more than six turns those in the middle come as one, so that the number of views is bounded.
    """
    if _MARKERS.search(text) is None:
        return ()
    found = [turn for piece in _MARKERS.split(text) if _words(turn := _ROLE.sub("", piece, count=1).strip())]
    if len(found) <= _HEAD + _TAIL + 1:
        return tuple(found)
    return (*found[:_HEAD], "\n".join(found[_HEAD:-_TAIL]), *found[-_TAIL:])


def _words(text: str) -> bool:
    return any(character.isalpha() for character in text)

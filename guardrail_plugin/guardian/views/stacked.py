"""Marks that are stacked on one character: sorting them, as every normal form does, takes time to the square."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

_MOST = 30
"""As Unicode's stream-safe text format has it (UAX #15, section 13): no orthography comes near."""

_PLANES = range(0x300, 0x20000)


def unstacked(text: str) -> tuple[str, bool]:
    """Return the text with no more than thirty marks on a character, and whether there were more. Linear."""
    if text.isascii() or not _runs().search(text):
        return text, False
    return _runs().sub(lambda run: run[0][:_MOST], text), True


@cache
def _runs() -> re.Pattern[str]:
    marks = {code for code in _PLANES if _is_mark(chr(code))}
    firsts = sorted(code for code in marks if code - 1 not in marks)
    lasts = sorted(code for code in marks if code + 1 not in marks)
    ranges = "".join(f"{chr(first)}-{chr(last)}" for first, last in zip(firsts, lasts, strict=True))
    return re.compile(f"[{ranges}]{{{_MOST + 1},}}")


def _is_mark(character: str) -> bool:
    """Tell whether it is sorted among the marks on a character: it, or all that it is taken apart into."""
    return all(map(unicodedata.combining, unicodedata.normalize("NFKD", character)))

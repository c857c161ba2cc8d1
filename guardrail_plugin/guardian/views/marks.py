"""Take off accents that spell nothing, and turn upside-down text upright.

Source: arXiv 2504.11168 (diacritics, underline accents and upside-down text against six guardrails).
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from guardrail_plugin.guardian.views.stacked import unstacked

_MARKS = "\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20df\u20e1-\u20ff"
_ANY_MARK = re.compile(f"[{_MARKS}]+")
_STACK = re.compile(f"[{_MARKS}]{{3,}}")
# After composition, three letters in a row with a mark left over: no orthography does that.
_LEFT_OVER = re.compile(f"(?:[A-Za-z][{_MARKS}]+){{3,}}")
_OVERLAY = re.compile("(?:\\w[\u0305\u0331-\u0338\u033f\u035f]){2,}")
_ODD = re.compile(f"[bcdfhkpqtvwxzBCDFHKPQTVWXZ][{_MARKS}]")
_DOTTED = re.compile("[\u1e00-\u1e9b]{3,}")
_ALL_MARKED = re.compile(f"(?:[A-Za-z][{_MARKS}]+){{5,}}")
_MANY_ODD = 2
# English words whose accented forms are words of no language that we know of.
_ENGLISH = re.compile(r"(?<!\w)(?:how|make|with|this|you|your|and|tell|give|write|from|what)(?!\w)")

_UPRIGHT = dict(zip("ɐqɔpǝɟƃɥᴉɾʞlɯuodbɹsʇnʌʍxʎz", "abcdefghijklmnopqrstuvwxyz", strict=True))
_UPRIGHT |= {"ı": "i", "ʃ": "l", "ɓ": "g", "∀": "A", "Ǝ": "E", "¿": "?", "¡": "!"}
_TURNED = re.compile("[ɐɔǝɟƃɥᴉɾʞɯɹʇʌʍʎ]")
# Outside the phonetic alphabet and African orthographies.
_ONLY_TURNED = re.compile("[ƃᴉʇʞǝ]")
_PHRASE = re.compile("[^:\n]+")


def unmark(text: str) -> tuple[str, bool]:
    """Return the text without decorative marks and upright, and whether it had any. Accents that spell stay."""
    if text.isascii():
        return text, False
    upright, turned = _upright(text)
    if not _is_decorated(upright):
        return upright, turned
    bare = _ANY_MARK.sub("", unicodedata.normalize("NFD", upright).translate(_stroked()))
    # What stood between two stacks may be gone, so that they are one.
    return unicodedata.normalize("NFC", unstacked(bare)[0]), True


def _is_decorated(text: str) -> bool:
    composed = unicodedata.normalize("NFC", text)
    if any(pattern.search(composed) for pattern in (_STACK, _LEFT_OVER, _OVERLAY, _DOTTED)):
        return True
    if len(_ODD.findall(composed)) >= _MANY_ODD:
        return True
    if _ALL_MARKED.search(unicodedata.normalize("NFD", composed)):
        return True
    lower = composed.lower()
    accented = set(_ENGLISH.findall(lower.translate(_bare_latin()))) - set(_ENGLISH.findall(lower))
    return len(accented) > 1


@cache
def _bare_latin() -> dict[int, str]:
    """Accented small Latin letters, and the letters under the accents."""
    table: dict[int, str] = {}
    for code in (*range(0xC0, 0x250), *range(0x1E00, 0x1F00)):
        base = unicodedata.normalize("NFD", chr(code))[0]
        if base.isascii():
            table[code] = base.lower()
    return table


@cache
def _stroked() -> dict[int, str]:
    """Letters with a stroke, which have no decomposition."""
    return {ord(stroked): letter for stroked, letter in zip("ƀȼđɇǥħɨɉłøŧʉɏƶ", "bcdeghijlotuyz", strict=True)}


def _upright(text: str) -> tuple[str, bool]:
    """Turn phrases in which a good part of the letters stands on its head; they read from their end."""
    if not _ONLY_TURNED.search(text):
        return text, False
    found = False

    def turned(match: re.Match[str]) -> str:
        nonlocal found
        phrase = match.group()
        on_head = _TURNED.findall(phrase)
        if len(set(on_head)) < 3 or 4 * len(on_head) < sum(map(str.isalpha, phrase)) or not _ONLY_TURNED.search(phrase):
            return phrase
        found = True
        return "".join(_UPRIGHT.get(c, c) for c in reversed(phrase))

    return _PHRASE.sub(turned, text), found

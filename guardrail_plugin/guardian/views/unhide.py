"""Take out of a text what a reader cannot see, and put in what was smuggled there.

Sources: arXiv 2504.11168 (Unicode tags, emoji smuggling, zero-width, bidirectional and deletion characters against
six guardrails); Paul Butler's byte ↔ variation-selector scheme of 2025; UTS #51 for what emoji really use.
"""

from __future__ import annotations

import re

# The three subdivision flags that Unicode recommends are the only lawful use of tag characters.
_FLAGS = "|".join(
    "\U0001f3f4" + "".join(chr(0xE0000 + ord(c)) for c in name) + "\U000e007f" for name in ("gbeng", "gbsct", "gbwls")
)
_CARRIER = re.compile(f"({_FLAGS})|([\U000e0000-\U000e007f]+)|[\ufe00-\ufe0f\U000e0100-\U000e01ef]+")
# Ideographs, Myanmar and Phags-pa letters have registered variants.
_HAS_VARIANTS = re.compile("[\u1000-\u109f\u3400-\u9fff\ua840-\ua877\U00020000-\U0003ffff]")
_MIN_RUN = 3
_MIN_LOOSE = 4

_OVERRIDE = re.compile("\u202e([^\u202c\u202e\u2069\n]*)\u202c?")
_RIGHT_TO_LEFT = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc"
_RIGHT_TO_LEFT_LETTER = re.compile(f"[{_RIGHT_TO_LEFT}]")

_C1 = "\x80-\x84\x86-\x9f"
_INVISIBLE_CLASS = (
    f"\x00-\x08\x0e-\x1f\x7f{_C1}\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_INVISIBLE = re.compile(f"[{_INVISIBLE_CLASS}]+")
_JOINER = "\u200d"
_NOT_JOINERS = re.compile("[" + _INVISIBLE_CLASS.replace("\u200b-\u200f", "\u200b\u200c\u200e\u200f") + "]+")
_EMOJI = "\u2190-\u2bff\u3030\u303d\U0001f000-\U0001faff"
_STRAY_JOINER = re.compile(f"(?<![{_EMOJI}]){_JOINER}|{_JOINER}(?![{_EMOJI}])")
# Joiners are spelling in these scripts, and South-East Asian ones mark word ends with a zero-width space.
_JOINING_SCRIPT = re.compile("[\u0600-\u109f\u1780-\u18af\ufb50-\ufdff\ufe70-\ufefc]")
_JOINING = frozenset("\u200b\u200c\u200d\u034f\u180b\u180c\u180d\u180e\u180f\u17b4\u17b5")
_DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u2066\u2067\u2068\u2069")
_FUNCTION_WORDS = "to how the of and is for with make me my in on what you your that this"
_MOJIBAKE = re.compile(f"[{_C1}\xad]+")


def unhide(text: str) -> tuple[str, bool]:
    """Return the text as a reader sees it, with hidden payloads opened, and whether it was tampered with.

    Invisible characters always go; only those that cut a word in two, carry a payload, delete or reverse are evidence.
    """
    text, erased = _backspaced(text)
    if text.isascii() and not _INVISIBLE.search(text):
        return text, erased
    text, smuggled = _opened(text)
    text, reversed_ = _unreversed(text)
    text, cut = _stripped(text)
    return text, erased or smuggled or reversed_ or cut


def _backspaced(text: str) -> tuple[str, bool]:
    """Apply backspace and delete characters, which a terminal would obey and a model reads as noise."""
    if "\b" not in text and "\x7f" not in text:
        return text, False
    kept: list[str] = []
    for i, part in enumerate(re.split("[\b\x7f]", text)):
        if i and kept:
            kept.pop()
        kept.extend(part)
    return "".join(kept), True


def _opened(text: str) -> tuple[str, bool]:
    """Decode tag characters to ASCII and variation selectors VS1..VS256 to bytes.

    Short runs spread over a text are noise or one payload drip by drip: they go, and what they spell, if it spells
    anything, is put at the end.
    """
    loose_tags: list[str] = []
    loose_bytes = bytearray()
    found = False

    def opened(match: re.Match[str]) -> str:
        nonlocal found
        run = match.group()
        if match.group(1):
            return run
        if match.group(2):
            found = True
            letters = "".join(chr(ord(c) - 0xE0000) for c in run if 0xE0020 <= ord(c) <= 0xE007E)
            if len(letters) >= _MIN_RUN:
                return f" {letters} "
            loose_tags.append(letters)
            return ""
        base = text[match.start() - 1] if match.start() else ""
        ordinary = _ordinary_selector(base, run)
        found = found or not ordinary
        if len(run) >= _MIN_RUN and (payload := _spelt(bytes(map(_selector_byte, run)))):
            return f" {payload} "
        loose_bytes.extend(map(_selector_byte, run))
        return run if ordinary else ""

    text = _CARRIER.sub(opened, text)
    tail = ["".join(loose_tags), _spelt(bytes(loose_bytes))]
    payload = " ".join(part for part in tail if len(part) >= _MIN_LOOSE)
    return (f"{text} {payload}", True) if payload else (text, found)


def _selector_byte(selector: str) -> int:
    code = ord(selector)
    return code - 0xFE00 if code <= 0xFE0F else code - 0xE0100 + 16


def _spelt(payload: bytes) -> str:
    """Return what smuggled bytes spell, or nothing if they are mostly not text."""
    text = payload.decode("utf-8", errors="ignore")
    printable = "".join(c for c in text if c.isprintable())
    return printable if len(printable) * 5 >= len(payload) * 2 and any(map(str.isalnum, printable)) else ""


def _ordinary_selector(base: str, run: str) -> bool:
    """Say whether these selectors belong on their base: emoji and text style, maths, ideographic variants.

    Software that appends a second VS16 is common; two text-style selectors carry nothing.
    """
    if len(run) <= 2 and not run.strip("\ufe0e\ufe0f"):
        return not base.isalpha() or base == "\u2139"
    if len(run) > 1 or not base:
        return False
    return not base.isalnum() or _HAS_VARIANTS.match(base) is not None


def _unreversed(text: str) -> tuple[str, bool]:
    """Undo right-to-left overrides over text that is not right-to-left."""
    if "\u202e" not in text:
        return text, False
    found = False

    def turned(match: re.Match[str]) -> str:
        nonlocal found
        inside = match.group(1)
        if _RIGHT_TO_LEFT_LETTER.search(inside) or not any(map(str.isalpha, inside)):
            return inside
        found = True
        return inside[::-1]

    return _OVERRIDE.sub(turned, text), found


def _stripped(text: str) -> tuple[str, bool]:
    """Remove invisible characters; emoji keep their joiners. Evidence: one stands inside a word."""
    cuts = sum(_cuts_a_word(text, match) for match in _INVISIBLE.finditer(text))
    instead = ""
    if cuts >= len(text.split()):  # more of them than blanks: perhaps they stand for blanks
        words = set(_INVISIBLE.sub(" ", text).lower().split())
        instead = " " if len(words.intersection(_FUNCTION_WORDS.split())) > 1 else ""
    return _STRAY_JOINER.sub(instead, _NOT_JOINERS.sub(instead, text)), cuts > 0


def _cuts_a_word(text: str, match: re.Match[str]) -> bool:
    start, end = match.span()
    if start == 0 or end == len(text):
        return False
    before, after, run = text[start - 1], text[end], match.group()
    if not (before.isalnum() and after.isalnum() and (before.isalpha() or after.isalpha())):
        return False
    if _CARRIER.fullmatch(run) and _ordinary_selector(before, run):
        return False
    if _JOINING_SCRIPT.match(before) and _JOINING_SCRIPT.match(after):
        alternating = start > 1 and _INVISIBLE.match(text[start - 2]) and _INVISIBLE.match(text[end + 1 : end + 2])
        return bool(alternating) or not (len(run) == 1 and run in _JOINING)
    if set(run) <= _DIRECTION and bool(_RIGHT_TO_LEFT_LETTER.match(before)) != bool(_RIGHT_TO_LEFT_LETTER.match(after)):
        return False
    # Mis-decoded UTF-8 ("donâ\x80\x99t") is a defect, not a disguise.
    return not ("\xc0" <= before <= "\xff" and _MOJIBAKE.fullmatch(run))

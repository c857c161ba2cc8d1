"""Read what is encoded inside a text, where cheap evidence says that natural text comes out.

Ordinary encodings stay: percent signs of URLs, entities of HTML, escapes of JSON, hashes, tokens, images.

Source for the need: a scanner that found none of the base64 attacks (GitHub thread fullsend-ai/fullsend#168), and the
encoded prompts of CyberSecEval (hexadecimal, binary, ROT13, Morse).
"""

from __future__ import annotations

import base64
import binascii
import html
import re
import unicodedata
from collections.abc import Callable, Iterable
from itertools import pairwise
from urllib.parse import unquote

from guardrail_plugin.guardian.views.cleaning import clean
from guardrail_plugin.guardian.views.decipher import decipher

_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{8,}(?:(?:\r?\n|(?:\\r)?\\n)[A-Za-z0-9+/_-]{8,})*={0,2}")
_BASE32 = re.compile(r"(?<![A-Z0-9])[A-Z2-7]{16,}={0,6}")
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:0x)?[0-9A-Fa-f]{12,}|(?<![0-9A-Za-z])[0-9A-Fa-f]{2}(?:[ ,:-][0-9A-Fa-f]{2}){3,}")
_BINARY = re.compile(r"(?<![01])[01]{8}(?:[ ,]?[01]{8}){2,}")
_NOT_HEX = re.compile(r"[^0-9A-Fa-f]")
_ONLY_HEX = re.compile(r"(?:[0-9A-Fa-f]{2}){6,}")
_ONLY_BASE64 = re.compile(r"[A-Za-z0-9+/\n]{12,}={0,2}\n?")
_MIN_BYTES = 3
_UNREADABLE = "\ufffd"
_JSON_LINE_END = re.compile(r"(?:\\r)?\\n")
_SENTENCE = re.compile(r"(?<![^\W\d_])[^\W\d_]+(?:[ ,.'?!\n-]{1,2}[^\W\d_]+){3,}")
_PLAIN_WORD = re.compile(r"[A-Za-z][a-z]{,22}|[A-Z]{,11}|[a-z]{,11}|\d+")
_SAMPLE_CHARACTERS = 200
_ENOUGH_LETTERS = 12

_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}")
_PERCENT_WORD = re.compile(r"(?<![^\s\"'<>])[^\s\"'<>%]*%[^\s\"'<>]+")
_PERCENT_LETTER = re.compile(r"%(?:3\d|[46][1-9A-Fa-f]|[57][0-9Aa])")
_URL = re.compile(r"[/?&=]|%(?:2F|3D|3F|26)", re.IGNORECASE)
_ENTITY = re.compile(r"&#(?:x[0-9A-Fa-f]{2,6}|\d{2,7});?")
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|u\{([0-9A-Fa-f]{2,6})\})")


def decode(text: str) -> str | None:
    """Return the text with every encoded span replaced by what it says, or ``None`` if there is none. One layer."""
    decoded = text
    for layer in (_percent, _entities, _escapes, _binary, _hexadecimal, _base64, _base32, decipher):
        decoded = layer(decoded)
    return None if decoded == text else decoded


def is_natural(text: str) -> bool:
    """Say whether decoded bytes read like words: letters and blanks, with vowels, not in wild case."""
    bare = text.strip()
    letters = sum(map(str.isalpha, bare))
    if letters < _MIN_BYTES or not all(c.isprintable() or c in "\n\r\t" for c in bare):
        return False
    blanks = sum(map(str.isspace, bare))
    if letters + blanks < (0.6 if blanks and len(bare) >= 24 else 0.8) * len(bare):
        return False
    plain = [c for c in bare if c.isascii() and c.isalpha()]
    if len(plain) < letters and not _is_coherent(bare, blanks > 0):
        return False
    if 2 * len(plain) < letters:
        return True
    vowels = sum(c in "aeiouyAEIOUY" for c in plain)
    inner_capitals = sum(a.islower() and b.isupper() for a, b in pairwise(bare))
    return 0.15 * len(plain) <= vowels < len(plain) and 8 * inner_capitals <= len(bare)


def _is_coherent(text: str, has_blanks: bool) -> bool:
    """Say whether the letters come from one alphabet. A name from a second one needs a blank, or company."""
    sample = [c for c in text[:_SAMPLE_CHARACTERS] if c.isalpha()]
    alphabets = {unicodedata.name(c, "?").split()[0].split("-")[0] for c in sample}
    if alphabets & {"HIRAGANA", "KATAKANA"}:
        alphabets = alphabets - {"HIRAGANA", "KATAKANA"} | {"CJK"}
    return len(alphabets) <= 1 + (has_blanks or len(sample) >= _ENOUGH_LETTERS)


def _text_of(raw: bytes) -> str | None:
    """Return natural text in UTF-8, or in the UTF-16 that PowerShell encodes; else ``None``."""
    wide = len(raw) >= 6 and len(raw) % 2 == 0 and not any(raw[1::2])
    try:
        text = raw.decode("utf-16-le" if wide else "utf-8")
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "replace")
    # Sentences that make up half of it are what it says, whatever bytes stand beside them.
    if 2 * sum(len(run) for run in _SENTENCE.findall(text) if is_natural(run)) >= len(text):
        return text
    if _UNREADABLE in text:
        return None
    return text if is_natural(text) or is_natural(clean(text)) or _is_encoded_again(text) else None


def _is_encoded_again(text: str) -> bool:
    """Say whether this is one more layer of base64 or hexadecimal: not natural, but something natural is in it."""
    try:
        inner = bytes.fromhex(text) if _ONLY_HEX.fullmatch(text) else binascii.a2b_base64(text)
        return bool(_ONLY_BASE64.fullmatch(text)) and is_natural(inner.decode())
    except (ValueError, binascii.Error):
        return False


def _each(pattern: re.Pattern[str], read: Callable[[str], str | None], text: str) -> str:
    def replaced(match: re.Match[str]) -> str:
        found = read(match.group())
        return match.group() if found is None else found

    return pattern.sub(replaced, text)


def _base64(text: str) -> str:
    def read(span: str) -> str | None:
        span = _JSON_LINE_END.sub("\n", span)
        whole = _base64_text("".join(span.split()))
        if whole is not None or "\n" not in span:
            return whole
        lines = [(line, _base64_text(line)) for line in span.split("\n")]
        return "\n".join(read or line for line, read in lines) if any(read for _, read in lines) else None

    return _each(_BASE64, read, text)


def _base64_text(span: str) -> str | None:
    body = span.rstrip("=").replace("-", "+").replace("_", "/")
    if len(body) % 4 == 1 or _PLAIN_WORD.fullmatch(body):
        return None
    try:
        return _text_of(binascii.a2b_base64(body + "=" * (-len(body) % 4)))
    except binascii.Error:
        return None


def _base32(text: str) -> str:
    def read(span: str) -> str | None:
        body = span.rstrip("=")
        try:
            return _text_of(base64.b32decode(body + "=" * (-len(body) % 8)))
        except binascii.Error:
            return None

    return _each(_BASE32, read, text)


def _hexadecimal(text: str) -> str:
    def read(span: str) -> str | None:
        digits = _NOT_HEX.sub("", span.removeprefix("0x"))
        if len(digits) % 2 or (digits.isdigit() and len(digits) < 20):
            return None
        return _text_of(bytes.fromhex(digits))

    return _each(_HEX, read, text)


def _binary(text: str) -> str:
    def read(span: str) -> str | None:
        bits = span.replace(" ", "").replace(",", "")
        return _text_of(bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)))

    return _each(_BINARY, read, text)


def _percent(text: str) -> str:
    """Decode words with encoded letters, which no URL needs; outside URLs also encoded blanks and other alphabets."""

    def read(word: str) -> str | None:
        if len(_PERCENT_LETTER.findall(word)) >= 3:
            return unquote(word, errors="ignore")
        if _URL.search(word) or len(_PERCENT.findall(word)) < 2:
            return None
        plain = unquote(word, errors="ignore")
        return plain if is_natural(plain) else None

    return _each(_PERCENT_WORD, read, text) if "%" in text else text


def _entities(text: str) -> str:
    """Decode numeric entities if three stand for plain letters, which no HTML needs."""
    coded = (html.unescape(entity.rstrip(";") + ";") for entity in _ENTITY.findall(text))
    return _ENTITY.sub(lambda m: html.unescape(m.group().rstrip(";") + ";"), text) if _plain(coded) else text


def _plain(characters: Iterable[str]) -> bool:
    return sum(c.isascii() and c.isalnum() for c in characters) >= 3


def _escapes(text: str) -> str:
    r"""Decode ``\x62`` and ``\u0062`` if three stand for plain letters, which no JSON needs."""

    def read(match: re.Match[str]) -> str:
        code = int(next(filter(None, match.groups())), 16)
        return chr(code) if code <= 0x10FFFF else match.group()

    return _ESCAPE.sub(read, text) if _plain(map(read, _ESCAPE.finditer(text))) else text

"""Text that comes as a file: in base64, in a ``data:`` link, or as bytes."""

from __future__ import annotations

import base64
import binascii
import codecs
import re
from urllib.parse import unquote_to_bytes

_DATA = re.compile(r"data:(?P<mime>[^;,\s]*)(?P<settings>(?:;[^;,]*)*),(?P<body>.*)", re.IGNORECASE | re.DOTALL)
_LINK = re.compile(r"[a-z][a-z0-9+.-]{1,20}://\S+", re.IGNORECASE)
_BASE64 = re.compile(r"[\w+/=-]*", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_SEEN_NOT_READ = ("image", "audio", "video")


def text_in_payload(payload: str, *, mime: str, kind: str) -> str | None:
    """Return the text that a medium's payload encodes; ``None``: it encodes none.

    Args:
        mime: what the block says it is; a ``data:`` link knows better.
        kind: the block's kind, where nothing says what it is.
    """
    found = _DATA.fullmatch(payload)
    if found is not None:
        mime = found["mime"] or mime
    if _is_seen(mime, kind):
        return None
    if found is not None and not found["settings"].lower().endswith(";base64"):
        raw: bytes | None = unquote_to_bytes(found["body"])
    else:
        raw = _from_base64(payload if found is None else found["body"])
    return None if raw is None else text_in_bytes(raw, mime=mime, kind=kind)


def text_in_bytes(raw: bytes, *, mime: str, kind: str) -> str | None:
    """Return the text that a file holds; ``None``: it is none."""
    if not raw or _is_seen(mime, kind):
        return None
    encoding = "utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        text = "\x00"
    if not _CONTROL.search(text):
        return text
    # What is called text is read as well as it can be.
    return raw.decode("utf-8", "replace").replace("\x00", "") if mime.lower().startswith("text") else None


def _is_seen(mime: str, kind: str) -> bool:
    """Return whether it is looked at or listened to, and not read. Vector graphics are XML."""
    told = (mime or kind).lower()
    return any(word in told for word in _SEEN_NOT_READ) and "xml" not in told


def is_payload(value: str) -> bool:
    """Return whether it is a link or encoded bytes, and nothing that somebody says."""
    found = _DATA.fullmatch(value)
    if found is not None:
        return _BASE64.fullmatch("".join(found["body"].split())) is not None
    return _LINK.fullmatch(value) is not None or _BASE64.fullmatch(value) is not None


def _from_base64(text: str) -> bytes | None:
    """Decode as the most lenient reader would: both alphabets, white space, more than one piece, padding or none."""
    bare = "".join(text.split()).translate(str.maketrans("-_", "+/"))
    try:
        pieces = [base64.b64decode(piece + "=" * (-len(piece) % 4), validate=True) for piece in bare.split("=")]
    except (binascii.Error, ValueError):
        return None
    return b"".join(pieces)

"""Text that comes as a file: in base64, in a ``data:`` link, or as bytes."""

from __future__ import annotations

import binascii
import codecs
import re
from typing import NamedTuple

_LINK = re.compile(r"[a-z][a-z0-9+.-]{1,20}://\S+", re.IGNORECASE)
_BASE64 = re.compile(r"[\w+/=-]*", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_PERCENT = re.compile(rb"(?:%[0-9a-fA-F]{2})+")
_PADDING = re.compile(r"=+")
_SEEN_NOT_READ = ("image", "audio", "video")
_MAX_HEADER = 500
"""Characters before the comma of a ``data:`` link. With more it is none: a header names a type and a file at most."""


class _DataLink(NamedTuple):
    mime: str
    encoded: bool
    body: str


def text_in_payload(payload: str, *, mime: str, kind: str) -> str | None:
    """Return the text that a medium's payload encodes; ``None``: it encodes none.

    Args:
        mime: what the block says it is; a ``data:`` link knows better.
        kind: the block's kind, where nothing says what it is.
    """
    link = _data_link(payload)
    if link is not None:
        mime = link.mime or mime
    if _is_seen(mime, kind):
        return None
    if link is not None and not link.encoded:
        raw: bytes | None = _PERCENT.sub(_unquoted, link.body.encode(errors="replace"))
    else:
        raw = _from_base64(payload if link is None else link.body)
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


def is_seen_payload(payload: str, *, mime: str, kind: str) -> bool:
    """Return whether a payload is looked at or listened to; a ``data:`` link knows better than its block."""
    link = _data_link(payload[: len("data:") + _MAX_HEADER + 1])
    return _is_seen(mime if link is None else link.mime or mime, kind)


def _is_seen(mime: str, kind: str) -> bool:
    """Return whether it is looked at or listened to, and not read. Vector graphics are XML."""
    told = (mime or kind).lower()
    return any(word in told for word in _SEEN_NOT_READ) and "xml" not in told


def is_payload(value: str) -> bool:
    """Return whether it is a link or encoded bytes, and nothing that somebody says."""
    link = _data_link(value)
    if link is not None:
        return _BASE64.fullmatch("".join(link.body.split())) is not None
    return is_link(value) or _BASE64.fullmatch(value) is not None


def is_link(value: str) -> bool:
    """Return whether it says where something is, and does not hold it."""
    return _LINK.fullmatch(value) is not None


def _data_link(value: str) -> _DataLink | None:
    """Take a ``data:`` link apart, without a regular expression: its body may have megabytes."""
    start = value[: len("data:") + _MAX_HEADER + 1]
    header, comma, _ = start[len("data:") :].partition(",")
    mime, *settings = header.split(";")
    if start[: len("data:")].lower() != "data:" or not comma or any(char.isspace() for char in mime):
        return None
    body = value[len("data:") + len(header) + 1 :]
    return _DataLink(mime, bool(settings) and settings[-1].lower() == "base64", body)


def _from_base64(text: str) -> bytes | None:
    """Decode as the most lenient reader would: both alphabets, white space, more than one piece, padding or none."""
    bare = "".join(text.split()).translate(str.maketrans("-_", "+/"))
    if _BASE64.fullmatch(bare) is None:
        return None
    try:
        pieces = [binascii.a2b_base64(piece + "=" * (-len(piece) % 4)) for piece in _PADDING.split(bare)]
    except binascii.Error:
        return None
    return b"".join(pieces)


def _unquoted(run: re.Match[bytes]) -> bytes:
    return bytes.fromhex(run[0].decode().replace("%", ""))

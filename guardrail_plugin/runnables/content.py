"""Text in message content. Reads every string in it that is not plainly machinery, of blocks of any provider."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import groupby

from pydantic import BaseModel

from guardrail_plugin.core.errors import InputError
from guardrail_plugin.runnables.block_kinds import (
    CITATIONS,
    MEDIA_KINDS,
    NAMES,
    PAYLOAD,
    PICTURE,
    PICTURE_CALL,
    REASONING_KINDS,
    SEALED,
    Family,
    family_of,
    inherits,
    is_bedrocks,
    is_key,
    is_name,
    is_opaque,
    is_source,
    is_word,
)
from guardrail_plugin.runnables.encoded import is_link, is_payload, is_seen_payload, text_in_bytes, text_in_payload

_MAX_DEPTH = 12
"""Nesting that is told apart; what lies deeper is read as JSON. Providers use at most four levels."""

_MIME = ("mime_type", "media_type", "mimeType")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in a message a value stands. ``naming``: under a key that identifies or enumerates."""

    family: Family
    kind: str = ""
    mime: str = ""
    naming: bool = False


_TOP = _Place("text")
_BARE = _Place("unknown", "bare")
_DATA = _Place("unknown", "data")


@dataclass(frozen=True, slots=True)
class Content:
    """What was found in a message's content. ``repr`` hides the text.

    Attributes:
        sealed: kinds of blocks that hold what no rail can read: images, links, encoded files.
        files: those of ``sealed`` that would be read, rather than looked at or listened to, such as documents.
        open: some text stands outside of what is sealed.
    """

    text: str = field(repr=False)
    sealed: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    open: bool = False


def text_in(content: object) -> str:
    """Return the text of a message's content, text blocks joined as ``BaseMessage.text`` joins them.

    ``BaseMessage.text`` skips blocks that are text to some provider but not of ``type: text``: Bedrock's
    ``{"text": …}``, OpenAI's ``input_text``, documents, tool results, files in base64. A rail must see them, and
    whatever is in blocks that it does not know; these stand on lines of their own.

    Raises:
        InputError: it is nested without end.
    """
    return read_content(content).text


def read_content(content: object) -> Content:
    """Return the text of a message's content, and what in it cannot be read.

    Raises:
        InputError: it is nested without end.
    """
    runs: list[tuple[bool, str]] = []
    sealed: dict[str, None] = {}
    files: dict[str, None] = {}
    is_open = False
    for block in content if isinstance(content, Sequence) and not isinstance(content, str | bytes) else [content]:
        reader = Reader(keys=True)
        reader.read(block)
        runs += reader.runs
        sealed.update(reader.sealed)
        files.update(reader.files)
        is_open = is_open or (not reader.sealed and any(text.strip() for _, text in reader.runs))
    lines = [
        ("" if plain else "\n").join(text for _, text in group)
        for plain, group in groupby(runs, key=lambda run: run[0])
    ]
    return Content("\n".join(lines), tuple(sealed), tuple(files), is_open)


def strings_in(value: object, *, keys: bool) -> list[str]:
    """Return the strings in a block of a message, in their order.

    Args:
        keys: take what is a key in somebody's data for text too. Never in chunks of a stream, where keys come again
            and again.

    Raises:
        InputError: it is nested without end.
    """
    reader = Reader(keys=keys)
    reader.read(value)
    return [text for _, text in reader.runs]


def strings_of_data(value: object, *, keys: bool) -> list[str]:
    """Like ``strings_in``, for what is no content block: nothing in it is exempt."""
    reader = Reader(keys=keys)
    reader.read_data(value)
    return [text for _, text in reader.runs]


def shown_in(block: object) -> tuple[tuple[str, ...], bool]:
    """Return the kinds of what no rail can read in a block of an answer, and whether there is text in it.

    Raises:
        InputError: it is nested without end.
    """
    reader = Reader(keys=False)
    reader.read(block)
    return tuple(reader.shown), any(text.strip() for _, text in reader.runs)


def shown_in_data(value: object) -> tuple[str, ...]:
    """Like ``shown_in``, for what is no content block: only what says that it is a medium is taken for one."""
    reader = Reader(keys=False)
    reader.read_data(value)
    return tuple(reader.shown)


def kinds_in(contents: Iterable[object]) -> list[str]:
    """Name the kinds of blocks without text in some contents, for error messages. Unknown kinds are ``"other"``."""
    kinds: dict[str, None] = {}
    for content in contents:
        for block in content if isinstance(content, list) else ():
            kind = block.get("type") if isinstance(block, Mapping) else None
            if kind is not None and not text_in([block]).strip():
                kinds[_told(kind)] = None
    return list(kinds)


class Reader:
    """Reads one block. Made for it.

    Attributes:
        runs: the strings in it, and of each whether it goes on where the one before it ended.
        sealed: kinds of media in it that cannot be read.
        files: those of them that would be read, if they could be.
        shown: those of them that whoever reads an answer is shown: not what its provider alone can read, such as
            encrypted reasoning, and not the sources that a citation links to.
    """

    def __init__(self, *, keys: bool) -> None:
        self.runs: list[tuple[bool, str]] = []
        self.sealed: dict[str, None] = {}
        self.files: dict[str, None] = {}
        self.shown: dict[str, None] = {}
        self._keys = keys
        self._cited = 0

    def read_data(self, value: object) -> None:
        """Take in what is no content block.

        Raises:
            InputError: it is nested without end.
        """
        self.read(value, _DATA)

    def read(self, value: object, place: _Place = _TOP, key: str = "", depth: int = 0) -> None:
        """Take in a value of whatever type.

        Raises:
            InputError: it is nested without end.
        """
        if isinstance(value, str):
            self._string(str(value), place, key)
        elif value is None or isinstance(value, bool | int | float):
            return
        elif isinstance(value, bytes | bytearray | memoryview):
            self._keep(text_in_bytes(bytes(value), mime=place.mime, kind=place.kind), place, key)
        elif depth > _MAX_DEPTH:
            self.runs.append((False, _flat(value)))
        elif isinstance(value, Mapping):
            self._mapping(value, _placed(value, place, key), depth)
        elif isinstance(value, Sequence | Set):
            for inner in value:
                self.read(inner, place, key, depth + 1)
        else:
            self.read(_dumped(value), place, key, depth + 1)

    def _mapping(self, block: Mapping[object, object], place: _Place, depth: int) -> None:
        known = place.family != "unknown"
        for key, inner in block.items():
            name = str(key)
            if self._tells_key(name, known=known):
                self.runs.append((False, name))
            names = name in NAMES if known else name in ("type", "index")
            # Of mappings only these two: anything could be told in others.
            naming = names and (isinstance(inner, str) or name in ("cache_control", "caller"))
            cited = name in CITATIONS
            self._cited += cited
            self.read(inner, replace(place, naming=naming or place.naming), name, depth + 1)
            self._cited -= cited

    def _string(self, text: str, place: _Place, key: str) -> None:
        known = place.family != "unknown"
        if place.kind == PICTURE_CALL and key == PICTURE and text:
            self._keep(None, replace(place, kind="image"), key, given=text)
        elif place.family == "media" and (key in PAYLOAD or (key in MEDIA_KINDS and is_payload(text))):
            self._keep(text_in_payload(text, mime=place.mime, kind=place.kind), place, key, given=text)
        elif text and self._tells(text, place.naming, key, known=known):
            self.runs.append((place.family == "text", text))

    def _tells_key(self, name: str, *, known: bool) -> bool:
        return not is_key(name) or (self._keys and not known and not is_word(name))

    def _tells(self, text: str, naming: bool, key: str, *, known: bool) -> bool:
        return not (naming and is_name(text)) and not (known and key in SEALED and is_opaque(text))

    def _keep(self, text: str | None, place: _Place, key: str, *, given: str = "") -> None:
        """Keep what a payload encodes; where it encodes no text, note that, and keep it as it is if that is text."""
        if text is None:
            self.sealed[_told(place.kind)] = None
            if place.kind not in REASONING_KINDS and not is_seen_payload(given, mime=place.mime, kind=place.kind):
                self.files[_told(place.kind)] = None
            source = self._cited and (is_link(given) or key == "file_id")
            if place.kind not in REASONING_KINDS and key not in SEALED and not source:
                self.shown[_told(place.kind)] = None
            text = "" if is_payload(given) and not place.mime.startswith("text") else given
        if text:
            self.runs.append((False, text))


def _placed(block: Mapping[object, object], place: _Place, key: str) -> _Place:
    mime = next((told for name in _MIME if isinstance(told := block.get(name), str)), place.mime)
    kind = block.get("type")
    if place.naming:
        return place
    if isinstance(kind, str):
        if place.family == "media" and is_source(kind):
            return replace(place, mime=mime)
        return _Place(family_of(kind), kind, mime)
    if place.family == "unknown":
        return _Place("media", key, mime) if place == _BARE and is_bedrocks(key) else _DATA
    if not place.kind:
        return _without_type(block)
    if not inherits(key):
        return _DATA
    return replace(place, mime=mime, family="known" if place.family == "text" else place.family)


def _without_type(block: Mapping[object, object]) -> _Place:
    if set(block) == {"text"}:
        return _Place("text", "text")
    # LangChain's ImagePromptValue; all others are Bedrock's, or nobody's.
    return _Place("media", "image_url") if "url" in block and set(block) <= {"url", "detail"} else _BARE


def _told(kind: object) -> str:
    return kind if isinstance(kind, str) and kind in MEDIA_KINDS else "other"


def _flat(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):
        # Raised anew without its cause, which may quote the content.
        raise InputError("content that is nested without end cannot be read") from None


def _dumped(value: object) -> object:
    if isinstance(value, BaseModel):  # its warnings about a value of the wrong type would print the value
        return value.model_dump(warnings=False)
    dump = getattr(value, "model_dump", None)
    return dump() if callable(dump) else str(value)

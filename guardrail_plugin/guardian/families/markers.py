"""Markers that a template's reader obeys though they are ordinary text: broken up in what is judged."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache


def neutralise(text: str, markers: Sequence[str], speakers: Sequence[str] = ()) -> str:
    """Return a text in which no marker is left whole.

    Args:
        markers: written with brackets (``<END CONVERSATION>``, ``[/INST]``); a blank is put after the first character.
        speakers: words with which a line of the template begins (``User:``); a blank is put before the colon.
    """
    if markers:
        text = _brackets(tuple(markers)).sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
    if speakers:
        text = _lines(tuple(speakers)).sub(lambda found: f"{found[1]} :", text)
    return text


@cache
def _brackets(markers: tuple[str, ...]) -> re.Pattern[str]:
    ways = (r"\s+".join(map(re.escape, marker.split())) for marker in markers)
    return re.compile("|".join(ways), re.IGNORECASE)


@cache
def _lines(speakers: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"^([ \t]*(?:{'|'.join(map(re.escape, speakers))})):", re.IGNORECASE | re.MULTILINE)

"""Other ways to read a text: without its disguise, and with what is encoded in it.

A guardian scores every view and acts on the worst. Each extra view costs a forward pass and a chance of a false
alarm, so ordinary text in any language has one view: itself. A second appears only on evidence of a disguise or of an
encoding that ordinary text does not use, and one per turn where a text holds a chat template's markers.

Sources: arXiv 2504.11168 evades six guardrails with Unicode tags, emoji smuggling, bidirectional and zero-width
characters, homoglyphs, full-width letters, diacritics, upside-down text, digits for letters, spacing and deletion
characters, up to 100 % of the time. Raw text is always the first view: no normalisation can hide what it says.
"""

from __future__ import annotations

import re

from guardrail_plugin.core.errors import ConfigError
from guardrail_plugin.guardian.views.cleaning import clean
from guardrail_plugin.guardian.views.decode import decode
from guardrail_plugin.guardian.views.turns import turns

_MAX_LAYERS = 2
# Hangul fillers are letters to \w, and tools' arguments are JSON, which writes line ends as two characters.
_FILLING = re.compile(r"(?:\\[nrtfb]|[\W_\u115f\u1160\u3164\uffa0]){33,}")
_DELETING = re.compile("[\b\x7f]")
_FILLED = 256
"""Characters of filling: less than what keeps two words out of one window."""
_MARKS = ".,;:!?"
_REPEATED = re.compile(r"(.)\1+", re.DOTALL)
_SAME = 8
"""Of one character in a row, as rules of tables have it, this many are about one token."""


def views(text: str, *, limit: int = 12) -> tuple[str, ...]:
    """Return the text, then its cleaned view, its decoded view and its turns where they say something else.

    Words that stand far apart, with blanks or signs between them that a model reads over, are read close together, too.

    Deterministic, and linear in the length of the text. Lone surrogates and control characters are fine.

    Args:
        text: anything.
        limit: most views to return, the text itself included. There are never more than twelve today.

    Raises:
        ConfigError: ``limit`` is below one.
    """
    if limit < 1:
        raise ConfigError(f"limit must be at least 1, got {limit}")
    cleaned = clean(text)
    decoded = _decoded(cleaned)
    # A terminal deletes where these stand; a model reads over them.
    whole = clean(_DELETING.sub("", text)) if _DELETING.search(text) else text
    found = (text, cleaned, decoded, whole, *turns(decoded))
    distinct: dict[str, str] = {}
    for view in found:
        distinct.setdefault(_gist(view), view)
    said = [view for gist, view in distinct.items() if gist or view is text]
    for closed in dict.fromkeys((_closed_up(decoded), _closed_up(text))):
        if closed is not None and closed not in said:
            said.append(closed)
    return tuple(said[:limit])


def _closed_up(text: str) -> str | None:
    """Return a text with its long runs of blanks and signs cut short; ``None`` where they are few."""
    runs = [run[0] for run in _FILLING.finditer(text)]
    if sum(len(_REPEATED.sub(r"\1", run)) + len(run) // _SAME for run in runs) < _FILLED:
        return None
    return _FILLING.sub(_short, text).strip() or None


def _short(run: re.Match[str]) -> str:
    first = run[0].lstrip()[:1]
    return (first if first in _MARKS else "") + ("\n" if "\n" in run[0] else " ")


def _decoded(text: str) -> str:
    """Return the text with up to two layers of encoding read, cleaning what comes out."""
    for _ in range(_MAX_LAYERS):
        layer = decode(text)
        if layer is None:
            break
        text = clean(layer)
    return text


def _gist(text: str) -> str:
    """What must differ for a view to be worth a forward pass: more than blanks and capitals."""
    return " ".join(text.split()).casefold()

"""One pass over every disguise: hidden characters, marks, look-alikes, spelling."""

from __future__ import annotations

from guardrail_plugin.guardian.views.lookalikes import undisguise
from guardrail_plugin.guardian.views.marks import unmark
from guardrail_plugin.guardian.views.respell import respell
from guardrail_plugin.guardian.views.stacked import unstacked
from guardrail_plugin.guardian.views.unhide import unhide


def clean(text: str) -> str:
    """Return the text without its disguise, or the text itself, untouched, if there is no evidence of one."""
    plain = text
    evidence = False
    for step in (unhide, unstacked, unmark, undisguise, respell):
        plain, found = step(plain)
        evidence = evidence or found
    return plain if evidence else text

"""Whether a text speaks of somebody under age: sexual content that does is never only "sexual content".

A rule beside the model, because policies may allow sex between adults (S12) and a small model's names are uncertain. It
errs on the safe side: a word is enough. Languages: the commonest words of a dozen; ages in digits in all.

The sexual half must be in what is judged now; the other may stand in an earlier turn of the user's, or in the query
that a response answers. About 2 % of ordinary requests hold such a word (ToxicChat, AlpacaEval); of 12,298 public pairs
of query and response 50 have it in the query alone, and one of these is sexual at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.core.hazards import CHILD_EXPLOITATION
from guardrail_plugin.guardian.views import views

SEXUAL_CONTENT = "S12"

_MOST_SHARE = 0.5
"""Of the risk: below it the text is about something else in the first place."""

_OF_AGE = 18
_NUMBERS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen".split()
)
_WORDS = re.compile(
    r"\b(?:child(?:ren)?|kids?|kiddo|minors?|under[- ]?age[d]?|toddlers?|infants?|newborns?|pre-?teens?|tweens?"
    r"|teen(?:s|age|aged|agers?)?|adolescents?|juveniles?|school ?(?:girls?|boys?|kids?)"
    r"|(?:little|young) (?:girls?|boys?)"
    r"|loli(?:ta|con)?s?|shota(?:con)?|(?:middle|elementary|primary) school(?:er)?s?|kindergart\w*|first graders?"
    r"|niñ[oa]s?|menor(?:es)?|enfants?|mineure?s?|kinder[ns]?|kindes|minderjährig\w*|bambin[oi]|bambin[ae]|minorenn[ei]"
    r"|crianças?|dziec\w*|çocuk\w*)\b"
    r"|дет(?:и|ей|ск)|реб[её]н|несовершеннолетн|아이|아동|미성년|초등학생|중학생|子供|子ども|未成年|小学生|中学生|儿童|兒童|幼女"
    r"|طفل|أطفال|قاصر|बच्च|नाबालिग",
    re.IGNORECASE,
)
_AGE = re.compile(
    r"(?<!\d)(\d{1,2})(?:\s*[-–])?\s*(?:(?:years?|yrs?|y)\b\.?\s*-?\s*(?:old|o\b)?|y/?o\b|ans\b|años\b|jahre|jährig|anni\b|anos\b|лет|세|살|歳|岁|歲)"
    r"|\bage[ds]?\s*(?:of\s*)?(\d{1,2})(?!\d)",
    re.IGNORECASE,
)
_SPELLED = re.compile(rf"\b(?:{'|'.join(_NUMBERS)})[- ]years?[- ]olds?\b", re.IGNORECASE)


def speaks_of_minors(text: str) -> bool:
    """Return whether a word or an age in the text means somebody under 18. Linear in its length."""
    if _WORDS.search(text) or _SPELLED.search(text):
        return True
    return any(int(found[1] or found[2]) < _OF_AGE for found in _AGE.finditer(text))


def with_minors(hazards: Mapping[str, float], texts: Iterable[str]) -> dict[str, float]:
    """Return the risk per hazard, that of sexual content counted as child exploitation where a text speaks of minors.

    Args:
        hazards: risk by hazard code, in the library's own codes.
        texts: as of ``spoken``; they are read only where the risk is that of sexual content.
    """
    shared = dict(hazards)
    sexual = shared.get(SEXUAL_CONTENT, 0.0)
    if sexual <= 0.0 or sexual < _MOST_SHARE * sum(shared.values()) or not any(map(speaks_of_minors, texts)):
        return shared
    shared[SEXUAL_CONTENT] = 0.0
    shared[CHILD_EXPLOITATION] = shared.get(CHILD_EXPLOITATION, 0.0) + sexual
    return shared


def spoken(check: Check, read: Sequence[str]) -> Iterator[str]:
    """Yield what is judged, then all that the user said up to it as one text, in every view: an age may be disguised.

    Args:
        read: the views of the check's own text.
    """
    yield from read
    said = [turn.text for turn in check.context if turn.role == "user"]
    if check.query is not None:
        said.append(check.query)
    if said:
        # The last turn belongs to it: an age may begin in one turn and end in the next.
        yield from views("\n".join(said if check.query is not None else [*said, check.text]))

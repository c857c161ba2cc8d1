"""Written safeguard responses: for when the model's own is not usable, and for languages that it does not write."""

from __future__ import annotations

from functools import cache
from importlib import resources

from pydantic import TypeAdapter

from guardrail_plugin.core.settings import parse_toml

_FILE = "fallbacks.toml"
_DEFAULT_LANGUAGE = "en"
_GENERAL = "general"
_NEUTRAL = "neutral"
_TOO_LONG = "too_long"


def fallback(hazard: str | None, *, language: str = _DEFAULT_LANGUAGE, seed: int = 0) -> str:
    """Return the written safeguard response for a hazard. Never raises for what a caller can pass.

    Args:
        hazard: a hazard code; an unknown one (a taxonomy of the caller's) gets a general response. ``None`` means
            that no verdict could be had: the response says so and accuses nobody.
        language: ISO 639-1 code, also with a region (``pt-BR``). A language without texts is answered in English.
        seed: picks one of the variants; the same seed picks the same one.
    """
    written = _written(language)
    # The names of our own entries are no hazard codes.
    known = hazard if hazard in written and hazard not in (_GENERAL, _NEUTRAL, _TOO_LONG) else _GENERAL
    variants = written[_NEUTRAL if hazard is None else known]
    return variants[seed % len(variants)]


def too_long(language: str = _DEFAULT_LANGUAGE) -> str:
    """Return the written response to a message that is too long to be judged in full. It accuses nobody."""
    return _written(language)[_TOO_LONG][0]


def languages() -> tuple[str, ...]:
    """Return the ISO 639-1 codes of the languages that have written responses, English first."""
    return tuple(_texts())


@cache
def fallbacks() -> frozenset[str]:
    """Return every written response, of whatever language and hazard."""
    return frozenset(text for hazards in _texts().values() for variants in hazards.values() for text in variants)


def _written(language: str) -> dict[str, tuple[str, ...]]:
    texts = _texts()
    code = language.replace("_", "-").partition("-")[0].lower()
    return texts.get(code, texts[_DEFAULT_LANGUAGE])


@cache
def _texts() -> dict[str, dict[str, tuple[str, ...]]]:
    """Read the shipped table on first use: language → hazard code → variants."""
    raw = resources.files("guardrail_plugin.guardian").joinpath(_FILE).read_text(encoding="utf-8")
    return TypeAdapter(dict[str, dict[str, tuple[str, ...]]]).validate_python(parse_toml(raw, name=_FILE))

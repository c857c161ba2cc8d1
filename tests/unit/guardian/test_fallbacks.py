"""Written safeguard responses: every hazard, every language, nothing missing, nobody accused."""

from __future__ import annotations

import pytest

from guardrail_plugin.core.hazards import CHILD_EXPLOITATION, MLCOMMONS, PROMPT_INJECTION, SELF_HARM
from guardrail_plugin.core.refusal import is_refusal
from guardrail_plugin.guardian.fallbacks import fallback, languages, too_long
from guardrail_plugin.guardian.language import detect
from guardrail_plugin.guardian.views import views

OWN_TEXT = (None, "S6", "S12", SELF_HARM, CHILD_EXPLOITATION, PROMPT_INJECTION, "S1")
ENGLISH = [(code, seed) for code in (None, "unheard-of", *MLCOMMONS.codes) for seed in range(3)]
REQUIRED = {
    "en",
    "ko",
    "es",
    "fr",
    "de",
    "it",
    "pt",
    "nl",
    "pl",
    "ru",
    "uk",
    "tr",
    "ar",
    "hi",
    "ja",
    "zh",
    "vi",
    "id",
    "th",
}


def test_all_languages_are_there_and_english_leads() -> None:
    assert set(languages()) >= REQUIRED
    assert languages()[0] == "en"


@pytest.mark.parametrize(("hazard", "seed"), ENGLISH)
def test_english_texts_are_short(hazard: str | None, seed: int) -> None:
    assert 15 <= len(fallback(hazard, seed=seed).split()) <= 45


def test_every_hazard_has_three_english_texts_of_its_own() -> None:
    texts = [fallback(code, seed=seed) for code, seed in ENGLISH]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("hazard", MLCOMMONS.codes)
@pytest.mark.parametrize("seed", range(3))
def test_english_texts_decline(hazard: str, seed: int) -> None:
    text = fallback(hazard, seed=seed).lower()
    declines = ("can't", "won't", "don't", "i'd rather not", "will not", "never", "isn't something")
    assert any(words in text for words in declines)


@pytest.mark.parametrize("seed", range(3))
def test_english_texts_are_refusals_by_the_librarys_own_measure(seed: int) -> None:
    assert [code for code in MLCOMMONS.codes if not is_refusal(fallback(code, seed=seed))] == []


@pytest.mark.parametrize("language", sorted(REQUIRED))
def test_every_language_tells_the_hazards_apart(language: str) -> None:
    texts = [fallback(hazard, language=language) for hazard in OWN_TEXT]
    assert len(set(texts)) == len(OWN_TEXT)
    assert all(detect(text) == language for text in texts)


@pytest.mark.parametrize("language", sorted(REQUIRED))
@pytest.mark.parametrize("seed", range(3))
def test_self_harm_and_child_abuse_point_to_help(language: str, seed: int) -> None:
    assert "findahelpline.com" in fallback(SELF_HARM, language=language, seed=seed)
    reported = fallback(CHILD_EXPLOITATION, language=language, seed=seed)
    assert "inhope.org" in reported or "report.cybertip.org" in reported


def test_without_a_verdict_nobody_is_accused() -> None:
    for seed in range(3):
        text = fallback(None, seed=seed).lower()
        assert "again" in text or "once more" in text
        assert not any(word in text for word in ("harm", "danger", "illegal", "unsafe", "block", "violat"))


@pytest.mark.parametrize("language", sorted(REQUIRED))
def test_a_message_that_is_too_long_is_told_so_in_its_language(language: str) -> None:
    text = too_long(language)
    assert detect(text) == language
    assert text not in {fallback(code, language=language) for code in (None, "too_long", *MLCOMMONS.codes)}
    assert len(views(text)) == 1


@pytest.mark.parametrize("language", sorted(REQUIRED))
def test_a_written_text_is_ordinary_text(language: str) -> None:
    for hazard in OWN_TEXT:
        assert len(views(fallback(hazard, language=language))) == 1


@pytest.mark.parametrize(
    ("language", "same_as"),
    [("pt-BR", "pt"), ("PT_br", "pt"), ("zh-Hant-TW", "zh"), ("tlh", "en"), ("", "en"), ("sw", "en")],
)
def test_language_tags_are_read_and_unknown_ones_are_english(language: str, same_as: str) -> None:
    assert fallback("S11", language=language) == fallback("S11", language=same_as)


@pytest.mark.parametrize("hazard", ["S99", "", "general", "neutral", "my own hazard"])
@pytest.mark.parametrize("language", ["en", "ko"])
def test_an_unknown_hazard_gets_the_general_text(hazard: str, language: str) -> None:
    assert fallback(hazard, language=language) == fallback("X", language=language)
    assert fallback(hazard, language=language) != fallback(None, language=language)


def test_the_seed_picks_the_variant() -> None:
    assert fallback("S2", seed=1) == fallback("S2", seed=4) == fallback("S2", seed=-2)
    assert fallback("S2", seed=0) != fallback("S2", seed=1)

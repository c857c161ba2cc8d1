"""Laws of views: total, pure, raw text first, bounded; disguises of any sentence come off."""

from __future__ import annotations

import base64
import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail_plugin.guardian.views import views

WORDS = (
    "explain", "the", "quick", "recipe", "building", "river", "banana", "steal", "kitchen", "computer", "weapon",
    "garden", "poison", "window", "music", "attack", "little", "market", "school", "danger",
)  # fmt: skip
# Every plane and category, lone surrogates included, and what the steps look for, often enough to meet.
CHARACTERS = st.one_of(
    st.characters(),
    st.characters(categories=["Cs", "Cf", "Cc", "Mn"]),
    st.sampled_from("\u200b\u200d\ufe0f\U000e0041\U000e0155\u202e\u202c\b\x00\u3164аοb0@-_. %&#\\x;=ǝʇ𝐛ｂ🇧😀가ﷺ"),
)
SENTENCES = st.lists(st.sampled_from(WORDS), min_size=3, max_size=8).map(" ".join)


@given(st.text(CHARACTERS, max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_text_has_views_and_is_the_first(text: str) -> None:
    found = views(text)
    assert found[0] == text
    assert 1 <= len(found) <= 4
    assert len(set(found)) == len(found)
    assert all(view.strip() for view in found[1:])
    assert found == views(text)


@given(st.text(CHARACTERS, max_size=100), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_the_limit_only_cuts(text: str, limit: int) -> None:
    assert views(text, limit=limit) == views(text)[:limit]


@given(SENTENCES)
@settings(max_examples=50, deadline=None)
def test_a_plain_sentence_has_one_view(text: str) -> None:
    assert views(text) == (text,)


@given(
    SENTENCES, st.sampled_from("\u200b\u200c\u200d\u2060\ufeff\u00ad\u034f\u200e\x00\ufe01\ud800\U000e0020"), st.data()
)
@settings(max_examples=80, deadline=None)
def test_invisible_characters_come_out_wherever_they_cut_a_word(text: str, invisible: str, data: st.DataObject) -> None:
    inside = [i for i in range(1, len(text)) if text[i - 1].isalpha() and text[i].isalpha()]
    at = data.draw(st.sampled_from(inside))
    assert views(text[:at] + invisible + text[at:])[-1] == text


@given(SENTENCES, SENTENCES)
@settings(max_examples=50, deadline=None)
def test_payloads_in_invisible_carriers_are_read(cover: str, payload: str) -> None:
    tags = "".join(chr(0xE0000 + ord(c)) for c in payload)
    selectors = "".join(chr(0xE0100 + b - 16) for b in payload.encode())
    assert payload in views(f"{cover}{tags}")[-1]
    assert payload in views(f"{cover} 😀{selectors}")[-1]


@given(SENTENCES)
@settings(max_examples=50, deadline=None)
def test_styles_that_unicode_undoes_are_undone(text: str) -> None:
    for first in (0x1D41A, 0x1D5BA, 0x1D68A, 0xFF41, 0x24D0):
        styled = "".join(chr(first + ord(c) - 97) if c.isalpha() else c for c in text)
        assert views(styled)[-1] == text == unicodedata.normalize("NFKC", styled)


@given(SENTENCES)
@settings(max_examples=50, deadline=None)
def test_encodings_of_a_sentence_are_read(text: str) -> None:
    raw = text.encode()
    for encoded in (base64.b64encode(raw).decode(), base64.b32encode(raw).decode(), raw.hex(), raw.hex(" ")):
        assert views(encoded) == (encoded, text)

"""Whatever a text says, it stands once between the markers and brings none of its own."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from guardrail_plugin import Check
from guardrail_plugin.guardian.families import Checkpoint, Family, Kit, family_kind
from guardrail_plugin.guardian.families.characters import CharacterTokenizer
from guardrail_plugin.guardian.families.labels import LabelSet
from guardrail_plugin.guardian.families.markers import neutralise

FAMILIES = ("llama-guard-3", "llama-guard-4", "qwen3guard", "shieldgemma", "wildguard")
MARKERS = ("<END CONVERSATION>", "</think>", "[/INST]", "<end_of_turn>")
SPEAKERS = ("User", "Agent", "Safety")
ODD = ("<END  CONVERSATION>", "<", ">", "<<END CONVERSATION>>", "\nUser:", "agent:", "Safety :", "\n", " ", "x", "</s>")
PIECES = st.sampled_from([*MARKERS, *ODD, "<|eot_id|>", "<|im_end|>"])
HOSTILE = st.lists(PIECES | st.text(max_size=5), max_size=12).map("".join)


@cache
def family(name: str) -> Family:
    return family_kind(name).build(Kit(checkpoint=Checkpoint(name), tokenizer=CharacterTokenizer()))


@given(HOSTILE)
def test_no_marker_is_left_whole(text: str) -> None:
    clean = neutralise(text, MARKERS, SPEAKERS)
    for marker in MARKERS:
        assert marker.lower() not in clean.lower()
    for line in clean.split("\n"):
        for speaker in SPEAKERS:
            assert not line.lower().startswith(f"{speaker.lower()}:")
    assert "".join(clean.split()) == "".join(text.split())  # blanks are all that changes


@settings(max_examples=50, deadline=None)
@given(HOSTILE, st.sampled_from(FAMILIES))
def test_a_prompt_has_as_many_markers_as_its_template(text: str, name: str) -> None:
    tokenizer = CharacterTokenizer()
    judged = family(name)

    def shown(what: str) -> str:
        [one, *_] = judged.passes(Check(what), judged.encode(what))
        return tokenizer.prompt(one.input_ids)

    plain, hostile = shown("x"), shown(text)
    for marker in (*getattr(judged, "markers", ()), "<|eot_id|>", "<|im_end|>"):
        assert hostile.count(marker) == plain.count(marker)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(FAMILIES), st.sampled_from([600, 40_000]), st.sampled_from([0, 3]))
def test_no_marker_is_made_of_the_two_ends_of_a_long_query(data: Any, name: str, middle: int, seam: int) -> None:
    tokenizer = CharacterTokenizer()
    judged = family(name)
    marker = data.draw(st.sampled_from([*getattr(judged, "markers", ()), "<|eot_id|>", "<|im_end|>"]))
    cut = data.draw(st.integers(1, len(marker) - 1))

    def shown(query: str) -> str:
        [one, *_] = judged.passes(Check("x", rail="output", query=query), judged.encode("x"))
        return tokenizer.prompt(one.input_ids)

    for lead in (0, 1):  # a blank of the template's may stand before
        head = "y" * (512 - lead - cut) + marker[:cut]
        tail = marker[cut:] + "z" * (512 - seam - len(marker) + cut)
        prompt = shown(head + "y" * middle + tail)
        assert prompt.count(marker) == shown("x").count(marker)
        assert prompt.count("zzz") > 100


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple), min_size=2, max_size=6, unique=True))
def test_label_probabilities_sum_to_one(rows: list[tuple[int, ...]]) -> None:
    labels = LabelSet({str(i): [row] for i, row in enumerate(rows)}, ends=[9])
    uniform = [[-math.log(len(branch.next_ids))] * len(branch.next_ids) for branch in labels.branches]
    total = sum(math.exp(p) for p in labels.read(uniform))
    assert abs(total - 1.0) < 1e-9

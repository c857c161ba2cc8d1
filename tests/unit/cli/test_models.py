"""``guardrail models``: what it says, and that its figures are marked as other people's."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from guardrail_plugin.cli.app import app
from guardrail_plugin.guardian.families import family_names
from guardrail_plugin.guardian.families.cards import CARDS


def test_it_lists_every_family_with_its_cost() -> None:
    result = CliRunner().invoke(app, ["models"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for name in family_names():
        assert name in result.output
    assert "published" in result.output
    assert "not measured here" in result.output


def test_json_names_the_source_of_every_figure() -> None:
    result = CliRunner().invoke(app, ["models", "--json"])
    records = [json.loads(line) for line in result.output.splitlines()]
    assert len(records) == len(CARDS)
    for record in records:
        assert (record["published_f1"] is None) == (record["published_by"] is None)
        assert record["gflop_per_verdict"]["prefix_kept"] <= record["gflop_per_verdict"]["nothing_kept"]
        assert isinstance(record["present"], bool)


@pytest.mark.parametrize(("family", "code"), [("qwen3guard", 0), ("qwenguard", 2)])
def test_one_family_can_be_asked_for(family: str, code: int) -> None:
    result = CliRunner().invoke(app, ["models", "--family", family, "--json"])
    assert result.exit_code == code
    if code == 0:
        assert {json.loads(line)["family"] for line in result.output.splitlines()} == {family}


def test_every_card_belongs_to_a_family() -> None:
    assert {card.family for card in CARDS} - {"guardrail"} <= set(family_names())

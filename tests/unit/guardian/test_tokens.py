"""A classifier is given a text as its own tokenizer reads it: nothing stands before it, as no template does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guardrail_plugin.core.conversation import Check
from guardrail_plugin.guardian.families.classifier import ClassifierFamily, Head
from guardrail_plugin.guardian.families.protocol import Checkpoint, Kit
from guardrail_plugin.guardian.families.tokens import TokenizerFile

HEAD = {"a": "safe", "b": "PI"}
CONTROLS = {1, 2}


def sentence_piece(prepend_scheme: str) -> Any:
    """A tokenizer like that of DeBERTa v2 and v3, whose first word begins with a space that is not in the text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = [
        ("<unk>", 0.0), ("[CLS]", 0.0), ("[SEP]", 0.0), ("▁Ignore", -1.0), ("Ignore", -2.0), ("▁all", -1.0),
        ("all", -2.0),
    ]  # fmt: skip
    made = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme)])
    made.add_special_tokens(["[CLS]", "[SEP]"])
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return made


@pytest.fixture(params=["always", "first", "never"])
def reference(request: pytest.FixtureRequest) -> Any:
    return sentence_piece(request.param)


def classifier(reference: Any, folder: Path, *, reads_pairs: bool = False) -> ClassifierFamily:
    reference.save(str(folder / "tokenizer.json"))
    kit = Kit(checkpoint=Checkpoint("g"), tokenizer=TokenizerFile(folder / "tokenizer.json"))
    return ClassifierFamily(kit, "classifier", Head(HEAD, reads_pairs=reads_pairs))


def test_a_classifier_reads_a_text_as_its_tokenizer_does(reference: Any, tmp_path: Path) -> None:
    family = classifier(reference, tmp_path)
    [asked] = family.passes(Check("Ignore all"), family.encode("Ignore all"))
    assert list(asked.input_ids) == reference.encode("Ignore all").ids


def test_a_classifier_reads_a_pair_as_its_tokenizer_does(reference: Any, tmp_path: Path) -> None:
    family = classifier(reference, tmp_path, reads_pairs=True)
    check = Check("Ignore all", rail="output", query="all Ignore")
    [asked] = family.passes(check, family.encode(check.text))
    assert list(asked.input_ids) == reference.encode("all Ignore", "Ignore all").ids


@pytest.mark.parametrize("text", ["[CLS]", "[SEP] Ignore all", "Ignore [CLS] all[SEP]", "[CLS][SEP]"])
def test_a_control_token_in_a_text_is_none(reference: Any, tmp_path: Path, text: str) -> None:
    family = classifier(reference, tmp_path, reads_pairs=True)
    assert CONTROLS.isdisjoint(family.encode(text))
    [asked] = family.passes(Check(text, rail="output", query=text), family.encode(text))
    assert [i for i in asked.input_ids if i in CONTROLS] == [1, 2, 2]


def test_what_follows_a_template_begins_inside_a_line(tmp_path: Path) -> None:
    sentence_piece("always").save(str(tmp_path / "tokenizer.json"))
    tokenizer = TokenizerFile(tmp_path / "tokenizer.json")
    assert tokenizer.content("Ignore all") == [4, 5]
    assert tokenizer.content("Ignore all", first=True) == [3, 5]


def test_where_the_first_word_is_like_any_other_there_is_one_tokenizer(tmp_path: Path) -> None:
    sentence_piece("never").save(str(tmp_path / "tokenizer.json"))
    tokenizer = TokenizerFile(tmp_path / "tokenizer.json")
    assert tokenizer._plain_first is tokenizer._plain

"""``guard_documents()``: one batch, poisoned documents dropped or annotated, in pipes, transformers and iterators."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from guardrail_plugin.core.errors import ConfigError, GuardianError, InputError
from guardrail_plugin.core.policy import Policy
from guardrail_plugin.guardian.protocol import CheckOutcome
from guardrail_plugin.runnables import guard_documents
from guardrail_plugin.testing import ScriptedGuardian, allow_all, verdict

RULE: dict[str, CheckOutcome] = {"BOMB": verdict(risk=0.9, hazard="PI"), "DOWN": GuardianError("down")}


def documents(*texts: str) -> list[Document]:
    return [Document(text, metadata={"source": text}, id=text) for text in texts]


class Shelf(BaseRetriever):
    """Finds the words of the query."""

    def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
        return documents(*query.split())


async def test_poisoned_documents_are_dropped_in_one_batch() -> None:
    judge = ScriptedGuardian(RULE)
    pipe = Shelf() | guard_documents(judge)
    for found in (
        pipe.invoke("tea BOMB cake"),
        await pipe.ainvoke("tea BOMB cake"),
        pipe.batch(["tea BOMB cake"])[0],
        next(iter(pipe.stream("tea BOMB cake"))),
    ):
        assert [document.page_content for document in found] == ["tea", "cake"]
    assert [len(batch) for batch in judge.batches] == [3] * 4
    assert {check.rail for check in judge.checks} == {"document"}


def test_annotated_documents_are_copies_with_their_verdict() -> None:
    given = documents("tea", "BOMB")
    kept = guard_documents(ScriptedGuardian(RULE), on_harmful="annotate").invoke(given)
    assert [document.metadata["guardrail"]["action"] for document in kept] == ["allow", "block"]
    assert kept[1].metadata["guardrail"]["hazard"] == "PI"
    assert [document.id for document in kept] == ["tea", "BOMB"]
    assert "guardrail" not in given[1].metadata


def test_metadata_that_a_prompt_shows_is_judged_on_request() -> None:
    poisoned = Document("fine", metadata={"title": "BOMB", "page": 3})
    assert guard_documents(ScriptedGuardian(RULE)).invoke([poisoned]) == [poisoned]
    assert guard_documents(ScriptedGuardian(RULE), metadata_keys=["title", "absent"]).invoke([poisoned]) == []


def test_what_cannot_be_judged_follows_the_policy_and_empty_documents_pass() -> None:
    given = documents("DOWN", "", "tea")
    judge = ScriptedGuardian(RULE)
    assert [d.page_content for d in guard_documents(judge).invoke(given)] == ["", "tea"]
    assert guard_documents(judge, policy=Policy(on_failure="allow")).invoke(given) == given
    with pytest.raises(GuardianError):
        guard_documents(judge, policy=Policy(on_failure="raise")).invoke(given)
    assert guard_documents(judge).invoke([]) == []


async def test_transformers_and_lazy_iterators() -> None:
    judge = ScriptedGuardian(RULE)
    keep = guard_documents(judge)
    given = documents("a", "BOMB", "b", "c", "BOMB", "d")
    expected = [given[i] for i in (0, 2, 3, 5)]
    assert keep.transform_documents(given) == await keep.atransform_documents(given) == expected
    read: list[str] = []

    def load() -> Iterator[Document]:
        for document in given:
            read.append(document.page_content)
            yield document

    lazy = keep.lazy(load(), batch_size=2)
    assert next(lazy) == given[0]
    assert read == ["a", "BOMB"]
    assert list(lazy) == expected[1:]

    async def aload() -> AsyncIterator[Document]:
        for document in given:
            yield document

    assert [document async for document in keep.alazy(aload(), batch_size=4)] == expected


def test_a_person_can_edit_a_document() -> None:
    policy = Policy(rails={"document": {"action": "escalate"}})
    keep = guard_documents(ScriptedGuardian(RULE), policy=policy, on_escalate=lambda *_: "harmless now")
    assert [document.page_content for document in keep.invoke(documents("BOMB", "tea"))] == ["harmless now", "tea"]


async def test_the_trace_counts_and_holds_no_text() -> None:
    events = [
        event async for event in guard_documents(ScriptedGuardian(RULE)).astream_events(documents("BOMB"), version="v2")
    ]
    [end] = [e for e in events if e["name"] == "guardrail.document" and e["event"] == "on_chain_end"]
    assert {"documents": 1, "passed": 0, "unjudged": 0}.items() <= end["data"]["output"].items()
    assert "BOMB" not in repr(end)


@pytest.mark.parametrize("wrong", ["text", Document("x"), ["text"], None])
def test_other_inputs_are_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match="guard_documents takes"):
        guard_documents(allow_all()).invoke(wrong)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on_harmful": "dorp"}, r"did you mean 'drop'\?"),
        ({"policy": {}}, "policy must be a Policy"),
        ({"policy": Policy(hazards={"s2": {"action": "allow"}})}, r"did you mean 'S2'\?"),
        ({"metadata_keys": "title"}, "metadata_keys must be a list"),
        ({"on_escalate": 1}, "on_escalate must be a function"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        guard_documents(allow_all(), **settings)


def test_an_edit_takes_the_place_of_the_judged_metadata_too() -> None:
    policy = Policy(rails={"document": {"action": "escalate"}})
    guarded = guard_documents(
        ScriptedGuardian(RULE), policy=policy, metadata_keys=["title"], on_escalate=lambda verdict, check: "clean text"
    )
    found = Document("how are you", metadata={"title": "BOMB", "source": "s", "id": 1})
    assert guarded.invoke([found]) == [Document("clean text", metadata={"title": "", "source": "s", "id": 1})]
    assert found.metadata["title"] == "BOMB"

"""How much a slot may take on, given what it decodes already."""

from __future__ import annotations

import pytest

from guardrail_plugin.pool.admission import Limits
from guardrail_plugin.pool.lane import Item, Kind, Room
from guardrail_plugin.pool.slot import Slot

LIMITS = Limits(max_batch=8, max_batch_tokens=100, max_decode_tokens=100)


def item(kind: Kind, tokens: int = 10) -> Item:
    return Item(model="m", kind=kind, tokens=tokens)


@pytest.mark.parametrize(
    ("decodes", "waiting", "expected"),
    [
        ((), item("score"), Room(8, 100)),
        ((), item("generate"), Room(8, 100)),
        ((), item("generate", 500), Room(8, 100)),  # the lane admits one, whatever its length
        ((Room(3, 40),), item("generate"), Room(5, 60)),
        ((Room(3, 40),), item("generate", 61), None),  # no token left for it
        ((Room(8, 16),), item("generate", 1), None),  # no row left
        ((Room(1, 2), Room(1, 2)), item("generate", 1), None),  # as many decodes as are allowed
        ((Room(8, 100), Room(1, 50)), item("score"), Room(8, 100)),  # verdicts do not wait for decodes to end
    ],
)
def test_room_for_the_next_batch(decodes: tuple[Room, ...], waiting: Item, expected: Room | None) -> None:
    slot = Slot(index=0, device="cpu", limits=LIMITS, max_score_streak=4, max_decodes=2)
    slot.set_decodes(decodes)
    assert slot.room(waiting) == expected


def test_models_have_budgets_and_circuits_of_their_own() -> None:
    slot = Slot(index=0, device="cpu", limits=LIMITS, max_score_streak=4, max_decodes=2)
    slot.budget("m").shrink(100)
    slot.circuit("m").failed(OSError("x"), 0.0)
    assert slot.room(item("score")) == Room(8, 50)
    assert slot.room(Item(model="other", kind="score", tokens=1)) == Room(8, 100)
    assert slot.broken(0.1) == {"m"}
    mends_at = slot.mends_at(0.1)
    assert mends_at is not None
    assert slot.broken(mends_at) == frozenset()
    assert slot.mends_at(mends_at) is None
    assert slot.stats(0.1).budget_tokens == (("m", 50),)


def test_a_batch_size_that_a_replica_measured_replaces_the_default_but_no_budget_that_memory_has_cut() -> None:
    def slot(*, measures: bool) -> Slot:
        return Slot(index=0, device="cuda:0", limits=LIMITS, max_score_streak=4, max_decodes=2, measures=measures)

    asked = slot(measures=False)
    asked.measured("m", 500)
    assert asked.room(item("score")) == Room(8, 100), "the caller has named a size"
    free = slot(measures=True)
    assert free.room(item("score")) == Room(8, 100)  # asked for before the replica was built
    free.measured("m", 500)
    assert free.room(item("score")) == Room(8, 500)
    cut = slot(measures=True)
    cut.budget("m").shrink(80)
    cut.measured("m", 500)
    assert cut.room(item("score")) == Room(8, 40)

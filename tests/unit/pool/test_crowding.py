"""Which slots are told that a model must leave their device."""

from __future__ import annotations

from guardrail_plugin.pool.admission import Limits
from guardrail_plugin.pool.jobqueue import JobQueue
from guardrail_plugin.pool.slot import Slot
from guardrail_plugin.pool.turns import TidyTurn

LIMITS = Limits(max_batch=8, max_batch_tokens=100)


def queue_of(*devices: str) -> JobQueue:
    slots = [
        Slot(index=i, device=device, limits=LIMITS, max_score_streak=4, max_decodes=2)
        for i, device in enumerate(devices)
    ]
    queue = JobQueue(limits=LIMITS, slots=slots, max_attempts=2, clock=lambda: 0.0, max_model_bytes=10)
    queue.open()
    return queue


def test_a_slot_in_its_first_turn_with_a_model_is_told_that_it_must_leave() -> None:
    queue = queue_of("d", "d", "e")
    builder, busy, elsewhere = queue.slots
    queue.built(elsewhere, "x", nbytes=8)
    queue.built(busy, "x", nbytes=8)
    assert busy.models == ()  # set when its turn is over
    queue.built(builder, "y", nbytes=8)
    assert (builder.unwanted, busy.unwanted, elsewhere.unwanted) == (set(), {"x"}, set())
    assert isinstance(queue.next_turn(busy), TidyTurn)


def test_whoever_needs_room_asks_slots_in_their_first_turn_too() -> None:
    queue = queue_of("d", "d")
    asking, busy = queue.slots
    queue.built(busy, "x", nbytes=8)
    queue.needs_room(asking, "y")
    assert busy.unwanted == {"x"}


def test_a_slot_that_has_closed_its_replica_is_not_told() -> None:
    queue = queue_of("d", "d")
    builder, other = queue.slots
    queue.built(other, "x", nbytes=8)
    other.models = ("x",)
    queue.closed(other, "x")
    queue.built(builder, "y", nbytes=8)
    assert other.unwanted == set()

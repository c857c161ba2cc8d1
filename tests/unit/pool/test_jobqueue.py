"""The queue that callers and workers share, driven from one thread with an injected clock."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import pytest

from guardrail_plugin.core.errors import GuardianTimeout, PoolClosed, PoolOverloaded, ReplicaDead
from guardrail_plugin.pool.admission import MAX_TENANTS, Limits
from guardrail_plugin.pool.decoding import Decodes
from guardrail_plugin.pool.health import REGROW_AFTER, TRIP_AFTER
from guardrail_plugin.pool.isolation import Loss
from guardrail_plugin.pool.jobqueue import JobQueue
from guardrail_plugin.pool.jobs import AnyJob, GenerateJob, ScoreJob
from guardrail_plugin.pool.protocol import GenerateRequest, Generation, ScoreRequest, ScoreResult, Token
from guardrail_plugin.pool.slot import Slot
from guardrail_plugin.pool.turns import ExpireTurn, ScoreTurn, StartTurn
from guardrail_plugin.testing.replicas import ScriptedDecode, ScriptedReplica


class Bench:
    """A queue with one slot and a clock that stands still."""

    def __init__(self, *, max_queued: int = 8, max_batch: int = 4, max_batch_tokens: int = 4096) -> None:
        self.now = 0.0
        limits = Limits(max_queued=max_queued, max_batch=max_batch, max_batch_tokens=max_batch_tokens)
        self.slot = Slot(index=0, device="cpu", limits=limits, max_score_streak=2, max_decodes=2)
        self.queue = JobQueue(limits=limits, slots=[self.slot], max_attempts=2, clock=lambda: self.now)
        self.queue.open()

    def score(self, ident: int, *, timeout_s: float | None = None, tokens: int = 1, tenant: str = "") -> ScoreJob:
        return ScoreJob(
            model="m",
            kind="score",
            tokens=tokens,
            tenant=tenant,
            request=ScoreRequest("m", (ident,), (1,)),
            deadline=None if timeout_s is None else self.now + timeout_s,
            timeout_s=timeout_s,
        )

    def run(self, jobs: list[AnyJob], *, seconds: float) -> None:
        """Let a taken batch run."""
        self.now += seconds
        self.queue.ran(jobs, slot=self.slot, seconds=seconds, backlog=True)
        self.queue.finish(jobs, "completed")

    def generate(self, ident: int) -> GenerateJob:
        request = GenerateRequest("m", (ident,), max_new_tokens=9, seed=7)
        return GenerateJob(model="m", kind="generate", tokens=1, request=request)

    def take(self) -> list[AnyJob]:
        turn = self.queue.next_turn(self.slot)
        assert isinstance(turn, (ScoreTurn, StartTurn))
        return list(turn.jobs)

    def kill(self, jobs: list[AnyJob], *, bystanders: list[AnyJob] | None = None) -> None:
        self.queue.replica_died(self.slot, Loss(SystemExit(), jobs, bystanders or []))

    def decode(self, *, steps: int) -> None:
        """Let a decode of nine tokens be opened and advanced. Its first step runs the prompt."""
        decodes = Decodes(queue=self.queue, slot=self.slot, clock=lambda: self.now)
        self.queue.admit([self.generate(1)], wait=False)
        rows = [job for job in self.take() if isinstance(job, GenerateJob)]
        assert decodes.start([rows], PromptFirst()) is None
        for _ in range(steps):
            assert decodes.step() is None


class PromptFirst(ScriptedReplica):
    """Runs prompts in a decode's first step, as the real ones do."""

    def start(self, batch: Sequence[GenerateRequest]) -> PromptFirstDecode:
        return PromptFirstDecode(batch, script=lambda request: range(request.max_new_tokens), on_step=lambda _: None)


class PromptFirstDecode(ScriptedDecode):
    prefilled = False

    def step(self) -> list[Token]:
        if self.prefilled:
            return super().step()
        self.prefilled = True
        return [Token(0, None)]


def test_a_job_cancelled_in_the_moment_it_is_taken_is_not_run() -> None:
    bench = Bench()
    jobs = [bench.score(1), bench.score(2)]
    bench.queue.admit(jobs, wait=False)
    jobs[0].future.on_cancel = None  # the queue has not heard of it yet
    assert jobs[0].future.cancel()
    assert bench.take() == [jobs[1]]
    assert bench.queue.snapshot().cancelled == 1


def test_room_that_a_batch_leaves_is_given_to_those_who_wait_for_it_in_order() -> None:
    bench = Bench(max_queued=2, max_batch=2)
    bench.queue.admit([bench.score(1), bench.score(2)], wait=True)
    long = bench.queue.admit([bench.score(3), bench.score(4)], wait=True)
    short = bench.queue.admit([bench.score(5)], wait=True)
    assert long is not None
    assert short is not None
    with pytest.raises(PoolOverloaded):
        bench.queue.admit([bench.score(6)], wait=False)
    bench.take()
    assert long.decided.done(), "while the batch still runs"
    assert not short.decided.done(), "the short one does not overtake the long one"
    bench.queue.withdraw_ticket(short)
    assert bench.queue.snapshot().blocked == 0


@pytest.mark.parametrize("how", ["cancelled", "late"])
def test_the_last_who_waited_for_room_leaves_the_way_in_free(how: str) -> None:
    bench = Bench(max_queued=1)
    bench.queue.admit([bench.score(1)], wait=False)
    ticket = bench.queue.admit([bench.score(2, timeout_s=1.0)], wait=True)
    assert ticket is not None
    late = bench.score(9, timeout_s=2.0)
    if how == "cancelled":
        bench.queue.withdraw_ticket(ticket)
        bench.run(bench.take(), seconds=0.1)
    else:
        bench.run(bench.take(), seconds=0.0)
        assert ticket.decided.done()
        bench.run(bench.take(), seconds=0.0)
        bench.queue.admit([late], wait=False)
        blocked = bench.queue.admit([bench.score(3, timeout_s=1.0)], wait=True)
        assert blocked is not None
        bench.now = 5.0
        assert bench.queue.wait_due() == [late]
        assert isinstance(blocked.error, GuardianTimeout)
    assert bench.queue.admit([bench.score(4)], wait=False) is None
    assert bench.queue.snapshot().queued == 1


def test_one_tenant_more_than_are_remembered_is_turned_away_and_not_lost() -> None:
    bench = Bench(max_queued=MAX_TENANTS)

    def of(number: int) -> ScoreJob:
        request = ScoreRequest("m", (number,), (1,))
        return ScoreJob(model="m", kind="score", tokens=1, tenant=f"tenant {number}", request=request)

    bench.queue.admit([of(0)], wait=False)
    bench.take()
    for number in range(1, MAX_TENANTS):
        bench.queue.admit([of(number)], wait=False)
    queued = bench.queue.snapshot().queued
    with pytest.raises(PoolOverloaded):
        bench.queue.admit([of(MAX_TENANTS)], wait=False)
    assert bench.queue.snapshot().queued == queued == MAX_TENANTS - 1


def test_a_list_larger_than_its_tenants_equal_part_is_not_overtaken_for_ever() -> None:
    bench = Bench(max_queued=8, max_batch=1)

    def others_come() -> None:
        with suppress(PoolOverloaded):
            while True:
                bench.queue.admit([bench.score(0, tenant="busy")], wait=False)

    others_come()
    ticket = bench.queue.admit([bench.score(ident, tenant="long") for ident in range(5)], wait=True)
    assert ticket is not None
    for _ in range(100):
        others_come()
        bench.run(bench.take(), seconds=0.0)
        if ticket.decided.done():
            break
    assert ticket.decided.done()
    assert ticket.error is None


def test_a_second_caller_of_a_tenant_that_is_over_its_share_lets_others_by_too() -> None:
    bench = Bench(max_queued=8)
    bench.queue.admit([bench.score(0, tenant="b")], wait=False)
    bench.queue.admit([bench.score(ident, tenant="a") for ident in range(5)], wait=False)
    for ident in (6, 7):
        assert bench.queue.admit([bench.score(ident, tenant="a")], wait=True) is not None
    with pytest.raises(PoolOverloaded, match="this tenant's part of the queue"):
        bench.queue.admit([bench.score(8, tenant="a")], wait=False)
    assert bench.queue.admit([bench.score(9, tenant="b")], wait=False) is None
    assert bench.queue.snapshot().blocked == 2


def test_a_long_list_that_gives_up_lets_the_next_in() -> None:
    bench = Bench(max_queued=2, max_batch=2)
    bench.queue.admit([bench.score(1)], wait=True)
    long = bench.queue.admit([bench.score(2), bench.score(3)], wait=True)
    short = bench.queue.admit([bench.score(4)], wait=True)
    assert long is not None
    assert short is not None
    bench.queue.withdraw_ticket(long)
    assert short.decided.done()
    assert short.error is None


def test_who_waits_for_room_is_told_when_the_deadline_passes() -> None:
    bench = Bench(max_queued=1)
    queued = bench.score(1, timeout_s=3.0)
    bench.queue.admit([queued], wait=True)
    ticket = bench.queue.admit([bench.score(2, timeout_s=1.0)], wait=True)
    patient = bench.queue.admit([bench.score(3)], wait=True)
    assert ticket is not None
    assert patient is not None
    bench.now = 5.0
    assert bench.queue.wait_due() == [queued]
    assert isinstance(ticket.error, GuardianTimeout)
    assert patient.decided.done()
    assert patient.error is None, "and those behind move up"
    with pytest.raises(GuardianTimeout):
        bench.queue.admit([bench.score(4, timeout_s=-1.0)], wait=True)


def test_expired_work_is_reported_before_anything_is_taken() -> None:
    bench = Bench()
    jobs = [bench.score(1, timeout_s=1.0), bench.score(2)]
    bench.queue.admit(jobs, wait=False)
    bench.now = 1.0
    assert bench.queue.next_turn(bench.slot) == ExpireTurn([jobs[0]])
    assert bench.take() == [jobs[1]]


def test_suspects_of_a_death_run_alone_and_bystanders_are_not_blamed() -> None:
    bench = Bench()
    suspects: list[AnyJob] = [bench.score(1), bench.score(2)]
    bystander = bench.score(3)
    bench.queue.admit([*suspects, bystander], wait=False)
    bench.take()
    bench.kill(suspects, bystanders=[bystander])
    assert [job.attempts for job in (*suspects, bystander)] == [1, 1, 0]
    assert [bench.take() for _ in range(3)] == [[suspects[0]], [suspects[1]], [bystander]]
    bench.kill([suspects[0]])
    assert isinstance(suspects[0].future.exception(0), ReplicaDead), "its second replica"
    assert not suspects[1].future.done()


def test_answers_between_deaths_keep_a_model_in_service() -> None:
    bench = Bench(max_batch=1)
    for ident in range(TRIP_AFTER * 2):
        bench.queue.admit([bench.score(ident)], wait=False)
        rows = bench.take()
        bench.kill(rows)
        rows = bench.take()
        bench.queue.ran(rows, slot=bench.slot, seconds=0.1, backlog=False)
        assert bench.queue.finish(rows, "completed") == rows
    assert bench.queue.snapshot().slots[0].broken == ()


def test_decodes_that_are_opened_and_then_die_break_a_model() -> None:
    bench = Bench()
    for ident in range(TRIP_AFTER):
        bench.queue.admit([bench.generate(ident)], wait=False)
        while bench.queue.snapshot().queued:  # until it is given up, or the model is
            rows = bench.take()
            bench.queue.ran(rows, slot=bench.slot, seconds=0.0, backlog=False)
            bench.kill(rows)
    assert bench.queue.snapshot().slots[0].broken == ("m",)


@pytest.mark.parametrize(("steps", "broken"), [(1, ("m",)), (2, ())])
def test_a_decode_is_an_answer_once_it_brings_a_token_and_not_while_its_prompt_runs(
    steps: int, broken: tuple[str, ...]
) -> None:
    bench = Bench()
    for _ in range(TRIP_AFTER - 1):
        bench.slot.circuit("m").died(SystemExit(), bench.now)
    bench.decode(steps=steps)
    bench.slot.circuit("m").died(SystemExit(), bench.now)
    assert bench.queue.snapshot().slots[0].broken == broken


def test_a_memory_budget_grows_back_by_decodes_that_ran_their_prompts_and_by_each_once() -> None:
    bench = Bench()
    budget = bench.slot.budget("m", "generate")
    budget.shrink(100)
    for ident in range(REGROW_AFTER):
        bench.queue.admit([bench.generate(ident)], wait=False)
        rows = bench.take()
        bench.queue.ran(rows, slot=bench.slot, seconds=0.0, backlog=False)
        bench.queue.finish(rows, "cancelled")
    assert budget.tokens == 50, "they were only opened"
    for _ in range(REGROW_AFTER - 1):
        bench.decode(steps=10)
    assert bench.queue.snapshot().completed == REGROW_AFTER - 1
    assert budget.tokens == 50, "tokens do not count one by one"
    bench.decode(steps=10)
    assert budget.tokens == 76


def test_opening_a_decode_tells_nothing_of_the_pace_of_verdicts() -> None:
    bench = Bench()
    bench.queue.admit([bench.score(ident, tokens=10) for ident in range(4)], wait=False)
    bench.run(bench.take(), seconds=4.0)
    assert bench.queue.snapshot().tokens_per_s == pytest.approx(10.0)
    bench.queue.admit([bench.generate(9)], wait=False)
    bench.queue.ran(bench.take(), slot=bench.slot, seconds=1e-4, backlog=False)
    stats = bench.queue.snapshot()
    assert stats.tokens_per_s == pytest.approx(10.0)
    assert (stats.batches, stats.runs.count, stats.tokens) == (2, 2, 41), "it is counted all the same"


def test_time_in_which_a_decode_was_opened_while_verdicts_waited_counts_with_their_next_batch() -> None:
    bench = Bench()
    bench.queue.admit([bench.generate(9)], wait=False)
    rows = bench.take()
    bench.queue.admit([bench.score(ident, tokens=10) for ident in range(4)], wait=False)
    bench.queue.ran(rows, slot=bench.slot, seconds=4.0, backlog=False)
    bench.run(bench.take(), seconds=4.0)
    assert bench.queue.snapshot().tokens_per_s == pytest.approx(5.0)


def test_a_row_that_comes_back_counts_with_what_it_has_made() -> None:
    bench = Bench()
    job = bench.generate(5)
    bench.queue.admit([job], wait=False)
    assert bench.take() == [job]
    for token_id in (6, 7):
        job.emit(token_id)
    bench.kill([job])
    assert bench.queue.snapshot().queued_tokens == 3
    left = job.remaining()
    assert (left.input_ids, left.max_new_tokens, left.seed) == ((5, 6, 7), 7, 9)
    assert job.generation("stop") == Generation((6, 7), "stop")


def test_what_a_dead_thread_held_comes_back_and_nothing_else() -> None:
    bench = Bench(max_batch=1)
    jobs = [bench.score(1), bench.score(2)]
    bench.queue.admit(jobs, wait=False)
    bench.take()
    bench.queue.thread_died(bench.slot, SystemExit())
    assert [job.attempts for job in jobs] == [1, 0]
    assert bench.take() == [jobs[0]]


def test_the_last_slots_retirement_ends_everything() -> None:
    bench = Bench(max_queued=1)
    job = bench.score(1)
    bench.queue.admit([job], wait=False)
    ticket = bench.queue.admit([bench.score(2)], wait=True)
    bench.queue.retire(bench.slot)
    assert ticket is not None
    assert isinstance(ticket.error, ReplicaDead)
    assert isinstance(job.future.exception(0), ReplicaDead)
    with pytest.raises(ReplicaDead):
        bench.queue.admit([bench.score(3)], wait=False)


def test_an_answer_after_the_end_is_dropped() -> None:
    bench = Bench()
    job = bench.score(1)
    bench.queue.admit([job], wait=False)
    rows = bench.take()
    bench.queue.shut()
    assert isinstance(job.future.exception(0), PoolClosed)
    assert bench.queue.finish(rows, "completed") == []
    job.answer(ScoreResult((0.0,)))  # even who does not ask cannot answer twice
    assert isinstance(job.future.exception(0), PoolClosed)


def test_nothing_shows_token_ids() -> None:
    bench = Bench()
    secret = 987654321
    for job in (bench.score(secret), bench.generate(secret)):
        job.request  # noqa: B018 - it is there, and not shown
        assert str(secret) not in repr(job)


def test_the_first_batch_is_small_so_that_the_speed_is_soon_known() -> None:
    bench = Bench(max_queued=64, max_batch=32)
    bench.queue.admit([bench.score(ident, timeout_s=60.0) for ident in range(60)], wait=False)
    rows = bench.take()
    assert len(rows) == 16
    bench.run(rows, seconds=1.0)
    assert len(bench.take()) == 32


@pytest.mark.parametrize(
    ("waited_s", "rows"),
    [
        (0.0, 7),  # there is time for all
        (54.0, 4),  # 6 s are left, less a margin: four rows of a second each
        (57.0, 3),  # not less than half of what a batch may hold: the others wait, too
        (59.5, 7),  # too late anyhow
    ],
)
def test_a_batch_is_no_longer_than_its_oldest_row_can_wait(waited_s: float, rows: int) -> None:
    bench = Bench(max_queued=64, max_batch=32, max_batch_tokens=70)
    bench.queue.admit([bench.score(ident, tokens=10) for ident in range(4)], wait=False)
    bench.run(bench.take(), seconds=4.0)  # ten tokens per second
    bench.queue.admit([bench.score(10, tokens=10, timeout_s=60.0)], wait=False)
    bench.queue.admit([bench.score(ident, tokens=10) for ident in range(20, 30)], wait=False)
    bench.now += waited_s
    assert len(bench.take()) == rows


def test_who_came_later_overtakes_only_while_the_oldest_has_time() -> None:
    for waited_s, taken in [(0.0, [1, 3]), (9.5, [1, 2])]:
        bench = Bench(max_queued=64, max_batch=2)
        bench.queue.admit([bench.score(0, tokens=5)], wait=False)
        bench.run(bench.take(), seconds=0.01)
        bench.queue.admit([bench.score(1, tokens=10, timeout_s=10.0)], wait=False)
        bench.queue.admit([bench.score(2, tokens=50, timeout_s=10.0)], wait=False)
        bench.now += 1.0
        bench.queue.admit([bench.score(3, tokens=11, timeout_s=10.0)], wait=False)
        bench.now += max(0.0, waited_s - 1.0)
        assert [job.request.input_ids[0] for job in bench.take()] == taken


def test_a_newcomer_whose_whole_batch_would_come_too_late_is_turned_away_at_once() -> None:
    bench = Bench(max_queued=64)
    bench.queue.admit([bench.score(ident, tokens=10) for ident in range(4)], wait=False)
    bench.run(bench.take(), seconds=4.0)
    bench.queue.admit([bench.score(ident, tokens=10) for ident in range(10, 14)], wait=False)
    running = bench.take()
    bench.slot.phase = "scoring"
    with pytest.raises(PoolOverloaded, match="longer than the deadline"):
        bench.queue.admit([bench.score(20, tokens=10, timeout_s=4.0)], wait=False)
    bench.queue.admit([bench.score(21, tokens=10, timeout_s=40.0)], wait=False)
    bench.run(running, seconds=4.0)

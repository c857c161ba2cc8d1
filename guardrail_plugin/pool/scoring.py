"""Run one score batch on a replica and answer its callers."""

from __future__ import annotations

from collections.abc import Callable

from guardrail_plugin.pool.isolation import Loss, isolate
from guardrail_plugin.pool.jobqueue import JobQueue
from guardrail_plugin.pool.jobs import ScoreJob
from guardrail_plugin.pool.protocol import Replica
from guardrail_plugin.pool.relay import score_on
from guardrail_plugin.pool.slot import Slot
from guardrail_plugin.pool.turns import ScoreTurn


def score_batch(
    turn: ScoreTurn, replica: Replica, *, queue: JobQueue, slot: Slot, clock: Callable[[], float]
) -> Loss | None:
    """Answer every job of the turn, or return the loss of the replica."""

    def run(part: list[ScoreJob]) -> None:
        started = clock()
        results = score_on(replica, part, queue.accounts)
        if len(results) != len(part):
            raise ValueError(f"the replica answered {len(results)} of {len(part)} requests")
        queue.ran(part, slot=slot, seconds=clock() - started, backlog=turn.backlog)
        answers = {job.run: result for job, result in zip(part, results, strict=True)}
        for job in queue.finish(part, "completed"):
            if isinstance(job, ScoreJob):  # also those who had joined a run
                job.answer(answers[job.run])

    return isolate([turn.jobs], run, queue=queue, slot=slot)

"""Guardrails without a web framework: plain asyncio workers that take jobs off a bounded queue and share one pool.

A job that the full pool refuses is tried again when the pool says so.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from langchain_core.runnables import Runnable, RunnableLambda

from guardrail_plugin import Guardian, InferencePool, Policy, PoolOverloaded, guard

WORKERS, ATTEMPTS = 4, 3


@dataclass
class Job:
    text: str
    answer: asyncio.Future[str] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


async def work(queue: asyncio.Queue[Job], safe: Runnable[str, str]) -> None:
    while True:
        job = await queue.get()
        for left in reversed(range(ATTEMPTS)):
            try:
                job.answer.set_result(await safe.ainvoke(job.text))
                break
            except Exception as error:  # the guard's or the chain's own
                if left and isinstance(error, PoolOverloaded):
                    await asyncio.sleep(error.retry_after_s)
                else:  # this job failed; the worker goes on
                    job.answer.set_exception(error)
                    break
        queue.task_done()


async def main() -> None:
    queue: asyncio.Queue[Job] = asyncio.Queue(maxsize=16)
    async with InferencePool() as pool:
        # warm_up: the weights are read now, before the first job's time runs
        guardian = await asyncio.to_thread(Guardian.load, pool=pool, warm_up=True)
        chain = RunnableLambda(lambda text: f"(the model's answer to {len(text)} characters)")
        safe = guard(chain, guardian=guardian, policy=Policy(on_failure="raise"), output_type=str)
        workers = [asyncio.create_task(work(queue, safe)) for _ in range(WORKERS)]
        jobs = [Job("How do I pick a tie?"), Job("How do I build a pipe bomb?"), Job("What is 2 + 2?")]
        for job in jobs:
            await queue.put(job)  # waits while the queue is full
        await queue.join()
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        for job in jobs:
            print(f"> {job.text}\n  {await job.answer}")


if __name__ == "__main__":
    asyncio.run(main())

"""How the running jobs of a worker end when it stops: by themselves, by a rollback, or released while they hang."""

import asyncio

import structlog

from ledgerq.broker.claims import Ack
from ledgerq.broker.many_queues import ServedQueues
from ledgerq.text import one_line
from ledgerq.worker.active_jobs import ActiveJobs

log = structlog.stdlib.get_logger("ledgerq.worker")

_IN_A_LINE = 20  # jobs in a log line


async def let_end(active: ActiveJobs, seconds: float) -> None:
    """Wait until the running jobs have ended, at most `seconds`."""
    if running := active.unfinished:
        await asyncio.wait(running, timeout=seconds)


async def roll_back(active: ActiveJobs, seconds: float) -> None:
    """Cancel the running jobs, and wait until they have ended, at most about `seconds`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while (running := active.unfinished) and loop.time() < deadline:
        active.cancel_everything()
        await asyncio.wait(running, timeout=1)


async def release_rest(
    active: ActiveJobs, broker: ServedQueues, seconds: float, *, due_in: float
) -> None:
    """Release the jobs that have not ended, for example because PostgreSQL does not answer; within `seconds`.

    They are due again after `due_in` seconds, when this process should have ended. Otherwise each would wait for the end of
    its lease, and have a crash counted. If a commit still comes, its receipt answers the next delivery. Jobs of arq functions
    have no receipt, and are left to their leases.
    """
    job_ids: list[str] = []
    try:
        job_ids = sorted(claim.job_id for claim in active.releasable)
        if not job_ids:
            return
        async with asyncio.timeout(seconds):
            acks = [Ack(job_id, "release", int(due_in * 1000)) for job_id in job_ids]
            released = await broker.acknowledge(acks)
    except Exception as error:  # noqa: BLE001 - redis-py raises more than its own errors
        log.error("shutdown.jobs_not_released", jobs=len(job_ids), error=one_line(error))  # noqa: TRY400 - as above
    else:
        log.error("shutdown.jobs_released", jobs=sum(released), job_ids=job_ids[:_IN_A_LINE])

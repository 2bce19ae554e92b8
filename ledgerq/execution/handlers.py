"""Calls the handlers of the jobs that share a transaction, each behind a fence.

No job sees what an earlier job has left in the transaction. If a job leaves something that can't be removed, a
`SET LOCAL` or an advisory lock, the fence raises `SharesState`. With a transaction of its own, the job may leave it: what outlives the
transaction goes with its connection, which is closed.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ledgerq.database.fence import Fence
from ledgerq.database.session import JobSession, LedgerqSession
from ledgerq.execution.containment import Work, run_apart
from ledgerq.execution.registry import Job
from ledgerq.job import JobContext
from ledgerq.runtime.lag import stalled_by_others
from ledgerq.store.audit import Origin
from ledgerq.store.audited import require_authors, set_origin
from ledgerq.store.writes import deferred_writes


async def handle_alone(session: LedgerqSession, job: Job[Any]) -> Any:
    """Call the handler of a job that has the transaction to itself; answers with the handler's result."""
    origin, now = origin_of(job), datetime.now(UTC)
    await set_origin(session, origin)  # not reset: the commit flushes more
    fence = Fence(session, stalled=stalled_by_others(job.id))

    async def handle(given: JobSession) -> Any:
        return await job.handle(_context(given, job, origin, now))

    return await _handled(fence, handle, bound_of(job))


async def handle_together(session: LedgerqSession, jobs: Sequence[Job[Any]]) -> Sequence[Any]:
    """Call the handler for each of several jobs of one kind; answers with the results, in the order of the jobs.

    If the kind has a function for many jobs, call that function once instead.
    """
    if jobs[0].kind.handle_many:
        return await _handle_many(session, jobs)
    answers, now = [], datetime.now(UTC)
    async with deferred_writes(session):
        for job in jobs:
            origin = origin_of(job)
            await set_origin(session, origin)
            fence = Fence(session, shared=True, stalled=stalled_by_others(job.id))

            async def handle(
                given: JobSession, job: Job[Any] = job, origin: Origin = origin
            ) -> Any:
                return await job.handle(_context(given, job, origin, now))

            answers.append(await _handled(fence, handle, bound_of(job)))
        await set_origin(session, None)
    return answers


async def _handle_many(session: LedgerqSession, jobs: Sequence[Job[Any]]) -> Sequence[Any]:
    """Call the kind's function for many jobs, once for all these jobs."""
    kind, now = jobs[0].kind, datetime.now(UTC)
    assert kind.handle_many  # noqa: S101 - the caller has checked this
    handle_many = kind.handle_many
    await require_authors(session)

    async def handle(given: JobSession) -> Sequence[Any]:
        contexts = [_context(given, job, origin_of(job), now) for job in jobs]
        return await handle_many(contexts, [job.payload for job in jobs])

    return await _handled(Fence(session), handle, {"kind": kind.name, "jobs": len(jobs)})  # type: ignore[no-any-return]


async def _handled(fence: Fence, work: Work, bound: Mapping[str, Any]) -> Any:
    """Run a handler behind the fence, isolated from the worker; answers with the handler's result.

    Raises:
        HandlerSilent, Disconnected: the connection to the database was lost. The handler's own error, which may be a
            consequence, is the cause of this one.
    """
    job_id = bound.get("job_id", "")
    try:
        return await fence.run(job_id, lambda given: run_apart(lambda: work(given), bound))
    except BaseException as error:
        if lost := await fence.why_lost_behind(error):
            raise lost from error
        raise


def _context(
    session: LedgerqSession, job: Job[Any], origin: Origin, now: datetime
) -> JobContext[Any]:
    """The context that the handler is called with."""
    return JobContext(session, origin, now, job.resources, job.client)


def origin_of(job: Job[Any]) -> Origin:
    """The origin of the job's changes, for the audit log."""
    return Origin(
        actor=job.envelope.actor,
        job_id=job.id,
        kind=job.kind.name,
        attempt=job.delivery.attempt,
        trace_id=job.envelope.trace_id,
    )


def bound_of(job: Job[Any]) -> dict[str, Any]:
    """The fields about the job that each log line of its handler has."""
    bound = {"job_id": job.id, "kind": job.kind.name, "attempt": job.delivery.attempt}
    return bound | {"trace_id": job.envelope.trace_id} if job.envelope.trace_id else bound

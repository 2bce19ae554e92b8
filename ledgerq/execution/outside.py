"""The part of a job that is done before its transaction: its `outside` function, with what earlier attempts recorded."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

from ledgerq.database.engine import Sessions
from ledgerq.database.turns import reading_in_turn
from ledgerq.errors import NotStaged, PayloadMismatch, Snooze
from ledgerq.execution.containment import run_apart
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.handlers import bound_of, origin_of
from ledgerq.execution.registry import Job
from ledgerq.execution.retry import Policy, require_not_blocked
from ledgerq.outside import Outside
from ledgerq.runtime.calls import call_within
from ledgerq.store import inbox, outbox, steps
from ledgerq.store.step_records import StepRecords, last_recorded

_ELSEWHERE = 15.0  # seconds before a job is looked at again that goes on in another worker


async def recorded_at(sessions: Sessions, delivery: Delivery) -> int:
    """The attempt that last recorded a step of the job; 0 if none has, or the database does not answer."""
    with suppress(Exception):
        async with reading_in_turn(sessions) as session:
            known = await steps.of_job(session, delivery.job_id)
        return last_recorded(known)
    return 0


async def answered(sessions: Sessions, job: Job[Any], policy: Policy) -> Job[Any]:
    """Call the job's `outside` function, if its kind has one; returns a copy of the job with the answer in `answers`.

    The job is returned unchanged if its kind has no such function, or if the job has a receipt and so has ended.

    Raises:
        NotStaged: the job's producer put it on the queue, but did not commit the transaction that stages it.
        PayloadMismatch: the job's recorded steps were done for another payload.
        BlockedTooOften: the job has no attempt left, and blocked the event loop in its last one.
        Snooze: the job goes on in another worker. Any other error that the function raises is raised too.
    """
    function, payload_hash = job.kind.outside, job.envelope.payload_hash
    if function is None:
        return job
    async with reading_in_turn(sessions) as session:
        # first, because the row goes when the job ends
        staged = await outbox.find(session, job.id) if job.envelope.row is not None else None
        known = await steps.of_running_job(session, job.id)
    if known is None:
        return job
    if job.envelope.row is not None and (staged is None or staged.seq != job.envelope.row):
        raise NotStaged([job.id])
    if any(each.payload_hash != payload_hash for each in known.values()):
        raise PayloadMismatch(job.id)
    origin = origin_of(job)
    records = StepRecords(sessions, origin, payload_hash, known)
    job.delivery.recorded_at = records.recorded_at
    require_not_blocked(job.delivery, policy)
    outside: Outside[Any] = Outside(origin, job.resources, records, policy.step_limits)
    try:
        answer = await run_apart(
            lambda: call_within(None, function, outside, job.payload), bound_of(job)
        )
        records.require_going_on()  # its function may have caught why it can't
    except Exception as error:
        if not records.is_over:
            raise
        async with reading_in_turn(sessions) as session:
            if await inbox.find(session, job.id):
                return job
        raise Snooze(_ELSEWHERE) from error
    finally:
        job.delivery.recorded_at = records.recorded_at
        await outside.close()
    return replace(job, answers=(answer,))

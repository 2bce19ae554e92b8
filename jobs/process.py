"""The flow of one delivery, on one screen.

1. decode    the bytes, believing nothing
2. resolve   the kind, and the payload by the kind's rules
3. open      the transaction: all that follows commits together or not at all
4. receipt   its row in the inbox is inserted; if it is there already, the job has ended: answer as then
5. handle    it, behind a fence: rows are added, flushed for their ids, written to the audit log
6. outbox    its message is removed, if it was staged there
7. commit    on leaving the transaction; if another one came first, all again from 3
8. say       how it ended; what failed is tried again or buried, as `jobs.retry` decides
"""

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from db import inbox, outbox
from db.audit import Origin
from db.engine import Sessions
from db.errors import Refused
from db.fence import Fence
from db.models import JobState
from db.session import LedgerqSession
from db.transaction import in_transaction
from db.translate import leaves
from jobs.burial import bury
from jobs.context import JobContext
from jobs.envelope import Delivery, check_job_id, decode
from jobs.errors import (
    BlockedTooOften,
    HeldUp,
    JobError,
    PayloadMismatch,
    RetryLater,
    Snooze,
    TimedOut,
    WorkerLost,
)
from jobs.handling import Work, run_apart
from jobs.lag import NEVER, Stalled, stalled_by_others
from jobs.outcome import Buried, Completed, Duplicate, Outcome
from jobs.registry import Job, Registry
from jobs.result import storable_result
from jobs.retry import Policy, decide


async def process(
    delivery: Delivery, registry: Registry, sessions: Sessions, policy: Policy
) -> Outcome:
    """Take one delivery to its end. Raises nothing but a cancellation, which rolls back."""
    limit, seconds, started = asyncio.timeout(None), policy.timeout, time.monotonic()
    stalled = stalled_by_others(delivery.job_id)
    try:
        _check(delivery, policy)
        job = registry.resolve(decode(delivery.body))
        seconds = job.kind.timeout or policy.timeout
        async with (limit := asyncio.timeout(seconds)):
            return await _in_one_transaction(delivery, job, sessions, policy, stalled)
    except BaseException as error:  # every error of a job is decided on here, SystemExit too
        if told_to_stop(error):
            raise
        if limit.expired():
            error = late(seconds, stalled(started), time.monotonic() - started)
        return await conclude(error, delivery, sessions, policy)


async def conclude(
    error: BaseException, delivery: Delivery, sessions: Sessions, policy: Policy
) -> Outcome:
    """What becomes of a job that failed; if it is given up, it is buried here."""
    outcome = decide(error, delivery, policy)
    if isinstance(outcome, Buried):
        return await bury(delivery, outcome, sessions, policy)
    return outcome


def late(seconds: float, stalled: float, lasted: float) -> TimedOut | HeldUp:
    """Why a job's time was over: by itself, or because the event loop stood still for others."""
    return HeldUp(stalled) if lasted - stalled < seconds else TimedOut(seconds)


def _check(delivery: Delivery, policy: Policy) -> None:
    check_job_id(delivery.job_id)
    if delivery.crashes >= policy.max_crashes:
        raise WorkerLost(delivery.crashes)
    last = delivery.history[-1] if delivery.history else {}
    if delivery.attempt > policy.max_attempts and last.get("blocked"):
        raise BlockedTooOften(delivery.attempt - 1, str(last.get("error")))


async def _in_one_transaction(
    delivery: Delivery,
    job: Job[Any],
    sessions: Sessions,
    policy: Policy,
    stalled: Stalled = NEVER,
) -> Completed | Duplicate:
    job_id, payload_hash = delivery.job_id, job.envelope.payload_hash

    async def once(session: LedgerqSession) -> Completed | Duplicate:
        if not await inbox.insert_receipt(
            session, job_id, job.kind.name, payload_hash, attempt=delivery.attempt
        ):
            ended = await inbox.get_receipt(session, job_id)
            known = ended.payload_hash or payload_hash  # none is known of one that was never read
            if ended.state is not JobState.CANCELLED and known != payload_hash:
                raise PayloadMismatch(job_id)
            await outbox.remove(session, [job_id])
            return Duplicate(ended.state, ended.result)
        answer = await handled(
            Fence(session, stalled=stalled),
            lambda given: job.handle(context_of(given, delivery, job, now=datetime.now(UTC))),
            bound_for_logs(delivery, job),
        )
        result = storable_result(answer, policy.max_result)
        await inbox.keep_result(session, job_id, result)
        if job.envelope.staged:
            await outbox.remove(session, [job_id])
        return Completed(result)

    return await in_transaction(sessions, once)


async def handled(fence: Fence, work: Work, bound: Mapping[str, Any]) -> Any:
    """What a handler answers, kept apart from the worker and inside its transaction.

    Raises:
        HandlerSilent, Disconnected: the connection is gone, and what the handler raised may be a consequence.
    """
    job_id = bound.get("job_id", "")
    try:
        return await fence.run(job_id, lambda given: run_apart(lambda: work(given), bound))
    except BaseException as error:
        if not told_to_stop(error) and not _asks(error) and (lost := fence.lost):
            raise lost from error
        raise


def _asks(error: BaseException) -> bool:
    """True if the handler says what is to become of its job."""
    asking = (JobError, Refused, RetryLater, Snooze)
    return any(issubclass(type(each), asking) for each in leaves(error))


def told_to_stop(error: BaseException) -> bool:
    """True if this task is cancelled from outside, not by what the handler awaited."""
    if isinstance(error, GeneratorExit):
        return True
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and bool(task and task.cancelling())


def context_of(
    session: AsyncSession, delivery: Delivery, job: Job[Any], *, now: datetime
) -> JobContext:
    """What the handler is given."""
    origin = Origin(
        actor=job.envelope.actor,
        job_id=delivery.job_id,
        kind=job.kind.name,
        attempt=delivery.attempt,
        trace_id=job.envelope.trace_id,
    )
    return JobContext(session, origin, now)


def bound_for_logs(delivery: Delivery, job: Job[Any]) -> dict[str, Any]:
    """What each log line of the handler says of its job."""
    bound = {"job_id": delivery.job_id, "kind": job.kind.name, "attempt": delivery.attempt}
    return bound | {"trace_id": job.envelope.trace_id} if job.envelope.trace_id else bound

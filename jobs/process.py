"""The flow of one delivery, on one screen.

1. decode    the bytes, believing nothing
2. resolve   the kind, and the payload by the kind's rules
3. open      the transaction: all that follows commits together or not at all
4. remember  the job in the inbox; if it is there already, its work is done: answer as then
5. handle    it: rows are added, flushed for their ids, written to the audit log
6. commit    on leaving the transaction; if another one came first, all again from 3
7. say       how it ended; what failed is tried again or buried, as `jobs.retry` decides
"""

import asyncio
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_jsonable_python
from sqlalchemy.ext.asyncio import AsyncSession

from db import inbox
from db.audit import Origin
from db.engine import Sessions
from db.transaction import in_transaction
from jobs.burial import bury
from jobs.context import JobContext
from jobs.envelope import Delivery, check_job_id, decode
from jobs.errors import PayloadMismatch
from jobs.outcome import Buried, Completed, Duplicate, Outcome
from jobs.registry import Job, Registry
from jobs.retry import Policy, decide


async def process(
    delivery: Delivery, registry: Registry, sessions: Sessions, policy: Policy
) -> Outcome:
    """Take one delivery to its end. Raises nothing but a cancellation, which rolls back."""
    try:
        check_job_id(delivery.job_id)
        job = registry.resolve(decode(delivery.body))
        async with asyncio.timeout(job.kind.timeout or policy.timeout):
            return await _in_one_transaction(delivery, job, sessions)
    except Exception as error:  # noqa: BLE001 - every error of a job is decided on here
        outcome = decide(error, delivery.attempt, policy)
    if isinstance(outcome, Buried):
        return await bury(delivery, outcome, sessions, policy)
    return outcome


async def _in_one_transaction(
    delivery: Delivery, job: Job[Any], sessions: Sessions
) -> Completed | Duplicate:
    job_id, payload_hash = delivery.job_id, job.envelope.payload_hash

    async def once(session: AsyncSession) -> Completed | Duplicate:
        if not await inbox.remember(session, job_id, job.kind.name, payload_hash):
            done = await inbox.recall(session, job_id)
            if done.payload_hash != payload_hash:
                raise PayloadMismatch(job_id)
            return Duplicate(done.result)
        result = to_jsonable_python(await job.handle(_context(session, delivery, job)))
        await inbox.keep_result(session, job_id, result)
        return Completed(result)

    return await in_transaction(sessions, once)


def _context(session: AsyncSession, delivery: Delivery, job: Job[Any]) -> JobContext:
    origin = Origin(
        actor=job.envelope.actor,
        job_id=delivery.job_id,
        kind=job.kind.name,
        attempt=delivery.attempt,
        trace_id=job.envelope.trace_id,
    )
    return JobContext(session, origin, now=datetime.now(UTC))

"""The flow for many deliveries of one kind: the steps of `jobs.process`, each once for all of them.

The jobs of a batch share a transaction, so each one's rows and audit entries still commit together. If
anything goes wrong, all is rolled back and the batch is split, until the bad job stands alone in the flow
for one: it takes no neighbour along.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_jsonable_python
from sqlalchemy.ext.asyncio import AsyncSession

from db import inbox, outbox, writes
from db.engine import Sessions
from db.transaction import in_transaction
from db.translate import is_interruption
from jobs.burial import bury
from jobs.envelope import Delivery, check_job_id, decode
from jobs.errors import JobError
from jobs.outcome import Buried, Completed, Outcome
from jobs.process import context_of, process, told_to_stop
from jobs.registry import Job, Registry
from jobs.retry import Policy, decide


@dataclass(frozen=True, slots=True)
class Arrival:
    """A delivery whose kind is known and whose payload holds."""

    delivery: Delivery
    job: Job[Any]


def arrive(delivery: Delivery, registry: Registry) -> Arrival | None:
    """Read a delivery, or None if it is one for the flow for one, which knows what to do with it."""
    try:
        check_job_id(delivery.job_id)
        return Arrival(delivery, registry.resolve(decode(delivery.body)))
    except JobError:
        return None


async def process_batch(
    arrivals: Sequence[Arrival], registry: Registry, sessions: Sessions, policy: Policy
) -> list[Outcome]:
    """Take deliveries of one kind to their ends, in their order. Raises nothing but a cancellation."""
    kind = arrivals[0].job.kind
    if len(arrivals) == 1 and kind.handle_many is None:
        return [await process(arrivals[0].delivery, registry, sessions, policy)]
    try:
        async with asyncio.timeout(kind.timeout or policy.timeout):
            completed = await _in_one_transaction(arrivals, sessions)
    except BaseException as error:  # as in the flow for one
        if told_to_stop(error):
            raise
        late = isinstance(error, TimeoutError) and len(arrivals) == 1
        if late or is_interruption(error):  # the database is gone: smaller batches would not help
            return [await _ended(error, each.delivery, sessions, policy) for each in arrivals]
        if len(arrivals) == 1:
            return [await process(arrivals[0].delivery, registry, sessions, policy)]
        middle = len(arrivals) // 2
        first = await process_batch(arrivals[:middle], registry, sessions, policy)
        return first + await process_batch(arrivals[middle:], registry, sessions, policy)
    return [
        completed.get(each.delivery.job_id)
        or await process(each.delivery, registry, sessions, policy)  # it had ended before
        for each in arrivals
    ]


async def _ended(
    error: BaseException, delivery: Delivery, sessions: Sessions, policy: Policy
) -> Outcome:
    outcome = decide(error, delivery, policy)
    if isinstance(outcome, Buried):
        return await bury(delivery, outcome, sessions, policy)
    return outcome


async def _in_one_transaction(
    arrivals: Sequence[Arrival], sessions: Sessions
) -> dict[str, Completed]:
    async def once(session: AsyncSession) -> dict[str, Completed]:
        fresh = await inbox.remember_many(session, [_note(each) for each in arrivals])
        work = [each for each in arrivals if each.delivery.job_id in fresh]
        if not work:
            return {}
        results = await _handle(session, work)
        await inbox.keep_results(session, results)
        staged = [each.delivery.job_id for each in work if each.job.envelope.staged]
        if staged:
            await outbox.settle(session, staged)
        return {job_id: Completed(result) for job_id, result in results.items()}

    return await in_transaction(sessions, once)


async def _handle(session: AsyncSession, work: Sequence[Arrival]) -> dict[str, Any]:
    kind, now = work[0].job.kind, datetime.now(UTC)
    contexts = [context_of(session, each.delivery, each.job, now=now) for each in work]
    payloads = [each.job.payload for each in work]
    if kind.handle_many:
        results = await kind.handle_many(contexts, payloads)
    else:
        async with writes.together(session):
            results = [await kind.handle(*each) for each in zip(contexts, payloads, strict=True)]
    pairs = zip(work, results, strict=True)
    return {each.delivery.job_id: to_jsonable_python(result) for each, result in pairs}


def _note(arrival: Arrival) -> tuple[str, str, bytes, int]:
    job, delivery = arrival.job, arrival.delivery
    return delivery.job_id, job.kind.name, job.envelope.payload_hash, delivery.attempt

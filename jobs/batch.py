"""The flow for many deliveries of one kind: the steps of `jobs.process`, each once for all of them.

The jobs of a batch share a transaction, so each one's rows and audit entries still commit together. If
anything goes wrong, all is rolled back and the batch is split, until the bad job stands alone in the flow
for one: it takes no neighbour along. Nothing that a job leaves in the transaction reaches the next one: what can't be
cleaned away, `SET LOCAL` or an advisory lock, costs its kind the shared transaction.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from db import inbox, outbox, writes
from db.engine import Sessions
from db.fence import Fence, SharesState
from db.session import JobSession, LedgerqSession
from db.transaction import in_transaction
from db.translate import is_interruption
from jobs.context import JobContext
from jobs.envelope import Delivery, check_job_id, decode
from jobs.lag import stalled_by_others
from jobs.outcome import Completed, Outcome
from jobs.process import (
    bound_for_logs,
    conclude,
    context_of,
    handled,
    late,
    process,
    told_to_stop,
)
from jobs.registry import Job, Registry
from jobs.result import storable_result
from jobs.retry import Policy, decisive

log = structlog.stdlib.get_logger("ledgerq.jobs")


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
    except Exception:  # noqa: BLE001 - the payload's own validators run here
        return None


async def process_batch(
    arrivals: Sequence[Arrival], registry: Registry, sessions: Sessions, policy: Policy
) -> list[Outcome]:
    """Take deliveries of one kind to their ends, in their order. Raises nothing but a cancellation."""
    kind = arrivals[0].job.kind
    alone = len(arrivals) == 1 and kind.handle_many is None
    if alone or not registry.shares_commits(kind):
        return await _one_by_one(arrivals, registry, sessions, policy)
    seconds, started = kind.timeout or policy.timeout, time.monotonic()
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            completed = await _in_one_transaction(arrivals, sessions, policy)
    except BaseException as error:  # as in the flow for one
        if told_to_stop(error):
            raise
        if limit.expired():
            stalled = stalled_by_others("")(started) if len(arrivals) > 1 else 0
            error = late(seconds, stalled, time.monotonic() - started)
        return await _after_failure(error, arrivals, registry, sessions, policy)
    return [
        completed.get(each.delivery.job_id)
        or await process(each.delivery, registry, sessions, policy)  # it had ended before
        for each in arrivals
    ]


async def _after_failure(
    error: BaseException,
    arrivals: Sequence[Arrival],
    registry: Registry,
    sessions: Sessions,
    policy: Policy,
) -> list[Outcome]:
    """All was rolled back. Find out whose error it is, and let the others be done."""
    too_late = isinstance(error, TimeoutError) and len(arrivals) == 1
    if too_late or _is_the_databases(error):  # the database is gone: smaller batches would not help
        return [await conclude(error, each.delivery, sessions, policy) for each in arrivals]
    if isinstance(error, SharesState):
        kind = arrivals[0].job.kind.name
        registry.keep_apart(kind)
        log.warning("kind.batching_disabled", kind=kind, because=str(error))
    if len(arrivals) == 1 or isinstance(error, SharesState):
        return await _one_by_one(arrivals, registry, sessions, policy)
    middle = len(arrivals) // 2
    first = await process_batch(arrivals[:middle], registry, sessions, policy)
    return first + await process_batch(arrivals[middle:], registry, sessions, policy)


def _is_the_databases(error: BaseException) -> bool:
    try:
        return is_interruption(decisive(error))
    except BaseException:  # noqa: BLE001 - the error's own code runs here
        return False


async def _one_by_one(
    arrivals: Sequence[Arrival], registry: Registry, sessions: Sessions, policy: Policy
) -> list[Outcome]:
    return [await process(each.delivery, registry, sessions, policy) for each in arrivals]


async def _in_one_transaction(
    arrivals: Sequence[Arrival], sessions: Sessions, policy: Policy
) -> dict[str, Completed]:
    async def once(session: LedgerqSession) -> dict[str, Completed]:
        fresh = await inbox.insert_receipts(session, [_note(each) for each in arrivals])
        work = [each for each in arrivals if each.delivery.job_id in fresh]
        if not work:
            return {}
        answers = await _handle(session, work)
        ids = [each.delivery.job_id for each in work]
        results = {
            job_id: storable_result(answer, policy.max_result)
            for job_id, answer in zip(ids, answers, strict=True)
        }
        await inbox.keep_results(session, results)
        staged = [each.delivery.job_id for each in work if each.job.envelope.staged]
        if staged:
            await outbox.remove(session, staged)
        return {job_id: Completed(result) for job_id, result in results.items()}

    return await in_transaction(sessions, once)


async def _handle(session: LedgerqSession, work: Sequence[Arrival]) -> Sequence[Any]:
    if work[0].job.kind.handle_many:
        return await _handle_many(session, work)
    answers, now = [], datetime.now(UTC)
    async with writes.deferred_writes(session):
        for each in work:
            fence = Fence(session, shared=True, stalled=stalled_by_others(each.delivery.job_id))

            async def handle(given: JobSession, each: Arrival = each) -> Any:
                return await each.job.handle(context_of(given, each.delivery, each.job, now=now))

            answers.append(await handled(fence, handle, bound_for_logs(each.delivery, each.job)))
    return answers


async def _handle_many(session: LedgerqSession, work: Sequence[Arrival]) -> Sequence[Any]:
    """By the kind's own function for many, which knows that they share a transaction."""
    kind, now = work[0].job.kind, datetime.now(UTC)
    assert kind.handle_many  # noqa: S101 - the caller has seen it
    handle_many = kind.handle_many

    async def handle(given: JobSession) -> Sequence[Any]:
        contexts: list[JobContext] = [
            context_of(given, each.delivery, each.job, now=now) for each in work
        ]
        return await handle_many(contexts, [each.job.payload for each in work])

    return await handled(Fence(session), handle, {"kind": kind.name, "jobs": len(work)})  # type: ignore[no-any-return]


def _note(arrival: Arrival) -> tuple[str, str, bytes, int]:
    job, delivery = arrival.job, arrival.delivery
    return delivery.job_id, job.kind.name, job.envelope.payload_hash, delivery.attempt

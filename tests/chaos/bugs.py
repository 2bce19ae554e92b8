"""Seeded bugs, put into a process of the suite by CHAOS_BUG: the suite must catch each of them.

With CHAOS_CRASH set, the process kills itself in the bug's window, where it has one.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

import ledgerq.audit
import ledgerq.database.transaction
import ledgerq.execution.handlers
import ledgerq.execution.process
import ledgerq.worker.processor
from ledgerq.broker.claims import Broker
from ledgerq.broker.relay import Relay
from ledgerq.broker.scripts import script_of
from ledgerq.database.engine import Sessions
from ledgerq.database.session import LedgerqSession
from ledgerq.database.transaction import transaction
from ledgerq.errors import SerializationFailure
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.handlers import origin_of
from ledgerq.execution.outcome import Completed, Outcome
from ledgerq.execution.process import Outcomes, _Flow
from ledgerq.execution.registry import Job
from ledgerq.store import audit, inbox, outbox
from ledgerq.store.tables import OutboxMessage, ProcessedJob
from ledgerq.worker.renewals import Renewals
from tests.chaos.bugs_around import AROUND, replace
from tests.chaos.bugs_outside import OUTSIDE


def crash() -> None:
    """kill -9 of this process, if it is asked for."""
    if os.environ.get("CHAOS_CRASH"):
        os.kill(os.getpid(), signal.SIGKILL)


def receipt_after_effects() -> None:
    """The inbox is written in a transaction of its own, after the effects."""

    async def flow(self: _Flow, batch: Sequence[Job[Any]]) -> Outcomes:
        [job] = batch
        async with transaction(self.sessions) as session:
            result = await job.handle(
                ledgerq.execution.handlers._context(session, job, origin_of(job), datetime.now(UTC))
            )
        crash()
        async with transaction(self.sessions) as session:
            await inbox.insert_receipt(session, job.id, job.kind.name, job.envelope.payload_hash)
        return {job.id: Completed(result)}

    replace(_Flow, _in_one_transaction=flow)


def conflict_ignored() -> None:
    """The inbox is written, but nobody asks whether the row was there already."""
    insert_receipt = inbox.insert_receipt

    async def careless(*arguments: Any, **more: Any) -> bool:
        await insert_receipt(*arguments, **more)
        return True

    replace(inbox, insert_receipt=careless)


def check_then_act() -> None:
    """The inbox is asked first and written later: two deliveries at once both find nothing."""

    async def insert_receipt(
        session: AsyncSession, job_id: str, kind: str, payload_hash: bytes, **more: Any
    ) -> bool:
        known = await session.scalar(
            select(col(ProcessedJob.job_id)).where(col(ProcessedJob.job_id) == job_id)
        )
        await asyncio.sleep(0.5)
        row = insert(ProcessedJob).values(job_id=job_id, kind=kind, payload_hash=payload_hash)
        await session.execute(
            row.on_conflict_do_update(index_elements=["job_id"], set_={"kind": kind})
        )
        return known is None

    replace(inbox, insert_receipt=insert_receipt)


def audit_after_commit() -> None:
    """The rows are committed before their audit entries are flushed."""
    record, flow = audit.record, _Flow._in_one_transaction
    kept: list[tuple[Any, ...]] = []

    async def keep(session: AsyncSession, *entries: Any) -> None:
        kept.append(entries)

    async def in_two(self: _Flow, batch: Sequence[Job[Any]]) -> Outcomes:
        ended = await flow(self, batch)
        crash()
        async with transaction(self.sessions) as session:
            for entries in kept:
                await record(session, *entries)
        return ended

    for module in (audit, ledgerq.audit):  # the latter is what services call
        replace(module, record=keep)
    replace(_Flow, _in_one_transaction=in_two)


def cancellation_swallowed() -> None:
    """A job that is cancelled is rolled back, and acknowledged all the same."""
    process = ledgerq.execution.process.process

    async def swallow(deliveries: Sequence[Delivery], *arguments: Any) -> list[Outcome]:
        try:
            return await process(deliveries, *arguments)
        except asyncio.CancelledError:
            return [Completed(None) for _ in deliveries]

    replace(ledgerq.execution.process, process=swallow)
    replace(ledgerq.worker.processor, process=swallow)


def acknowledged_before_commit() -> None:
    """The commit is left to the background."""
    commit = ledgerq.database.transaction._commit_and_close
    later: set[asyncio.Task[None]] = set()

    async def soon(session: LedgerqSession) -> None:
        async def wait() -> None:
            await asyncio.sleep(0.3)
            await commit(session)

        later.add(asyncio.create_task(wait()))

    replace(ledgerq.database.transaction, _commit_and_close=soon)


def outbox_settled_first() -> None:
    """The message is removed in a transaction before the job's own."""
    flow = _Flow._in_one_transaction

    async def remove_first(self: _Flow, batch: Sequence[Job[Any]]) -> Outcomes:
        async with transaction(self.sessions) as session:
            await outbox.remove(session, [job.id for job in batch])
        crash()
        return await flow(self, batch)

    replace(_Flow, _in_one_transaction=remove_first)


def retried_in_one_session() -> None:
    """A serialization failure is tried again without rolling back what the first try did."""

    async def in_transaction(
        sessions: Sessions, work: Callable[[AsyncSession], Awaitable[Any]]
    ) -> Any:
        async with transaction(sessions) as session:
            for _ in range(3):
                try:
                    return await work(session)
                except SerializationFailure:
                    continue
            return await work(session)

    replace(ledgerq.execution.process, in_transaction=in_transaction)


def batch_unsorted() -> None:
    """A batch of staged jobs is inserted in the order given: two batches can deadlock."""
    replace(outbox, sorted=lambda rows, key=None: list(rows))


def finish_without_token() -> None:
    """Whoever says so ends a claim, its owner or not."""
    _replace_in_script("_acknowledge", "if ours[id] then", "if ours[id] ~= nil then")


def owners_get_no_time() -> None:
    """After an outage of Redis, any worker claims the jobs whose leases ran out."""
    _replace_in_script("_claim", "had and time_to_renew(had, score) or 0", "0")


def _replace_in_script(name: str, text: str, other: str) -> None:
    """In the script that brokers have as this attribute."""
    build = Broker.__init__

    def changed(self: Broker, redis: Any, *arguments: Any) -> None:
        build(self, redis, *arguments)
        before = getattr(self, name).text
        assert text in before
        setattr(self, name, script_of(redis, before.replace(text, other)))

    replace(Broker, __init__=changed)


def lease_not_renewed() -> None:
    """A job that takes longer than the lease loses it."""

    async def forget(self: Renewals) -> float:
        await asyncio.sleep(0)
        return self.broker.lease_settings.lease / 3

    replace(Renewals, run_once=forget)


def message_deleted_before_push() -> None:
    """The relay takes a message out of the outbox and then puts it on Redis."""
    take_due, push = outbox.take_due, Relay._push

    async def take_out(
        session: AsyncSession, limit: int, kinds: Collection[str] | None = None
    ) -> Sequence[OutboxMessage]:
        due = await take_due(session, limit, kinds)
        ids = [message.seq for message in due]
        await session.execute(delete(OutboxMessage).where(col(OutboxMessage.seq).in_(ids)))
        return due

    async def crash_first(self: Relay, messages: Sequence[OutboxMessage]) -> None:
        crash()
        await push(self, messages)

    replace(outbox, take_due=take_out)
    replace(Relay, _push=crash_first)


def direct_job_believed() -> None:
    """A job that its producer has put on the queue is run, although the outbox does not have it."""

    async def believe(session: AsyncSession, rows: Mapping[str, int]) -> None:
        pass

    replace(outbox, require_rows=believe)


BUGS: dict[str, Callable[[], None]] = {
    bug.__name__: bug
    for bug in (
        receipt_after_effects, conflict_ignored, check_then_act, audit_after_commit,
        cancellation_swallowed, acknowledged_before_commit, outbox_settled_first,
        retried_in_one_session, batch_unsorted, finish_without_token, lease_not_renewed,
        owners_get_no_time,
        message_deleted_before_push, direct_job_believed, *AROUND, *OUTSIDE,
    )
}  # fmt: skip


def install(name: str) -> None:
    """Put one in; none for an empty name."""
    if name:
        BUGS[name]()

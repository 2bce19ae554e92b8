"""What an operator may do about a job, in one transaction: discard a dead job, cancel one that has not ended.

The audit log keeps who did it and why. A job that was discarded or cancelled never runs, however often it is delivered.
"""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from ledgerq.database.sqlstate import translated
from ledgerq.execution.dead_letter import UNKNOWN_KIND
from ledgerq.store import audit, dead_letters, inbox, outbox, unique_keys
from ledgerq.store.audit import Change, Origin
from ledgerq.store.tables import Action, DeadLetter, JobState, OutboxMessage
from ledgerq.wire.envelope import Envelope, check_job_id
from ledgerq.wire.request import checked_words


async def discard(
    session: AsyncSession, job_ids: Collection[str], *, actor: str, reason: str
) -> list[str]:
    """Delete these dead letters; answers with the job ids that had one. The jobs stay dead for good.

    Their unique keys are free again: a job that is staged with one of these keys is a new job.
    """
    actor, reason = checked_words(actor, reason)
    with translated():
        letters = await dead_letters.take(session, job_ids)
        await unique_keys.release(session, [letter.job_id for letter in letters])
        await audit.record_many(
            session,
            [
                (
                    origin_of(actor, letter),
                    entry_of(letter, Action.DISCARD, shown_before(letter), {"reason": reason}),
                )
                for letter in letters
            ],
        )
    return [letter.job_id for letter in letters]


async def cancel(
    session: AsyncSession,
    job_id: str,
    *,
    actor: str,
    reason: str,
    envelope: Envelope | None = None,
) -> JobState | None:
    """Cancel a job, so that it never runs; answers with the state in which it has ended, which may be an earlier one.

    None means that a replay has just deleted the job's receipt: call again. While the job runs, its
    transaction locks its receipt; this function waits for the lock, as long as `lock_timeout` allows.
    The unique key of a cancelled job is free again.

    Args:
        session: the caller's session; the job is cancelled with its commit.
        job_id: the job's id; the job may not have been enqueued yet.
        actor: who cancels, for the audit log.
        reason: why, for the audit log.
        envelope: the job's envelope from the queue, if the caller has read it.

    Raises:
        LockTimeout: the job runs.
    """
    check_job_id(job_id)
    actor, reason = checked_words(actor, reason)
    with translated():
        staged = await outbox.find(session, job_id)
        if staged:
            envelope = staged_envelope(staged)
        kind = envelope.kind if envelope else UNKNOWN_KIND
        payload_hash = envelope.payload_hash if envelope else b""
        if not await inbox.insert_receipt(
            session, job_id, kind, payload_hash, state=JobState.CANCELLED
        ):
            ended = await inbox.find(session, job_id)
            return ended.state if ended else None
        await unique_keys.release(session, [job_id])
        await outbox.remove(session, [job_id])
        origin = Origin(actor, job_id, kind, trace_id=envelope.trace_id if envelope else None)
        await audit.record(
            session, origin, Change("job", job_id, Action.CANCEL, {}, {"reason": reason})
        )
    return JobState.CANCELLED


def staged_envelope(message: OutboxMessage) -> Envelope:
    """The envelope of a staged job. A payload that is no JSON object, written by other SQL, counts as empty."""
    payload = message.payload if isinstance(message.payload, dict) else {}
    return Envelope(message.kind, payload, message.actor, message.trace_id)


def shown_before(letter: DeadLetter) -> dict[str, Any]:
    """What the audit entry keeps of a dead letter that is deleted: reason, error, attempt."""
    return {"reason": letter.reason, "error": letter.error, "attempt": letter.attempt}


def entry_of(
    letter: DeadLetter, action: Action, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Change:
    """An audit entry, not written yet, of an action on a dead letter: `before` and `after` are the fields that changed."""
    return Change("dead_letter", letter.id, action, before, after)


def origin_of(actor: str, letter: DeadLetter) -> Origin:
    """Who acts on a dead letter, and on which job: for the audit entry of the action."""
    return Origin(actor, letter.job_id, letter.kind, trace_id=letter.trace_id)

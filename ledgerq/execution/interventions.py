"""What an operator may do about a job, in one transaction: replay or discard a dead job, cancel one that has not ended.

A replay stages the job again and deletes its dead letter; the relay then puts the job on Redis. The audit log keeps who
did it and why. A job that was discarded or cancelled never runs, however often it is delivered.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from ledgerq.database.engine import Sessions
from ledgerq.database.sqlstate import translated
from ledgerq.errors import InvalidRequest, NotReplayable, Undecodable
from ledgerq.execution.dead_letter import UNKNOWN_KIND, storable_json
from ledgerq.store import audit, dead_letters, inbox, outbox, steps, unique_keys
from ledgerq.store.audit import Change, Origin
from ledgerq.store.dead_letters import ALL, DeadLetterFilter
from ledgerq.store.outbox import Message
from ledgerq.store.tables import Action, DeadLetter, JobState, OutboxMessage
from ledgerq.wire.envelope import UNKNOWN_ACTOR, Envelope, check_job_id, decode, encode
from ledgerq.wire.readable import readable_parts
from ledgerq.wire.request import checked_words, require_free_names

PAGE = 500  # dead letters in one page


@dataclass(frozen=True, slots=True)
class Replayed:
    """A dead job that will run again as `job_id`, its own id or a new one. `letter_of` is the id in its dead letter."""

    letter_of: str
    job_id: str
    kind: str


async def replay(
    session: AsyncSession,
    job_ids: Collection[str],
    *,
    actor: str,
    reason: str,
    payload: Mapping[str, Any] | None = None,
    kind: str | None = None,
    new_job_id: str | None = None,
) -> list[Replayed]:
    """Stage these dead jobs again; answers with those that had a dead letter.

    Args:
        session: the caller's session; its commit stages all jobs, or none.
        job_ids: the job ids in the dead letters.
        actor: who replays, for the audit log. The job keeps its own actor.
        reason: why, for the audit log.
        payload: replaces the payload of one job; the caller has validated it.
        kind: replaces the kind in the dead letter, which may have none.
        new_job_id: the id for one job whose own id has ended with another payload.

    Raises:
        NotReplayable: a job can't run with what its dead letter has; the error says what to give.
        InvalidRequest, Undecodable: an argument is not valid.
    """
    actor, reason = checked_words(actor, reason)
    edit = _Edit(payload, kind, new_job_id)
    edit.check(job_ids)
    with translated():
        await steps.require_none_in_doubt(session, job_ids if edit != _Edit() else ())
        letters = await dead_letters.take(session, job_ids)
        messages = [_message(letter, edit) for letter in letters]
        await _make_way(session, messages, edit)
        await outbox.add(session, messages)
        pairs = list(zip(letters, messages, strict=True))
        entries = [_replay_entry(letter, message, edit, reason) for letter, message in pairs]
        await audit.record_many(
            session,
            [
                (_origin(actor, letter), entry)
                for letter, entry in zip(letters, entries, strict=True)
            ],
        )
    return [Replayed(letter.job_id, message.job_id, message.kind) for letter, message in pairs]


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
                    _origin(actor, letter),
                    _entry(letter, Action.DISCARD, _before(letter), {"reason": reason}),
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
    """Cancel a job that has not ended, so that it never runs; answers with the state in which the job is then.

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


async def pages(
    sessions: Sessions, which: DeadLetterFilter = ALL, *, size: int = PAGE
) -> AsyncIterator[Sequence[DeadLetter]]:
    """The dead letters that `which` selects, newest first, in pages; letters written meanwhile are left out."""
    before_id: int | None = None
    while True:
        async with sessions() as session:
            page = await dead_letters.newest(session, which, before_id=before_id, limit=size)
        if not page:
            return
        yield page
        before_id = page[-1].id


def obstacle(letter: DeadLetter) -> NotReplayable | None:
    """Why this dead letter can't be replayed without changes; None if it can."""
    try:
        _message(letter, _Edit())
    except NotReplayable as error:
        return error
    return None


@dataclass(frozen=True, slots=True)
class _Edit:
    """The fields that a replay changes; None leaves a field as it is."""

    payload: Mapping[str, Any] | None = None
    kind: str | None = None
    new_job_id: str | None = None

    def check(self, job_ids: Collection[str]) -> None:
        for field, value in (("payload", self.payload), ("new_job_id", self.new_job_id)):
            if value is not None and len(set(job_ids)) != 1:
                raise InvalidRequest(field, "is for one job; name one")
        if self.new_job_id is not None:
            check_job_id(self.new_job_id)


def _message(letter: DeadLetter, edit: _Edit) -> Message:
    envelope = _envelope(letter, edit)
    if storable_json(dict(envelope.payload)) is None:
        raise NotReplayable(
            letter.job_id, "payload", "a text holds NUL, which no database keeps; give --payload"
        )
    try:
        require_free_names(envelope.payload)
        decode(encode(replace(envelope, staged=True)))
    except (InvalidRequest, Undecodable) as error:
        raise NotReplayable(
            letter.job_id,
            "payload",
            f"no worker would take it ({error}); give --kind and --payload",
        ) from None
    return Message(
        job_id=edit.new_job_id or letter.job_id,
        kind=envelope.kind,
        payload=dict(envelope.payload),
        actor=envelope.actor,
        trace_id=envelope.trace_id,
        # a job of another kind goes to its kind's queue
        queue=letter.queue if envelope.kind == letter.kind else None,
    )


def _envelope(letter: DeadLetter, edit: _Edit) -> Envelope:
    """The job's envelope from its dead letter, or else from the raw body, with the edit's changes."""
    read = readable_parts(letter.raw)
    kind = edit.kind or letter.kind or (read.envelope.kind if read.envelope else None)
    payload = letter.payload if edit.payload is None else edit.payload
    if payload is None and read.envelope:
        payload = read.envelope.payload
    if kind is None or payload is None:
        raise NotReplayable(
            letter.job_id, "payload", "no kind and payload can be read; give --kind and --payload"
        )
    return Envelope(
        kind,
        payload,
        actor=letter.actor or read.actor or UNKNOWN_ACTOR,
        trace_id=letter.trace_id or read.trace_id,
    )


async def _make_way(session: AsyncSession, messages: Sequence[Message], edit: _Edit) -> None:
    """Delete the receipts of the dead jobs, so that they can run. Refuse a job that was done, or a new id in use."""
    ids = [message.job_id for message in messages]
    if edit.new_job_id is None:
        await inbox.delete_receipts(session, ids)
        if edit != _Edit():
            await steps.forget(session, ids)  # the jobs did them for other fields
            await outbox.remove(session, ids)  # a staged message would have the old fields
    elif await outbox.find_many(session, ids):
        raise InvalidRequest("new_job_id", "is staged already; give an id that is new")
    for job_id in sorted(await inbox.hashes(session, ids)):
        if edit.new_job_id is not None:
            raise InvalidRequest("new_job_id", "has ended already; give an id that is new")
        raise _done_already(job_id)


def _done_already(job_id: str) -> NotReplayable:
    return NotReplayable(
        job_id,
        "job_id",
        "the id has ended with another payload, so it can't run again; give it a new one (--new-id)",
    )


def _replay_entry(letter: DeadLetter, message: Message, edit: _Edit, reason: str) -> Change:
    before, edited = _before(letter), edit.payload is not None
    after: dict[str, Any] = {"reason": reason, "payload_edited": edited}
    if edited and letter.payload is not None:
        before["payload"] = letter.payload  # the dead letter is deleted: the audit log keeps it
    if message.kind != letter.kind:
        before["kind"], after["kind"] = letter.kind, message.kind
    if message.job_id != letter.job_id:
        after["job_id"] = message.job_id
    return _entry(letter, Action.REPLAY, before, after)


def _before(letter: DeadLetter) -> dict[str, Any]:
    return {"reason": letter.reason, "error": letter.error, "attempt": letter.attempt}


def _entry(
    letter: DeadLetter, action: Action, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Change:
    return Change("dead_letter", letter.id, action, before, after)


def _origin(actor: str, letter: DeadLetter) -> Origin:
    return Origin(actor, letter.job_id, letter.kind, trace_id=letter.trace_id)

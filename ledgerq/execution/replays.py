"""Replays dead jobs, in one transaction: stages them again, and deletes their letters. The relay then puts them on Redis.

The audit log keeps who did it and why.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from ledgerq.database.sqlstate import translated
from ledgerq.errors import InvalidRequest, NotReplayable, Undecodable
from ledgerq.execution.dead_letter import storable_json
from ledgerq.execution.interventions import entry_of, origin_of, shown_before
from ledgerq.store import audit, dead_letters, inbox, outbox, steps
from ledgerq.store.audit import Change
from ledgerq.store.outbox import Message
from ledgerq.store.tables import Action, DeadLetter, JobStep, StepState
from ledgerq.wire.envelope import UNKNOWN_ACTOR, Envelope, check_job_id, decode, encode
from ledgerq.wire.readable import readable_parts
from ledgerq.wire.request import checked_words, require_free_names


@dataclass(frozen=True, slots=True)
class Replayed:
    """A dead job that will run again as `job_id`, its own id or a new one. `letter_of` is the id in its dead letter.

    `done_again` names the recorded steps that the replay drops: what they do outside of the database may happen twice.
    """

    letter_of: str
    job_id: str
    kind: str
    done_again: tuple[str, ...] = ()


async def replay(
    session: AsyncSession,
    job_ids: Collection[str],
    *,
    actor: str,
    reason: str,
    payload: Mapping[str, Any] | None = None,
    kind: str | None = None,
    new_job_id: str | None = None,
    from_step: str | None = None,
) -> list[Replayed]:
    """Stage these dead jobs again; answers with what was staged. An id without a dead letter is passed over.

    Args:
        session: the caller's session; its commit stages all jobs, or none.
        job_ids: the job ids in the dead letters.
        actor: who replays, for the audit log. The job keeps its own actor.
        reason: why, for the audit log.
        payload: replaces the payload of one job; the caller has validated it.
        kind: replaces the kind in the dead letter, which may have none.
        new_job_id: another id for one job: needed if meanwhile a job with its id and another payload has ended.
        from_step: one job does this step again, and all steps that began after it. Without it, a job does no recorded step again,
            unless its payload, kind or id is replaced: then it does all.

    Raises:
        NotReplayable: a job can't run with what its dead letter has; the error says what to give.
        InvalidRequest, Undecodable: an argument is not valid.
    """
    actor, reason = checked_words(actor, reason)
    edit = _Edit(payload, kind, new_job_id, from_step)
    edit.check(job_ids)
    with translated():
        await steps.require_none_in_doubt(session, job_ids if edit != _Edit() else ())
        letters = await dead_letters.take(session, job_ids)
        messages = [_message(letter, edit) for letter in letters]
        again = await _dropped(session, job_ids, edit)
        await _make_way(session, messages, edit)
        await outbox.add(session, messages)
        pairs = list(zip(letters, messages, strict=True))
        entries = [
            _replay_entry(letter, message, edit, reason, again.get(letter.job_id, ()))
            for letter, message in pairs
        ]
        await audit.record_many(
            session,
            [
                (origin_of(actor, letter), entry)
                for letter, entry in zip(letters, entries, strict=True)
            ],
        )
    return [
        Replayed(letter.job_id, to.job_id, to.kind, again.get(letter.job_id, ()))
        for letter, to in pairs
    ]


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
    from_step: str | None = None

    def check(self, job_ids: Collection[str]) -> None:
        for field in ("payload", "new_job_id", "from_step"):
            if getattr(self, field) is not None and len(set(job_ids)) != 1:
                raise InvalidRequest(field, "is for one job; name one")
        if self.new_job_id is not None:
            check_job_id(self.new_job_id)
        if self.from_step is not None and self != _Edit(from_step=self.from_step):
            raise InvalidRequest(
                "from_step", "goes alone: other fields, another kind or id do all steps again"
            )


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


async def _dropped(
    session: AsyncSession, job_ids: Collection[str], edit: _Edit
) -> dict[str, tuple[str, ...]]:
    """Drop the steps that jobs are to do again; answers with their names, in the order in which they began."""
    dropped = {}
    for job_id in job_ids if edit != _Edit() else ():
        known = await steps.of_job(session, job_id)
        names = [*known]
        if edit.from_step is not None:
            if edit.from_step not in known:
                raise InvalidRequest("from_step", steps.missing(edit.from_step, names))
            names = names[names.index(edit.from_step) :]
            _require_no_cursor_beyond(known, names)
            await steps.remove(session, job_id, names)
        elif edit.new_job_id is None:  # a new id has none
            await steps.forget(session, [job_id])
        dropped[job_id] = tuple(names)
    return dropped


def _require_no_cursor_beyond(known: Mapping[str, JobStep], dropped: Sequence[str]) -> None:
    """Refuse to drop the steps of a loop whose cursor stays: the loop would not come to them again."""
    first = known[dropped[0]]
    for name, step in known.items():
        moved = step.state is StepState.OPEN and step.changed_at > first.begun_at
        if moved and name not in dropped:
            problem = f"step {first.name} is in a loop whose cursor {name} has moved on"
            raise InvalidRequest("from_step", f"{problem}; name the cursor to do the loop again")


async def _make_way(session: AsyncSession, messages: Sequence[Message], edit: _Edit) -> None:
    """Delete the receipts of the dead jobs, so that they can run. Refuse a job that was done, or a new id in use."""
    ids = [message.job_id for message in messages]
    if edit.new_job_id is None:
        await inbox.delete_receipts(session, ids)
        if edit != _Edit():
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


def _replay_entry(
    letter: DeadLetter, message: Message, edit: _Edit, reason: str, again: Collection[str]
) -> Change:
    before, edited = shown_before(letter), edit.payload is not None
    after: dict[str, Any] = {"reason": reason, "payload_edited": edited}
    if again:
        after["done_again"] = [*again]
    if edited and letter.payload is not None:
        before["payload"] = letter.payload  # the dead letter is deleted: the audit log keeps it
    if message.kind != letter.kind:
        before["kind"], after["kind"] = letter.kind, message.kind
    if message.job_id != letter.job_id:
        after["job_id"] = message.job_id
    return entry_of(letter, Action.REPLAY, before, after)

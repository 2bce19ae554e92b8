"""Buries a job: writes its dead letter, whatever its body and its error contain."""

import asyncio
import hashlib
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json
from sqlalchemy.exc import SQLAlchemyError

from ledgerq.database.engine import Sessions
from ledgerq.database.session import LedgerqSession
from ledgerq.database.sqlstate import is_interruption, is_permanent
from ledgerq.database.transaction import transaction
from ledgerq.errors import InDoubt, LedgerqError, NotStaged, PayloadMismatch, Undecodable
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.outcome import Buried, Dropped, Duplicate, Retry
from ledgerq.execution.retry import Policy
from ledgerq.store import dead_letters, inbox, outbox, steps
from ledgerq.store.tables import DeadLetter, JobState, StepState
from ledgerq.text import cut, described, leaves, storable, traceback_of
from ledgerq.wire.envelope import Envelope, check_job_id
from ledgerq.wire.names import MAX_QUEUE
from ledgerq.wire.readable import readable_parts
from ledgerq.wire.result import holds_nul

UNKNOWN_KIND = "unknown"  # the kind of a job whose body names none
MAX_NOTE = 500  # characters that are kept of the error of one attempt
MAX_ATTEMPTS = 100  # attempts that a dead letter keeps, the latest ones
_DEFAULTS = Policy()
_MAX_WAIT = 30.0  # seconds for the letter's own transaction


async def bury(
    delivery: Delivery, outcome: Buried, sessions: Sessions, policy: Policy
) -> Buried | Duplicate | Retry | Dropped:
    """Write the dead letter of a job that is given up, in a transaction of its own.

    Answers with `Duplicate` if another delivery has ended the job meanwhile, and with `Dropped` if the job does not
    exist: then no dead letter is written. Answers with `Retry` if the transaction fails: then the job is delivered again.
    """
    try:
        async with asyncio.timeout(_MAX_WAIT):
            ended = await _keep_what_can_be_kept(sessions, delivery, outcome, policy)
    except NotStaged:
        return Dropped()
    except Exception as error:  # noqa: BLE001 - not kept, so not acknowledged
        interrupted = is_interruption(error)
        return Retry(
            policy.delay(delivery.attempt), error, counts_as_attempt=False, interrupted=interrupted
        )
    return ended or outcome


async def _keep_what_can_be_kept(
    sessions: Sessions, delivery: Delivery, outcome: Buried, policy: Policy
) -> Duplicate | None:
    """Write the dead letter; if the database refuses a value in it, write one with the raw body and fewer fields."""
    try:
        letter = letter_of(delivery, outcome, policy)
        return await _keep(sessions, delivery, outcome, letter)
    except NotStaged:
        raise
    except Exception as error:
        if not is_permanent(error) and isinstance(error, SQLAlchemyError | LedgerqError | OSError):
            raise
    plain = letter_of(delivery, Buried(outcome.reason, _Indescribable(outcome.error)), policy)
    plain.payload, plain.problems, plain.attempts, plain.raw = None, [], [], delivery.body
    return await _keep(sessions, delivery, outcome, plain)


class _Indescribable(Exception):
    """Stands in for an error whose text the database may refuse: keeps only the name of the error's class."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(storable(type(error).__name__))


async def _keep(
    sessions: Sessions, delivery: Delivery, outcome: Buried, letter: DeadLetter
) -> Duplicate | None:
    kind, body_hash = letter.kind or UNKNOWN_KIND, _payload_hash(delivery)
    # an id that is not valid for a job may still be in the outbox
    staged = {letter.job_id, storable(delivery.job_id)}
    async with transaction(sessions) as session:
        if isinstance(outcome.error, PayloadMismatch):
            staged.discard(delivery.job_id)  # another job has this id
            staged |= await _own_row(session, delivery, body_hash)
        if not await inbox.insert_receipt(
            session,
            letter.job_id,
            kind,
            body_hash,
            state=JobState.DEAD,
            attempt=delivery.attempt,
        ):
            ended = await inbox.get_receipt(session, letter.job_id)
            await outbox.remove(session, staged)
            return Duplicate(ended.state, ended.result)
        if (row := _row_of(delivery)) is not None:
            await outbox.require_rows(session, {delivery.job_id: row})
        if isinstance(outcome.error, InDoubt):
            await _require_in_doubt(session, letter.job_id, outcome.error.step)
        await dead_letters.bury(session, letter)
        await outbox.remove(session, staged)
    return None


async def _own_row(session: LedgerqSession, delivery: Delivery, body_hash: bytes) -> set[str]:
    """The delivery's id, if the message that is staged under it is this delivery's own, not of another job with that id."""
    message = await outbox.find(session, delivery.job_id)
    if message is None or not isinstance(message.payload, dict):
        return set()
    own = Envelope(message.kind, message.payload).payload_hash == body_hash
    return {delivery.job_id} if own else set()


class _Recorded(LedgerqError):
    """Another delivery of the job has recorded the step meanwhile, so nothing is in doubt: the job is delivered again."""


async def _require_in_doubt(session: LedgerqSession, job_id: str, name: str) -> None:
    """Refuse the burial if the step has an answer. This transaction has written the receipt: no answer is recorded after the look."""
    step = await steps.find(session, job_id, name, lock=True)
    if step is not None and step.state is StepState.DONE:
        raise _Recorded(f"step {name}: was recorded while the job was given up")


def _row_of(delivery: Delivery) -> int | None:
    with suppress(Undecodable):
        return delivery.envelope.row
    return None


def letter_of(delivery: Delivery, outcome: Buried, policy: Policy = _DEFAULTS) -> DeadLetter:
    """The dead letter of a job that is given up: all that is known of the job, with long texts cut."""
    read = readable_parts(delivery.body)
    payload = storable_json(dict(read.envelope.payload)) if read.envelope else None
    told = described(outcome.error, policy.max_error)
    last = {
        "attempt": delivery.attempt,
        "worker": delivery.worker,
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "error": cut(told, MAX_NOTE),
    }
    return DeadLetter(
        job_id=_id_of_letter(delivery, outcome),
        kind=read.kind,
        payload=payload,
        raw=delivery.body if payload is None else None,
        actor=read.actor,
        trace_id=read.trace_id,
        reason=outcome.reason,
        error=told,
        problems=[
            {"field": storable(each.field), "problem": storable(each.problem)}
            for each in outcome.problems
        ],
        traceback=traceback_of(outcome.error, policy.max_traceback),
        attempt=delivery.attempt,
        attempts=[*map(dict, delivery.history[-MAX_ATTEMPTS:]), last],
        worker=delivery.worker,
        fingerprint=fingerprint(read.kind, outcome),
        queue=_queue_of(delivery, read.envelope),
    )


def _queue_of(delivery: Delivery, envelope: Envelope | None) -> str | None:
    """The key of the queue that the job came from; None if the key is unknown or can't be stored."""
    queue = delivery.queue or (envelope.queue if envelope else None)
    return queue if queue and len(queue) <= MAX_QUEUE and queue.isprintable() else None


def _id_of_letter(delivery: Delivery, outcome: Buried) -> str:
    """The job's id in a form that can be stored. If another payload ran under the id, a hash of this one is added."""
    job_id = storable_job_id(delivery.job_id)
    if isinstance(outcome.error, PayloadMismatch):
        return f"{job_id[:180]}~{_payload_hash(delivery).hex()[:16]}"
    return job_id


def fingerprint(kind: str | None, outcome: Buried) -> str:
    """A hash that is equal for jobs of one kind with equal reason, error class, raising function, and bad payload fields.

    Of a group of exceptions, the exceptions in the group count, in any order; the group itself does not.
    """
    fields = ",".join(sorted({problem.field for problem in outcome.problems}))
    failures = sorted(f"{type(each).__name__}:{_place(each)}" for each in leaves(outcome.error))
    what = "\0".join((kind or "", outcome.reason, *failures, fields))
    return hashlib.sha256(what.encode(errors="backslashreplace")).hexdigest()[:16]


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    return f"{frames[-1].filename}:{frames[-1].name}" if frames else ""


def storable_job_id(job_id: str) -> str:
    """The id itself if it is valid; else a readable part of the id and a hash of the whole."""
    try:
        check_job_id(job_id)
    except Undecodable:
        digest = hashlib.sha256(job_id.encode(errors="backslashreplace")).hexdigest()[:16]
        shown = ascii(job_id)[1:-1].replace("\\udc", "\\x")  # bytes that were no text
        return f"{shown[:100]}~{digest}"
    return job_id


def storable_json(payload: dict[str, Any]) -> dict[str, Any] | None:
    """The payload; None if a text in it holds NUL, which PostgreSQL's JSONB refuses."""
    return None if holds_nul(to_json(payload)) else payload


def _payload_hash(delivery: Delivery) -> bytes:
    try:
        return delivery.envelope.payload_hash
    except Undecodable:
        return hashlib.sha256(delivery.body).digest() if delivery.body else b""

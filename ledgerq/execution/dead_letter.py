"""Burying a job: what is kept of it in the dead letters, whatever it held."""

import asyncio
import hashlib
import traceback
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json
from sqlalchemy.exc import SQLAlchemyError

from ledgerq.database.engine import Sessions
from ledgerq.database.sqlstate import is_interruption, is_permanent
from ledgerq.database.transaction import transaction
from ledgerq.errors import LedgerqError, PayloadMismatch, Undecodable
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.outcome import Buried, Duplicate, Retry
from ledgerq.execution.retry import Policy
from ledgerq.store import dead_letters, inbox, outbox
from ledgerq.store.tables import DeadLetter, JobState
from ledgerq.text import cut, described, leaves, storable, traceback_of
from ledgerq.wire.envelope import Envelope, check_job_id
from ledgerq.wire.names import MAX_QUEUE
from ledgerq.wire.readable import readable_parts
from ledgerq.wire.result import holds_nul

UNKNOWN_KIND = "unknown"  # of a job whose bytes name none
MAX_NOTE = 500  # characters that are kept of the error of one attempt
MAX_ATTEMPTS = 100  # attempts that a letter tells of, the last ones
_DEFAULTS = Policy()
_MAX_WAIT = 30.0  # seconds for the letter's own transaction


async def bury(
    delivery: Delivery, outcome: Buried, sessions: Sessions, policy: Policy
) -> Buried | Duplicate | Retry:
    """Put a job among the dead letters, in a transaction of its own; if that fails, try again later.

    A job that has ended meanwhile, by another delivery, is not buried: it was done, or is dead already.
    """
    try:
        async with asyncio.timeout(_MAX_WAIT):
            ended = await _keep_what_can_be_kept(sessions, delivery, outcome, policy)
    except Exception as error:  # noqa: BLE001 - not kept, so not acknowledged
        interrupted = is_interruption(error)
        return Retry(
            policy.delay(delivery.attempt), error, counts_as_attempt=False, interrupted=interrupted
        )
    return ended or outcome


async def _keep_what_can_be_kept(
    sessions: Sessions, delivery: Delivery, outcome: Buried, policy: Policy
) -> Duplicate | None:
    """If something in the letter is such as the database can't hold, less of it; the job's bytes it can."""
    try:
        letter = letter_of(delivery, outcome, policy)
        return await _keep(sessions, delivery, outcome, letter)
    except Exception as error:
        if not is_permanent(error) and isinstance(error, SQLAlchemyError | LedgerqError | OSError):
            raise
    plain = letter_of(delivery, Buried(outcome.reason, _Indescribable(outcome.error)), policy)
    plain.payload, plain.problems, plain.attempts, plain.raw = None, [], [], delivery.body
    return await _keep(sessions, delivery, outcome, plain)


class _Indescribable(Exception):
    """Stands for an error of which the database keeps nothing but the name of its class."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(storable(type(error).__name__))


async def _keep(
    sessions: Sessions, delivery: Delivery, outcome: Buried, letter: DeadLetter
) -> Duplicate | None:
    kind, body_hash = letter.kind or UNKNOWN_KIND, _payload_hash(delivery)
    # an id that no worker would take may still be that of a message
    staged = {letter.job_id, storable(delivery.job_id)}
    if isinstance(outcome.error, PayloadMismatch):
        staged.discard(delivery.job_id)  # that one is another job
    async with transaction(sessions) as session:
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
        await dead_letters.bury(session, letter)
        await outbox.remove(session, staged)
    return None


def letter_of(delivery: Delivery, outcome: Buried, policy: Policy = _DEFAULTS) -> DeadLetter:
    """All that is known of a job that is given up, each text cut to its length."""
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
    """The key of the queue that the job came from, where it is known and can be kept."""
    queue = delivery.queue or (envelope.queue if envelope else None)
    return queue if queue and len(queue) <= MAX_QUEUE and queue.isprintable() else None


def _id_of_letter(delivery: Delivery, outcome: Buried) -> str:
    """The job's own, if it can be stored; for another payload under its id, one made of both."""
    job_id = storable_job_id(delivery.job_id)
    if isinstance(outcome.error, PayloadMismatch):
        return f"{job_id[:180]}~{_payload_hash(delivery).hex()[:16]}"
    return job_id


def fingerprint(kind: str | None, outcome: Buried) -> str:
    """The same for jobs of a kind that failed in the same way: in one place, or by the same fields.

    Of a group of exceptions the ones in it count, whatever their order: the group itself is always alike.
    """
    fields = ",".join(sorted({problem.field for problem in outcome.problems}))
    failures = sorted(f"{type(each).__name__}:{_place(each)}" for each in leaves(outcome.error))
    what = "\0".join((kind or "", outcome.reason, *failures, fields))
    return hashlib.sha256(what.encode(errors="backslashreplace")).hexdigest()[:16]


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    return f"{frames[-1].filename}:{frames[-1].name}" if frames else ""


def storable_job_id(job_id: str) -> str:
    """The id itself, or if it can't be stored, a readable part of it and a hash of the whole."""
    try:
        check_job_id(job_id)
    except Undecodable:
        digest = hashlib.sha256(job_id.encode(errors="backslashreplace")).hexdigest()[:16]
        shown = ascii(job_id)[1:-1].replace("\\udc", "\\x")  # bytes that were no text
        return f"{shown[:100]}~{digest}"
    return job_id


def storable_json(payload: dict[str, Any]) -> dict[str, Any] | None:
    """The payload, or None if PostgreSQL's JSONB would refuse it."""
    return None if holds_nul(to_json(payload)) else payload


def _payload_hash(delivery: Delivery) -> bytes:
    try:
        return delivery.envelope.payload_hash
    except Undecodable:
        return hashlib.sha256(delivery.body).digest() if delivery.body else b""

"""Burying a job: what is kept of it in the dead letters, whatever it held."""

import asyncio
import hashlib
import traceback
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json

from db import dead_letters, inbox, outbox
from db.dead_letters import Letter
from db.engine import Sessions
from db.models import JobState
from db.transaction import transaction
from db.translate import is_permanent
from jobs.envelope import Delivery, Envelope, check_job_id, decode
from jobs.errors import PayloadMismatch, Undecodable
from jobs.outcome import Buried, Duplicate, Retry
from jobs.retry import Policy

UNKNOWN_KIND = "unknown"  # of a job whose bytes name none
_LONGEST_WAIT = 30.0  # seconds for the letter's own transaction


async def bury(
    delivery: Delivery, outcome: Buried, sessions: Sessions, policy: Policy
) -> Buried | Duplicate | Retry:
    """Put a job among the dead letters, in a transaction of its own; if that fails, try again later.

    A job that has ended meanwhile, by another delivery, is not buried: it was done, or is dead already.
    """
    letter = letter_of(delivery, outcome)
    try:
        async with asyncio.timeout(_LONGEST_WAIT):
            try:
                ended = await _keep(sessions, delivery, outcome, letter)
            except Exception as error:
                if not is_permanent(error):
                    raise
                # something in it is such as the database can't hold; the bytes of the job it can
                plain = replace(letter, payload=None, problems=[], attempts=[], raw=delivery.body)
                ended = await _keep(sessions, delivery, outcome, plain)
    except Exception as error:  # noqa: BLE001 - not kept, so not acknowledged
        return Retry(policy.delay(delivery.attempt), error, spent=False)
    return ended or outcome


async def _keep(
    sessions: Sessions, delivery: Delivery, outcome: Buried, letter: Letter
) -> Duplicate | None:
    kind, body_hash = letter.kind or UNKNOWN_KIND, _payload_hash(delivery.body)
    # an id that no worker would take may still be that of a message
    staged = {letter.job_id, storable_text(delivery.job_id)}
    if isinstance(outcome.error, PayloadMismatch):
        staged.discard(delivery.job_id)  # that one is another job
    async with transaction(sessions) as session:
        if not await inbox.remember(
            session,
            letter.job_id,
            kind,
            body_hash,
            state=JobState.DEAD,
            attempt=delivery.attempt,
        ):
            ended = await inbox.recall(session, letter.job_id)
            await outbox.settle(session, staged)
            return Duplicate(ended.state, ended.result)
        await dead_letters.bury(session, letter)
        await outbox.settle(session, staged)
    return None


def letter_of(delivery: Delivery, outcome: Buried) -> Letter:
    """All that is known of a job that is given up."""
    envelope = _decodable(delivery.body)
    payload = storable_json(dict(envelope.payload)) if envelope else None
    error = outcome.error
    described = storable_text(f"{type(error).__name__}: {error}")
    last = {
        "attempt": delivery.attempt,
        "worker": delivery.worker,
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "error": described,
    }
    return Letter(
        job_id=_id_of_letter(delivery, outcome),
        kind=envelope.kind if envelope else None,
        payload=payload,
        raw=delivery.body if payload is None else None,
        actor=envelope.actor if envelope else None,
        trace_id=envelope.trace_id if envelope else None,
        reason=outcome.reason,
        error=described,
        problems=[
            {"field": storable_text(each.field), "problem": storable_text(each.problem)}
            for each in outcome.problems
        ],
        traceback=storable_text("".join(traceback.format_exception(error))),
        attempt=delivery.attempt,
        attempts=[*map(dict, delivery.history), last],
        worker=delivery.worker,
        fingerprint=fingerprint(envelope.kind if envelope else None, outcome),
    )


def _id_of_letter(delivery: Delivery, outcome: Buried) -> str:
    """The job's own, if it can be stored; for another payload under its id, one made of both."""
    job_id = storable_job_id(delivery.job_id)
    if isinstance(outcome.error, PayloadMismatch):
        return f"{job_id[:180]}~{_payload_hash(delivery.body).hex()[:16]}"
    return job_id


def fingerprint(kind: str | None, outcome: Buried) -> str:
    """The same for jobs of a kind that failed in the same way: in one place, or by the same fields."""
    frames = traceback.extract_tb(outcome.error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].name}" if frames else ""
    fields = ",".join(sorted({problem.field for problem in outcome.problems}))
    what = "\0".join((kind or "", outcome.reason, type(outcome.error).__name__, place, fields))
    return hashlib.sha256(what.encode(errors="backslashreplace")).hexdigest()[:16]


def storable_job_id(job_id: str) -> str:
    """The id itself, or if it can't be stored, a readable part of it and a hash of the whole."""
    try:
        check_job_id(job_id)
    except Undecodable:
        digest = hashlib.sha256(job_id.encode(errors="backslashreplace")).hexdigest()[:16]
        shown = ascii(job_id)[1:-1].replace("\\udc", "\\x")  # bytes that were no text
        return f"{shown[:100]}~{digest}"
    return job_id


def storable_text(text: str) -> str:
    """What PostgreSQL can hold of a text: neither NUL nor half a character."""
    return text.replace("\x00", "\\x00").encode(errors="backslashreplace").decode()


def storable_json(payload: dict[str, Any]) -> dict[str, Any] | None:
    """The payload, or None if PostgreSQL's JSONB would refuse it."""
    return None if b"\\u0000" in to_json(payload) else payload


def _payload_hash(body: bytes) -> bytes:
    envelope = _decodable(body)
    if envelope:
        return envelope.payload_hash
    return hashlib.sha256(body).digest() if body else b""


def _decodable(body: bytes) -> Envelope | None:
    try:
        return decode(body)
    except Undecodable:
        return None

"""Burying a job: what is kept of it in the dead letters, whatever it held."""

import hashlib
import traceback
from dataclasses import replace
from typing import Any

from pydantic_core import to_json

from db import dead_letters
from db.dead_letters import Letter
from db.engine import Sessions
from db.transaction import transaction
from db.translate import is_permanent
from jobs.envelope import Delivery, Envelope, check_job_id, decode
from jobs.errors import Undecodable
from jobs.outcome import Buried, Retry
from jobs.retry import Policy


async def bury(
    delivery: Delivery, outcome: Buried, sessions: Sessions, policy: Policy
) -> Buried | Retry:
    """Put a job among the dead letters, in a transaction of its own; if that fails, try again later."""
    letter = _letter(delivery, outcome)
    try:
        try:
            await _keep(sessions, letter)
        except Exception as error:
            if not is_permanent(error):
                raise
            # something in it is such as the database can't hold; the bytes of the job it can
            await _keep(sessions, replace(letter, payload=None, problems=[], raw=delivery.body))
    except Exception as error:  # noqa: BLE001 - not kept, so not acknowledged
        return Retry(policy.delay(delivery.attempt), error)
    return outcome


async def _keep(sessions: Sessions, letter: Letter) -> None:
    async with transaction(sessions) as session:
        await dead_letters.bury(session, letter)


def _letter(delivery: Delivery, outcome: Buried) -> Letter:
    envelope = _decodable(delivery.body)
    payload = _storable_json(envelope.payload) if envelope else None
    error = outcome.error
    return Letter(
        job_id=storable_job_id(delivery.job_id),
        kind=envelope.kind if envelope else None,
        payload=payload,
        raw=delivery.body if payload is None else None,
        reason=outcome.reason,
        error=_storable_text(f"{type(error).__name__}: {error}"),
        problems=[
            {"field": _storable_text(each.field), "problem": _storable_text(each.problem)}
            for each in outcome.problems
        ],
        traceback=_storable_text("".join(traceback.format_exception(error))),
        attempt=delivery.attempt,
    )


def storable_job_id(job_id: str) -> str:
    """The id itself, or if it can't be stored, a readable part of it and a hash of the whole."""
    try:
        check_job_id(job_id)
    except Undecodable:
        digest = hashlib.sha256(job_id.encode(errors="backslashreplace")).hexdigest()[:16]
        return f"{ascii(job_id)[1:-1][:100]}~{digest}"
    return job_id


def _decodable(body: bytes) -> Envelope | None:
    try:
        return decode(body)
    except Undecodable:
        return None


def _storable_json(payload: Any) -> Any | None:
    """The payload, or None if PostgreSQL's JSONB would refuse it: then the bytes are kept instead."""
    return None if b"\\u0000" in to_json(payload) else payload


def _storable_text(text: str) -> str:
    return text.replace("\x00", "\\x00").encode(errors="backslashreplace").decode()

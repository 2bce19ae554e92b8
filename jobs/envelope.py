"""The wire: what stands in Redis under `arq:job:<id>`, as arq writes it, in JSON.

    {"t": try, "f": kind, "a": [], "k": {the payload's fields, and reserved names}, "et": enqueue ms}

Reserved names begin with an underscore and never reach the payload model:
`_actor` (who asks, for the audit log), `_trace_id`, and `_staged` (the job came out of the outbox and
has a message there to settle). A kind that begins with `cron:` was put there by arq's schedule.
"""

import hashlib
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json, to_json

from jobs.errors import Undecodable

MAX_BODY_BYTES = 1_000_000
MAX_JOB_ID = 200
MAX_KIND = 100
UNKNOWN_ACTOR = "unknown"
SCHEDULE_ACTOR = "schedule"
CRON_PREFIX = "cron:"

_MAY_BE_HUGE = re.compile(rb"[0-9][eE]\+?[0-9]{3}|[0-9]{300}")
_YEAR_MS = 365 * 24 * 3600 * 1000
_ORDERED = "o"
_ORDERED_MARK = b'"_staged":"o"'
_RESERVED = {  # name → the longest value; of the first two, the longest that the audit log keeps
    "_actor": 200,
    "_trace_id": 64,
    "_staged": 1,
}


@dataclass(frozen=True, slots=True)
class Envelope:
    """A job as it travels. `payload` holds the kind's own fields only."""

    kind: str
    payload: Mapping[str, Any]
    actor: str = UNKNOWN_ACTOR
    trace_id: str | None = None
    attempt: int | None = None
    enqueued_ms: int = field(default_factory=lambda: int(time.time() * 1000))
    scheduled: bool = False
    staged: bool = False
    ordered: bool = False  # staged under an ordering key; only written, `has_ordering_key` reads it

    @property
    def wire_name(self) -> str:
        """The kind as arq names it."""
        return f"{CRON_PREFIX}{self.kind}" if self.scheduled else self.kind

    @property
    def payload_hash(self) -> bytes:
        """SHA-256 of kind and payload, whatever the order of their keys."""
        return hashlib.sha256(to_json([self.kind, _sorted(dict(self.payload))])).digest()


@dataclass(frozen=True, slots=True)
class Delivery:
    """One arrival of a job at a worker, as it came; a job may arrive more than once.

    `attempt` counts from 1. Arrivals that ended with the worker or its connections are counted
    apart: `crashes`, `interruptions`. `history` tells of the earlier ones, as far as it is known.
    """

    job_id: str
    attempt: int
    body: bytes
    crashes: int = 0
    interruptions: int = 0
    history: tuple[Mapping[str, Any], ...] = ()
    worker: str = ""


def encode(envelope: Envelope) -> bytes:
    """The bytes to put on Redis.

    Raises:
        Undecodable: actor, trace or length are such as no worker would take.
    """
    reserved: dict[str, str] = {}
    if envelope.actor != (SCHEDULE_ACTOR if envelope.scheduled else UNKNOWN_ACTOR):
        reserved["_actor"] = envelope.actor
    if envelope.trace_id:
        reserved["_trace_id"] = envelope.trace_id
    if envelope.staged:
        reserved["_staged"] = _ORDERED if envelope.ordered else "1"
    for name in reserved:
        _reserved(reserved, name)
    body: dict[str, Any] = {
        "t": envelope.attempt,
        "f": envelope.wire_name,
        "a": [],
        "k": {**envelope.payload, **reserved},
        "et": envelope.enqueued_ms,
    }
    encoded = to_json(body)
    _check_length(encoded)
    return encoded


def decode(body: bytes) -> Envelope:
    """Read the bytes of a job, believing nothing.

    Raises:
        Undecodable: with the field at fault; the text never repeats the bytes.
    """
    content = _json_object(body)
    arguments, keywords = content.get("a", []), content.get("k", {})
    if arguments not in ([], None):
        raise Undecodable("a", "positional arguments are not accepted; name the payload's fields")
    if not isinstance(keywords, dict):
        raise Undecodable("k", "must be an object")
    reserved = {name: _reserved(keywords, name) for name in _RESERVED}
    wire_name = _wire_name(content.get("f"))
    scheduled = wire_name.startswith(CRON_PREFIX)
    return Envelope(
        kind=wire_name.removeprefix(CRON_PREFIX),
        payload={name: value for name, value in keywords.items() if name not in _RESERVED},
        actor=reserved["_actor"] or (SCHEDULE_ACTOR if scheduled else UNKNOWN_ACTOR),
        trace_id=reserved["_trace_id"],
        attempt=_whole(content, "t", 1, 1_000_000),
        enqueued_ms=_whole(content, "et", 0, int(time.time() * 1000) + 10 * _YEAR_MS) or 0,
        scheduled=scheduled,
        staged=reserved["_staged"] is not None,
    )


def has_ordering_key(body: bytes) -> bool:
    """True if the relay marked these bytes so; without reading them, each delivery is asked."""
    return _ORDERED_MARK in body


def check_job_id(job_id: str) -> None:
    """Refuse an id that could not be stored, logged and typed.

    Raises:
        Undecodable: it is empty, too long, or holds control characters.
    """
    if not 1 <= len(job_id) <= MAX_JOB_ID:
        raise Undecodable("job_id", f"must have 1 to {MAX_JOB_ID} characters")
    if not job_id.isprintable():
        raise Undecodable("job_id", "must be printable characters only")


def _json_object(body: bytes) -> dict[str, Any]:
    _check_length(body)
    try:
        content = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Undecodable("body", f"is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise Undecodable("body", "must be a JSON object")
    if _MAY_BE_HUGE.search(body) and not _finite(content):
        raise Undecodable("body", "holds a number that is too large to be one")
    return content


def _check_length(body: bytes) -> None:
    if len(body) > MAX_BODY_BYTES:
        raise Undecodable("body", f"has {len(body)} bytes; at most {MAX_BODY_BYTES} are accepted")


def _finite(value: object) -> bool:
    """1e400 is a number to JSON, infinity to Python, and nothing to PostgreSQL."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    return not isinstance(value, list) or all(map(_finite, value))


def _wire_name(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_KIND or not value.isprintable():
        raise Undecodable("f", f"must name the kind in 1 to {MAX_KIND} printable characters")
    return value


def _whole(content: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    value = content.get(name)
    if value is None:
        return None
    if type(value) is not int or not least <= value <= most:
        raise Undecodable(name, f"must be null or a whole number from {least} to {most}")
    return value


def _reserved(keywords: Mapping[str, Any], name: str) -> str | None:
    value = keywords.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > _RESERVED[name] or not value.isprintable():
        raise Undecodable(name, f"must be at most {_RESERVED[name]} printable characters")
    return value


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_sorted(each) for each in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)  # PostgreSQL gives 1e16 back as the whole number that it is
    return value

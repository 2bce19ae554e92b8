"""The body of a job: JSON with arq's keys, which Redis holds under `arq:job:<id>`.

    {"t": attempt, "f": kind, "a": [], "k": {the payload's fields, and reserved names}, "et": enqueue time in ms,
     "n": number of the outbox row, "u": unique key, "q": queue}

ledgerq adds `n`, `u` and `q`; arq and older versions of ledgerq ignore them. `q` names the job's queue, because all queues
of one Redis share the job ids. `q` is the last key, so that a Lua script finds it without reading the rest. The body
of a stock arq client has no `q`. Reserved names begin with an underscore and never reach the payload model: `_actor`
(who asks for the job, for the audit log), `_trace_id`, and `_staged` (the job has a row in the outbox, which is deleted
when the job ends; its value `d` says that the producer, not a relay, put the job on the queue). The prefix `cron:` of a kind marks a job of the schedule.
"""

import hashlib
import json
import time
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any

from pydantic_core import from_json, to_json

from ledgerq.errors import Undecodable
from ledgerq.wire.huge_numbers import holds_infinite
from ledgerq.wire.names import CRON_PREFIX, MAX_KIND

MAX_BODY_BYTES = 1_000_000
MAX_JOB_ID = 200
MAX_ROW = 2**63 - 1
MAX_ACTOR = 200  # as the audit log keeps it
MAX_TRACE_ID = 64  # as the audit log keeps it
UNKNOWN_ACTOR = "unknown"
SCHEDULE_ACTOR = "schedule"

_YEAR_MS = 365 * 24 * 3600 * 1000
_ORDERED, _DIRECT = "o", "d"
_ORDERED_MARK = b'"_staged":"o"'
_RESERVED = {"_actor": MAX_ACTOR, "_trace_id": MAX_TRACE_ID, "_staged": 1}  # characters at most
_READ = ("t", "f", "a", "k", "et", "n", "u", "q")
_TAIL = 1000  # bytes at a body's end that are searched for its last key, as in broker/lua/owner.lua


@dataclass(slots=True)  # frozen, it takes three times as long to make, and one is made for each job
class Envelope:
    """The content of a job's body. `payload` has the fields of the kind's payload class; their names begin with no underscore."""

    kind: str
    payload: Mapping[str, Any]
    actor: str = UNKNOWN_ACTOR
    trace_id: str | None = None
    attempt: int | None = None
    enqueued_ms: int = field(default_factory=lambda: int(time.time() * 1000))
    scheduled: bool = False
    staged: bool = False
    ordered: bool = False  # staged under an ordering key; `decode` does not set it
    # `seq` of the outbox row of a job that its producer put on the queue: without that row there is no job
    row: int | None = None
    queue: str | None = None  # None if a stock arq client or an older ledgerq wrote the body
    unique: str | None = None  # the unique key that the job took on Redis

    @property
    def wire_name(self) -> str:
        """The name of arq's function for the kind: `cron:` and the kind for a job of the schedule, else the kind."""
        return f"{CRON_PREFIX}{self.kind}" if self.scheduled else self.kind

    @property
    def payload_hash(self) -> bytes:
        """The SHA-256 of kind and payload. The order of the payload's keys does not change it."""
        return hashlib.sha256(to_json([self.kind, _sorted(dict(self.payload))])).digest()


def encode(envelope: Envelope, *, queue: str | None = None, fields: bytes = b"") -> bytes:
    """The body of the job.

    Args:
        envelope: what it holds.
        queue: the queue that it names if the envelope names none; None: then it names no queue.
        fields: the payload as a JSON object without reserved names, from a caller who has it. The envelope's payload is
            not looked at then.

    Raises:
        Undecodable: actor or trace id are not valid, or the body has more than `MAX_BODY_BYTES` bytes.
    """
    keywords = fields or to_json({**envelope.payload})
    if marks := _marks(envelope.actor, envelope.trace_id, envelope.scheduled, _mark(envelope)):
        keywords = keywords[:-1] + b"," * (len(keywords) > 2) + marks  # noqa: PLR2004 - {}
    encoded = b'{"t":%b,"f":%b,"a":[],"k":%b,"et":%d' % (
        to_json(envelope.attempt), to_json(envelope.wire_name), keywords, envelope.enqueued_ms
    )  # fmt: skip
    if envelope.row is not None:
        encoded += b',"n":%d' % envelope.row
    if envelope.unique:
        encoded += b',"u":' + to_json(envelope.unique)
    named = envelope.queue or queue
    encoded += queue_mark(named) if named else b"}"
    _check_length(encoded)
    return encoded


def _mark(envelope: Envelope) -> str | None:
    """The value of `_staged`; None if the job is not staged."""
    if not envelope.staged:
        return None
    if envelope.row is not None:
        return _DIRECT
    return _ORDERED if envelope.ordered else "1"


@lru_cache(maxsize=256)  # one producer's jobs mostly have one actor
def _marks(actor: str, trace_id: str | None, scheduled: bool, staged: str | None) -> bytes:
    """The reserved names of a body with their values, as the end of a JSON object; empty if there are none."""
    reserved: dict[str, str] = {}
    if actor != (SCHEDULE_ACTOR if scheduled else UNKNOWN_ACTOR):
        if not actor:
            raise Undecodable("_actor", f"must be 1 to {MAX_ACTOR} printable characters")
        reserved["_actor"] = actor
    if trace_id:
        reserved["_trace_id"] = trace_id
    if staged:
        reserved["_staged"] = staged
    for name in reserved:
        _reserved(reserved, name)
    return to_json(reserved)[1:] if reserved else b""


@lru_cache(maxsize=64)
def queue_mark(queue: str) -> bytes:
    """The last bytes of each body and result that names this queue."""
    return b',"q":' + to_json(queue) + b"}"


def queue_of(body: bytes) -> str | None:
    """The queue that a body names by its last key; None if it names none. The rest of the body is not read."""
    if not body.endswith(b'"}'):
        return None
    _, mark, name = body[-_TAIL:].rpartition(b',"q":"')
    try:
        queue = from_json(b'"' + name[:-1]) if mark else None
    except ValueError:
        return None
    return queue if isinstance(queue, str) else None


def _ends_in(body: bytes, queue: object) -> bool:
    return isinstance(queue, str) and len(queue) < _TAIL and body.endswith(queue_mark(queue))


def decode(body: bytes) -> Envelope:
    """Read the body of a job, and check its form and fields. The payload's own fields are not checked here.

    Raises:
        Undecodable: the body is not valid. The error names the field at fault, and never repeats the bytes.
    """
    content = _json_object(body)
    arguments, keywords = content.get("a", []), content.get("k", {})
    if arguments not in ([], None):
        raise Undecodable("a", "positional arguments are not accepted; name the payload's fields")
    if not isinstance(keywords, dict):
        raise Undecodable("k", "must be an object")
    _check_names(body, len(content) + len(keywords))
    reserved = {name: _reserved(keywords, name) for name in _RESERVED}
    wire_name = _wire_name(content.get("f"))
    scheduled = wire_name.startswith(CRON_PREFIX)
    queue = content.get("q")
    if queue is not None and not _ends_in(body, queue):
        raise Undecodable("q", "must be the last key and a queue's name, with no blanks around it")
    return Envelope(
        kind=wire_name.removeprefix(CRON_PREFIX),
        payload={name: value for name, value in keywords.items() if name not in _RESERVED},
        actor=reserved["_actor"] or (SCHEDULE_ACTOR if scheduled else UNKNOWN_ACTOR),
        trace_id=reserved["_trace_id"],
        attempt=_whole(content, "t", 1, 1_000_000),
        enqueued_ms=_whole(content, "et", 0, int(time.time() * 1000) + 10 * _YEAR_MS) or 0,
        scheduled=scheduled,
        staged=reserved["_staged"] is not None,
        row=_row(content) if reserved["_staged"] == _DIRECT else None,
        queue=queue,
        unique=_printable(content, "u", MAX_JOB_ID),
    )


def _row(content: Mapping[str, Any]) -> int:
    """The number of the outbox row of a job that its producer put on the queue."""
    row = _whole(content, "n", 0, MAX_ROW)
    if row is None:
        raise Undecodable("n", "must be the number of the job's row in the outbox")
    return row


def has_ordering_key(body: bytes) -> bool:
    """True if the relay marked this body as staged under an ordering key.

    Searches the bytes and does not decode them, because it is called for each delivery.
    """
    return _ORDERED_MARK in body


def presentable(text: str, longest: int) -> str:
    """A text that is valid for a reserved name: unprintable characters are escaped, the end is cut off."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)[:longest]


def check_job_id(job_id: str) -> None:
    """Refuse a job id that can't be stored, logged and typed.

    Raises:
        Undecodable: the id is empty, too long, or holds control characters.
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
    if holds_infinite(body, content):
        raise Undecodable("body", "holds a number that is too large to be one")
    return content


def _check_length(body: bytes) -> None:
    if len(body) > MAX_BODY_BYTES:
        # a worker gets one byte more than is accepted of a longer body, so the true length is unknown
        length = f"more than {MAX_BODY_BYTES}" if len(body) == MAX_BODY_BYTES + 1 else len(body)
        raise Undecodable("body", f"has {length} bytes; at most {MAX_BODY_BYTES} are accepted")


def _check_names(body: bytes, known: int) -> None:
    """Refuse a body that has one of its keys twice: the scripts on Redis would read the first, Python the last.

    `known` is the number of keys of the body and of its `k`. A body is parsed again only if it may have more keys, for
    example in a nested payload.
    """
    # such a blank may stand before a colon
    blank = b'" ' in body or b"\n" in body or b"\t" in body or b"\r" in body
    if body.count(b'":') == known and not blank:
        return
    pairs = json.loads(body, object_pairs_hook=tuple, parse_int=str, parse_float=str)
    _check_once(pairs, _READ)
    for name, value in pairs:
        if name == "k" and isinstance(value, tuple):
            _check_once(value, _RESERVED)


def _check_once(pairs: Iterable[Any], names: Container[str]) -> None:
    seen = set()
    for name, _ in pairs:
        if name in seen and name in names:
            raise Undecodable(name, "is there twice")
        seen.add(name)


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
    return _printable(keywords, name, _RESERVED[name])


def _printable(content: Mapping[str, Any], name: str, longest: int) -> str | None:
    value = content.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > longest or not value.isprintable():
        raise Undecodable(name, f"must be at most {longest} printable characters")
    return value


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_sorted(each) for each in value]
    if isinstance(value, float) and value.is_integer():
        if abs(value) < 2**53:
            return int(value)
        return int(
            Decimal(repr(value))
        )  # PostgreSQL gives 1e23 back as this number, which int(1e23) is not
    return value

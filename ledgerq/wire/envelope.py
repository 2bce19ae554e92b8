"""The wire: what stands in Redis under `arq:job:<id>`, as arq writes it, in JSON.

    {"t": try, "f": kind, "a": [], "k": {the payload's fields, and reserved names}, "et": enqueue ms,
     "u": unique key, "q": queue}

The last two are ours; arq and older versions of ledgerq pass over them. `q` says whose the body is, since all queues
of one Redis share the ids; it is the last key, so that a script need not read the rest. A stock client's body has none.
Reserved names begin with an underscore and never reach the payload model:
`_actor` (who asks, for the audit log), `_trace_id`, and `_staged` (the job came out of the outbox and
has a message there to settle). A kind that begins with `cron:` was put there by arq's schedule.
"""

import hashlib
import json
import math
import re
import time
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pydantic_core import from_json, to_json

from ledgerq.errors import Undecodable
from ledgerq.wire.names import CRON_PREFIX, MAX_KIND

MAX_BODY_BYTES = 1_000_000
MAX_JOB_ID = 200
MAX_ACTOR = 200  # as the audit log keeps it
MAX_TRACE_ID = 64  # as above
UNKNOWN_ACTOR = "unknown"
SCHEDULE_ACTOR = "schedule"

_MAY_BE_HUGE = re.compile(rb"[eE]\+?[0-9]{3}")
_HUGE_DIGITS = 300  # a number of as many digits is
_IS_HUGE = re.compile(rb"[0-9]{300}")
_YEAR_MS = 365 * 24 * 3600 * 1000
_ORDERED = "o"
_ORDERED_MARK = b'"_staged":"o"'
_RESERVED = {"_actor": MAX_ACTOR, "_trace_id": MAX_TRACE_ID, "_staged": 1}  # → the longest value
_READ = ("t", "f", "a", "k", "et", "u", "q")
_TAIL = 1000  # bytes in which a body's last key is looked for, as in worker/lua/owner.lua


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
    queue: str | None = None  # None if a stock client, or an older one of ours, put it there
    unique: str | None = None  # the unique key that the job took on Redis

    @property
    def wire_name(self) -> str:
        """The kind as arq names it."""
        return f"{CRON_PREFIX}{self.kind}" if self.scheduled else self.kind

    @property
    def payload_hash(self) -> bytes:
        """SHA-256 of kind and payload, whatever the order of their keys."""
        return hashlib.sha256(to_json([self.kind, _sorted(dict(self.payload))])).digest()


def encode(envelope: Envelope, *, queue: str | None = None) -> bytes:
    """The bytes to put on Redis, on this queue if the envelope names none.

    Raises:
        Undecodable: actor, trace or length are such as no worker would take.
    """
    reserved: dict[str, str] = {}
    if envelope.actor != (SCHEDULE_ACTOR if envelope.scheduled else UNKNOWN_ACTOR):
        if not envelope.actor:
            raise Undecodable("_actor", f"must be 1 to {MAX_ACTOR} printable characters")
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
    if envelope.unique:
        body["u"] = envelope.unique
    encoded = to_json(body)
    if named := envelope.queue or queue:
        encoded = encoded[:-1] + queue_mark(named)
    _check_length(encoded)
    return encoded


@lru_cache(maxsize=64)
def queue_mark(queue: str) -> bytes:
    """How a body or a result of this queue ends."""
    return b',"q":' + to_json(queue) + b"}"


def queue_of(body: bytes) -> str | None:
    """The queue that a body names by its last key, without reading the rest."""
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
        queue=queue,
        unique=_printable(content, "u", MAX_JOB_ID),
    )


def has_ordering_key(body: bytes) -> bool:
    """True if the relay marked these bytes so; without reading them, each delivery is asked."""
    return _ORDERED_MARK in body


def presentable(text: str, longest: int) -> str:
    """The text as it may stand in a reserved name: what is not printable spelt out, and cut."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)[:longest]


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
    if _may_be_huge(body) and not _finite(content):
        raise Undecodable("body", "holds a number that is too large to be one")
    return content


def _check_length(body: bytes) -> None:
    if len(body) > MAX_BODY_BYTES:
        # a worker is handed one byte more than it may have, whatever the length
        length = f"more than {MAX_BODY_BYTES}" if len(body) == MAX_BODY_BYTES + 1 else len(body)
        raise Undecodable("body", f"has {length} bytes; at most {MAX_BODY_BYTES} are accepted")


def _check_names(body: bytes, known: int) -> None:
    """Refuse a name that stands there twice: the scripts on Redis read the first one, Python the last.

    A body is looked at closely only if there is more in it than the names that are known, as in a nested payload.
    """
    blank = (
        b'" ' in body or b"\n" in body or b"\t" in body or b"\r" in body
    )  # before a colon, maybe
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


def _may_be_huge(body: bytes) -> bool:
    """True if a number in it might be too large; two expressions are quicker than one with both."""
    if _MAY_BE_HUGE.search(body):
        return True
    return len(body) > _HUGE_DIGITS and _IS_HUGE.search(body) is not None


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
        return int(value)  # PostgreSQL gives 1e16 back as the whole number that it is
    return value

"""A producer's request for a job: the client enqueues it on Redis, `ledgerq.staging` stages it in a transaction."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic_core import from_json, to_json

from ledgerq.errors import MAX_DELAY, InvalidRequest
from ledgerq.text import storable
from ledgerq.wire.envelope import MAX_JOB_ID, UNKNOWN_ACTOR, Envelope, check_job_id
from ledgerq.wire.new_id import new_job_id
from ledgerq.wire.payload import Payload
from ledgerq.wire.payload_fields import fields_as_json, fields_as_values, require_no_secret
from ledgerq.wire.queue_name import checked_queue

MAX_ACTOR = 200
MAX_REASON = 1000
MAX_TRACE_ID = 64
_MAX_DELAY = timedelta(seconds=MAX_DELAY)
_DAYS = _MAX_DELAY.days
# NUL, as JSON escapes it; after an escaped backslash, u0000 is plain text
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


@dataclass(frozen=True, slots=True)
class Unique:
    """For the time `window` after a request, requests of the same kind and `key` yield the first one's job, even if ended.

    ```python
    await client.enqueue(SendReport(), unique=Unique("report", timedelta(hours=1)))
    ```
    """

    key: str
    window: timedelta

    def __post_init__(self) -> None:
        require_printable("unique.key", self.key, MAX_JOB_ID)
        if not self.window or not _is_time(self.window):
            problem = f"must be a timedelta of more than nothing, at most {_DAYS} days"
            raise InvalidRequest("unique.window", problem)


@dataclass(frozen=True, slots=True)
class Request:
    """A job to enqueue or to stage. Requests with the same `job_id` are for the same job, which runs once.

    Without `job_id`, the job gets a new id. The job is due when `delay` has passed. `actor` is who asks, for the audit log.
    `ordering_key` is for staged jobs: jobs with the same key run one after another, in the order in which they were staged.
    `queue` takes precedence over the queue of the payload's class; `default` names the default queue.

    ```python
    closing = [Request(CloseOrder(order_id=each.id), job_id=f"close:{each.id}") for each in orders]
    await client.enqueue_many(closing)
    ```

    Raises:
        InvalidRequest: a field's value is not valid. `job_id` is checked later, when the job is enqueued or staged.
    """

    payload: Payload
    job_id: str | None = None
    delay: timedelta = timedelta(0)
    actor: str = UNKNOWN_ACTOR
    trace_id: str | None = None
    ordering_key: str | None = None
    unique: Unique | None = None
    queue: str | None = None

    def __post_init__(self) -> None:
        _require_payload(self.payload)
        require_printable("actor", self.actor, MAX_ACTOR)
        _require_type("job_id", self.job_id, str, "a text; for a UUID: str(…)")
        _require_type("unique", self.unique, Unique, "Unique(key, window)")
        if self.trace_id is not None:
            require_printable("trace_id", self.trace_id, MAX_TRACE_ID)
        if self.ordering_key is not None:
            require_printable("ordering_key", self.ordering_key, MAX_JOB_ID)
        if not _is_time(self.delay):
            raise InvalidRequest(
                "delay", f"must be a timedelta, not negative, at most {_DAYS} days"
            )
        if self.queue_name is not None:
            try:
                checked_queue(self.queue_name)
            except ValueError as error:
                raise InvalidRequest("queue", str(error)) from None

    @property
    def queue_name(self) -> str | None:
        """The queue that the job is for: the request's own, else that of the payload's class."""
        if self.queue is not None:
            return self.queue
        named: str | None = getattr(type(self.payload), "queue", None)
        return named

    @property
    def envelope(self) -> Envelope:
        """The job's kind, payload, actor and trace id, to be encoded as a body.

        Raises:
            InvalidRequest: the payload has a field whose name is reserved.
        """
        payload = fields_as_values(self.payload)
        require_free_names(payload)
        return Envelope(
            kind=self.payload.kind,
            payload=payload,
            actor=self.actor,
            trace_id=self.trace_id,
        )

    @property
    def fields(self) -> bytes:
        """The payload's fields as JSON.

        Raises:
            InvalidRequest: the payload is no JSON object, has a field whose name is reserved, or holds NaN or infinity.
        """
        fields = fields_as_json(self.payload)
        if b"null" in fields:  # what a nested model makes of NaN
            fields = to_json(self.envelope.payload)
        if b'"_' in fields or b"NaN" in fields or b"Infinity" in fields or fields[:1] != b"{":
            require_free_names(_object(fields))
        return fields

    @property
    def may_exist(self) -> bool:
        """True if the job may exist already: the request has a job id or a unique key. An id that we make is always new."""
        return self.job_id is not None or self.unique is not None

    def checked_id(self) -> str:
        """The requested job id, or a new one.

        Raises:
            Undecodable: the requested id is empty, too long, or holds control characters.
        """
        if self.job_id is None:
            return new_job_id()
        check_job_id(self.job_id)
        return self.job_id


def _is_time(value: object) -> bool:
    return isinstance(value, timedelta) and timedelta(0) <= value <= _MAX_DELAY


def _require_type(field: str, value: object, wanted: type, said: str) -> None:
    if value is not None and not isinstance(value, wanted):
        raise InvalidRequest(field, f"must be {said}; this is of {type(value).__name__}")


def _require_payload(payload: object) -> None:
    if not isinstance(payload, Payload):
        found = payload.__name__ if isinstance(payload, type) else type(payload).__name__
        made = f"{found}(…), not the class" if isinstance(payload, type) else "a Payload"
        raise InvalidRequest("payload", f"must be {made}; this is {found!r}")
    if getattr(payload, "kind", None) is None:
        name = type(payload).__name__
        raise InvalidRequest(
            "payload", f'{name} names no kind; write class {name}(Payload[…], kind="…")'
        )
    require_no_secret(type(payload))


def require_printable(field: str, value: object, longest: int) -> None:
    """Refuse a value that can't be stored, logged, and entered at a keyboard. `field` is the name in the error.

    Raises:
        InvalidRequest: the value is no text, is empty, has more than `longest` characters, or control characters.
    """
    if not isinstance(value, str) or not 1 <= len(value) <= longest or not value.isprintable():
        raise InvalidRequest(field, f"must have 1 to {longest} printable characters")


def checked_words(actor: str, reason: str) -> tuple[str, str]:
    """Who intervenes and why, as the audit log can store it.

    Raises:
        InvalidRequest: the actor is not valid, or the reason has more than 1,000 characters.
    """
    require_printable("actor", actor, MAX_ACTOR)
    if len(reason) > MAX_REASON:
        raise InvalidRequest("reason", f"must have at most {MAX_REASON} characters")
    return actor, storable(reason)


def require_free_names(payload: Mapping[str, Any]) -> None:
    """Refuse a payload that uses reserved names, for example `_actor`: see `ledgerq.wire.envelope`.

    Raises:
        InvalidRequest: the name of a field begins with an underscore.
    """
    for name in payload:
        if name.startswith("_"):
            problem = f"names that begin with _ are reserved: {ascii(name)[1:60]}"
            raise InvalidRequest("payload", problem.rstrip("'"))


def _object(fields: bytes) -> dict[str, Any]:
    """The payload's fields, of which the bytes leave in doubt whether a worker takes them."""
    try:
        found = from_json(fields, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest("payload", f"no worker could read it ({error})") from None
    if not isinstance(found, dict):
        raise InvalidRequest(
            "payload", "must be a JSON object: it is made by a serializer of its own"
        )
    return found


def require_storable(body: bytes) -> None:
    """Refuse a body that the outbox can't store, or that no worker could read.

    Raises:
        InvalidRequest: a text holds NUL, a number is too large, or the JSON is nested too deep.
    """
    if b"\\u0000" in body and _NUL.search(body):
        raise InvalidRequest("payload", "a text holds NUL, which no database keeps")
    try:
        from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest("payload", f"no worker could read it ({error})") from None


def as_requests(asked: "Iterable[Request | Payload]") -> list[Request]:
    """The requests in a list; each bare payload becomes a request with default values."""
    return [each if isinstance(each, Request) else Request(each) for each in asked]

"""Reads kind, actor and trace id out of a body that is not valid as a whole.

A person who looks at the dead letter still wants to know who asked for the job, and for which kind.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ledgerq.errors import Undecodable
from ledgerq.wire.envelope import (
    MAX_ACTOR,
    MAX_BODY_BYTES,
    MAX_TRACE_ID,
    SCHEDULE_ACTOR,
    Envelope,
    decode,
)
from ledgerq.wire.names import CRON_PREFIX, MAX_KIND


@dataclass(frozen=True, slots=True)
class ReadableParts:
    """The valid parts of a body; None for a part that is missing or not valid. `envelope` is there only if all is valid."""

    envelope: Envelope | None = None
    kind: str | None = None
    actor: str | None = None
    trace_id: str | None = None


def readable_parts(body: bytes | None) -> ReadableParts:
    """All parts if the body is valid, else each part that is valid by itself, perhaps none. Raises nothing."""
    try:
        envelope = decode(body or b"")
    except Undecodable:
        return _parts(body or b"")
    return ReadableParts(envelope, envelope.kind, envelope.actor, envelope.trace_id)


def _parts(body: bytes) -> ReadableParts:
    content = _object(body)
    keywords = content.get("k")
    reserved = keywords if isinstance(keywords, dict) else {}
    wire_name = _fit(content.get("f"), MAX_KIND) or ""
    scheduled = wire_name.startswith(CRON_PREFIX) and "_actor" not in reserved
    return ReadableParts(
        kind=wire_name.removeprefix(CRON_PREFIX) or None,
        actor=SCHEDULE_ACTOR if scheduled else _fit(reserved.get("_actor"), MAX_ACTOR),
        trace_id=_fit(reserved.get("_trace_id"), MAX_TRACE_ID),
    )


def _object(body: bytes) -> Mapping[str, Any]:
    if len(body) > MAX_BODY_BYTES:
        return {}
    try:
        content = json.loads(
            body.decode(errors="surrogateescape"),
            object_pairs_hook=_said_once,
            parse_int=float,  # int() refuses thousands of digits
        )
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _said_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary of the pairs. A name that occurs twice gets the value None: it is unknown which value is meant."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        found[name] = None if name in found else value
    return found


def _fit(value: object, longest: int) -> str | None:
    is_fit = isinstance(value, str) and 1 <= len(value) <= longest and value.isprintable()
    return str(value) if is_fit else None

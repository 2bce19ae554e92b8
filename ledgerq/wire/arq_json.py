"""The serializer and the deserializer that ledgerq gives to arq: they write and read ledgerq's JSON."""

import asyncio
from typing import Any

from pydantic_core import from_json, to_json

from ledgerq.errors import Undecodable
from ledgerq.wire.envelope import decode

_HASH = "h"  # in the result of a failed job: the hash of kind and payload, compared when the id is enqueued again
UNROUTABLE = "ledgerq.unroutable"  # the function for bodies that fit no kind and no arq function


def to_wire(content: dict[str, Any]) -> bytes:
    """Encode a job or a result, in arq's keys, as JSON. An error becomes its class name and text.

    If the job's first argument is the body of a ledgerq job, the kind and the payload in the body replace the function
    and the arguments; for a failed job, a hash replaces the payload. The queue is the last key, where scripts on Redis
    read it.
    """
    if content.get("a") and isinstance(content["a"][0], bytes):
        content = {**content, **_as_sent(content["a"][0], failed=content.get("s") is False)}
    if "q" in content:
        content = {**content}
        content["q"] = content.pop("q")
    return to_json(content, bytes_mode="base64", fallback=_as_text)


def payload_hash(content: bytes) -> str:
    """The SHA-256 of the kind and payload in a body or a result, in hexadecimal.

    Raises:
        Undecodable: `content` holds no such hash, and its kind and payload can't be read.
    """
    return _kept_hash(content) or decode(content).payload_hash.hex()


def from_wire(body: bytes) -> Any:
    """Decode a job or a result from JSON. Pickle is never read: unpickling can run code."""
    content = from_json(body)
    is_failure = isinstance(content, dict) and content.get("s") is False
    if is_failure and content.get("r") == _as_text(asyncio.CancelledError()):
        content["r"] = asyncio.CancelledError()  # by this error arq recognises an aborted job
    return content


def _as_sent(body: bytes, *, failed: bool) -> dict[str, Any]:
    """The fields by which a result describes its job.

    The result of a failed job has a hash in place of the payload, which the dead letter keeps.
    """
    try:
        envelope = decode(body)
    except Undecodable:
        return {"a": [], "k": {}} if failed else {}
    name = envelope.wire_name
    if failed:
        return {"f": name, "a": [], "k": {}, _HASH: envelope.payload_hash.hex()}
    return {"f": name, "a": [], "k": dict(envelope.payload)}


def _kept_hash(content: bytes) -> str | None:
    try:
        found = from_json(content)
    except ValueError:
        return None
    kept = found.get(_HASH) if isinstance(found, dict) else None
    return kept if isinstance(kept, str) else None


def _as_text(value: Any) -> Any:
    if isinstance(value, BaseException):
        return {"error": type(value).__name__, "message": str(value)}
    return str(value)

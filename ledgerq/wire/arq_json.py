"""arq's side of the wire: how its hooks for (de)serialising read and write our JSON."""

import asyncio
from typing import Any

from pydantic_core import from_json, to_json

from ledgerq.errors import Undecodable
from ledgerq.wire.envelope import decode

_HASH = "h"  # in the result of a failed job: of kind and payload, for who enqueues the id again
UNROUTABLE = "ledgerq.unroutable"  # arq's name for the function that takes what no kind fits


def to_wire(content: dict[str, Any]) -> bytes:
    """A job or a result as JSON. An error becomes its name and text; a body is shown as what it holds.

    A result names its queue last, as bodies do: the scripts on Redis look there.
    """
    if content.get("a") and isinstance(content["a"][0], bytes):
        content = {**content, **_as_sent(content["a"][0], failed=content.get("s") is False)}
    if "q" in content:
        content = {**content}
        content["q"] = content.pop("q")
    return to_json(content, bytes_mode="base64", fallback=_as_text)


def payload_hash(content: bytes) -> str:
    """Of kind and payload in a body or a result, in hexadecimal.

    Raises:
        Undecodable: it is not ours to judge.
    """
    return _kept_hash(content) or decode(content).payload_hash.hex()


def from_wire(body: bytes) -> Any:
    """A job or a result from JSON; never pickle, which would run what it reads."""
    content = from_json(body)
    if isinstance(content, dict) and content.get("r") == _as_text(asyncio.CancelledError()):
        content["r"] = asyncio.CancelledError()  # by which arq knows a job that was aborted
    return content


def _as_sent(body: bytes, *, failed: bool) -> dict[str, Any]:
    """What a result tells of the job; that of a failed one does not repeat the arguments, its letter has them."""
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

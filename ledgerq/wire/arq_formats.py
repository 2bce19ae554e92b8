"""How a worker reads and writes for arq when kinds of ours and a service's own arq functions share its queue.

    kind of ours       our JSON; also what the service's deserializer reads, if JSON can carry its keyword arguments
    arq function       our JSON, or what the service's deserializer reads; with positional arguments too
    neither            the function `UNROUTABLE`: the worker buries it, or leaves it on the queue

A result is written as its job was: in JSON, or with the service's serializer.
"""

import time
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json, to_json

from ledgerq.errors import Undecodable
from ledgerq.text import one_line
from ledgerq.wire.arq_json import UNROUTABLE, from_wire, to_wire
from ledgerq.wire.envelope import MAX_BODY_BYTES, Envelope, decode
from ledgerq.wire.foreign import foreign_format
from ledgerq.wire.names import CRON_PREFIX

Serializer = Callable[[dict[str, Any]], bytes]
Deserializer = Callable[[bytes], dict[str, Any]]

FUNCTION, PROBLEM = "function", "problem"  # what `UNROUTABLE` is told beside the body


class Foreign(list[Any]):
    """Positional arguments of a job that the service's deserializer read: its result is written to match."""


@dataclass(frozen=True, slots=True)
class ArqFormats:
    """The (de)serializers that arq is given.

    Args:
        kinds: arq's names of our own kinds.
        functions: names of the service's own arq functions.
        serializer: the service's, for its arq clients; None if they read JSON.
        deserializer: the same; None if they write JSON. Without it no foreign body is ever decoded.
    """

    kinds: Container[str]
    functions: Container[str] = ()
    serializer: Serializer | None = None
    deserializer: Deserializer | None = None

    def read_job(self, body: bytes) -> dict[str, Any]:
        """What arq's worker is to run. The body of a job of ours is handed on whole, in JSON.

        It never raises: arq would delete the body. What can't be read, or has no function here, goes
        to the function `UNROUTABLE`, and the flow of jobs says what is wrong with it.
        """
        envelope = _envelope(body)
        if envelope and envelope.wire_name in self.kinds:
            return _routed(body, envelope)
        job, problem = self._loaded(body)
        if job and job["f"] in self.functions:
            return {**job, "a": Foreign(job["a"])}
        if job and not envelope:
            return self._translated(job, body)
        job = _arq_job(_json(body))
        if job and job["f"] in self.functions:
            return job
        return self._unroutable(body, envelope, job, problem)

    def write(self, content: dict[str, Any]) -> bytes:
        """A result in the format of its job. A new job in JSON if it is one of ours, else as arq's clients write it."""
        arguments, name = content.get("a"), content["f"]
        if self.serializer is None:
            return to_wire(content)
        if "s" not in content and name not in self.kinds and not name.startswith(CRON_PREFIX):
            return self.serializer(content)
        if isinstance(arguments, Foreign):
            return self.serializer(self._as_sent(content, arguments))
        return to_wire(content)

    def read(self, content: bytes) -> Any:
        """A job or a result that arq's client asks for, in either format."""
        try:
            return from_wire(content)
        except ValueError:
            if self.deserializer is None:
                raise
            return self.deserializer(content)

    def _loaded(self, body: bytes) -> tuple[dict[str, Any] | None, str]:
        """What the service's deserializer makes of it; None and why, if it makes no job of it."""
        if self.deserializer is None:
            return None, ""
        if len(body) > MAX_BODY_BYTES:
            return None, f"it has more than {MAX_BODY_BYTES:,} bytes"
        try:
            return _arq_job(self.deserializer(body)), "it is no job of arq's"
        except Exception as error:  # noqa: BLE001 - the service's code, on bytes from outside
            return None, f"arq_deserializer raised {one_line(error, 200)}"

    def _translated(self, job: dict[str, Any], body: bytes) -> dict[str, Any]:
        """A foreign job that is no arq function's, as our JSON: it may be one of our kinds."""
        try:
            translated = to_json(job)
        except ValueError as error:
            return self._unroutable(body, None, None, f"JSON can't carry its arguments: {error}")
        envelope = _envelope(translated)
        if envelope and envelope.wire_name in self.kinds:
            routed = _routed(translated, envelope)
        else:
            routed = self._unroutable(translated, envelope, job, "")
        return {**routed, "a": Foreign(routed["a"])}

    def _unroutable(
        self, body: bytes, envelope: Envelope | None, job: dict[str, Any] | None, problem: str
    ) -> dict[str, Any]:
        """`job` is told of where it has positional arguments and is no kind's: its function is not here."""
        told = {PROBLEM: problem} if problem and foreign_format(body) else {}
        if job and job["a"] and job["f"] not in self.kinds:
            told[FUNCTION] = job["f"]
        attempt = envelope.attempt if envelope else None
        enqueued = envelope.enqueued_ms if envelope else int(time.time() * 1000)
        return {"f": UNROUTABLE, "a": [body], "k": told, "t": attempt, "et": enqueued}

    def _as_sent(self, content: dict[str, Any], arguments: Foreign) -> dict[str, Any]:
        """A result as arq's client expects it, which may not have ledgerq installed."""
        shown = {**content, "a": tuple(arguments)}
        if content["f"] in self.kinds and (sent := _envelope(arguments[0])):
            shown |= {"f": sent.wire_name, "a": (), "k": dict(sent.payload)}
        error = content.get("r")
        if isinstance(error, BaseException) and type(error).__module__.startswith("ledgerq."):
            shown["r"] = RuntimeError(str(error))
        return shown


def _envelope(body: bytes) -> Envelope | None:
    try:
        return decode(body)
    except Undecodable:
        return None


def _json(body: bytes) -> Any:
    try:
        return from_json(body) if len(body) <= MAX_BODY_BYTES else None
    except ValueError:
        return None


def _arq_job(content: Any) -> dict[str, Any] | None:
    """A job as arq's clients build it, or None: whatever else stands there is not handed to arq."""
    if not isinstance(content, dict):
        return None
    name, arguments, keywords = content.get("f"), content.get("a"), content.get("k")
    attempt, enqueued = content.get("t"), content.get("et")
    if not isinstance(name, str) or not isinstance(arguments, list | tuple):
        return None
    if not isinstance(keywords, dict) or not all(isinstance(each, str) for each in keywords):
        return None
    if type(enqueued) is not int or not (attempt is None or type(attempt) is int):
        return None
    return {"t": attempt, "f": name, "a": arguments, "k": keywords, "et": enqueued}


def _routed(body: bytes, envelope: Envelope) -> dict[str, Any]:
    name, attempt, enqueued = envelope.wire_name, envelope.attempt, envelope.enqueued_ms
    return {"f": name, "a": [body], "k": {}, "t": attempt, "et": enqueued}

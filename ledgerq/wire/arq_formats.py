"""The serializers that arq is given when ledgerq's kinds and a service's own arq functions share a queue.

What a body asks for decides how the worker reads it:

    a ledgerq kind     ledgerq's JSON; or the service's own format, if JSON can carry the keyword arguments
    an arq function    ledgerq's JSON, or the service's own format; positional arguments are allowed
    anything else      goes to the function `UNROUTABLE`: the worker buries the job, or leaves it on the queue

A result is written in the format of its job: JSON, or the service's own format.
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

FUNCTION, PROBLEM = "function", "problem"  # keyword arguments of `UNROUTABLE`, beside the body


class Foreign(list[Any]):
    """Arguments of a job whose body the service's deserializer read. The service's serializer writes the job's result."""


@dataclass(frozen=True, slots=True)
class ArqFormats:
    """The (de)serializers that arq is given.

    Args:
        kinds: the names by which arq knows ledgerq's kinds.
        functions: names of the service's own arq functions.
        serializer: writes the format that the service's arq clients read; None if they read JSON.
        deserializer: reads the format that they write; None if they write JSON. Without it no foreign body is decoded.
    """

    kinds: Container[str]
    functions: Container[str] = ()
    serializer: Serializer | None = None
    deserializer: Deserializer | None = None

    def read_job(self, body: bytes) -> dict[str, Any]:
        """The job that arq's worker runs for this body. A ledgerq kind gets the whole body, in JSON, as its argument.

        Never raises, because arq would delete the body. A body that can't be read, or that asks for a function which
        this worker lacks, goes to the function `UNROUTABLE`; processing that job then finds the error.
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
        """Serialize a result in the format of its job.

        A new job becomes JSON if it is a ledgerq kind or a cron job; else the service's serializer writes it.
        """
        arguments, name = content.get("a"), content["f"]
        if self.serializer is None:
            return to_wire(content)
        if "s" not in content and name not in self.kinds and not name.startswith(CRON_PREFIX):
            return self.serializer(content)
        if isinstance(arguments, Foreign):
            return self.serializer(self._as_sent(content, arguments))
        return to_wire(content)

    def read(self, content: bytes) -> Any:
        """Deserialize a job or a result for arq's client: from JSON, or else with the service's deserializer."""
        try:
            return from_wire(content)
        except ValueError:
            if self.deserializer is None:
                raise
            return self.deserializer(content)

    def _loaded(self, body: bytes) -> tuple[dict[str, Any] | None, str]:
        """The job that the service's deserializer reads; or None, and why ('' if there is no deserializer)."""
        if self.deserializer is None:
            return None, ""
        if len(body) > MAX_BODY_BYTES:
            return None, f"it has more than {MAX_BODY_BYTES:,} bytes"
        try:
            return _arq_job(self.deserializer(body)), "it is no job of arq's"
        except Exception as error:  # noqa: BLE001 - the service's code, on bytes from outside
            return None, f"arq_deserializer raised {one_line(error, 200)}"

    def _translated(self, job: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Convert a foreign job that asks for no arq function to ledgerq's JSON: it may be one of ledgerq's kinds."""
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
        """A call of `UNROUTABLE` with the body.

        The call names the function of `job` if `job` has positional arguments and is no ledgerq kind: it is then a job
        of an arq function that this worker lacks.
        """
        told = {PROBLEM: problem} if problem and foreign_format(body) else {}
        if job and job["a"] and job["f"] not in self.kinds:
            told[FUNCTION] = job["f"]
        attempt = envelope.attempt if envelope else None
        enqueued = envelope.enqueued_ms if envelope else int(time.time() * 1000)
        return {"f": UNROUTABLE, "a": [body], "k": told, "t": attempt, "et": enqueued}

    def _as_sent(self, content: dict[str, Any], arguments: Foreign) -> dict[str, Any]:
        """A result that a stock arq client can read, even without ledgerq installed."""
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
    """The fields of a job as arq's clients write it; None if a field has a wrong type, since arq could not run it."""
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

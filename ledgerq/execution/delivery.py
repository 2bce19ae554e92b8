"""A job as a worker receives it, and what is known of its earlier deliveries."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ledgerq.wire.envelope import Envelope, decode


@dataclass(slots=True)
class Delivery:
    """One arrival of a job at a worker. A job may arrive more than once.

    `attempt` counts from 1. Earlier arrivals that spent no attempt are counted apart: `crashes` are those during which
    the worker died, `interruptions` those that lost the connection to the database or were held up by other jobs.
    `history` has a note on each earlier arrival that went wrong, as far as known. `recorded_at` is the attempt that last
    recorded a step outside of the database; 0 if none has, as far as this delivery knows.
    """

    job_id: str
    attempt: int
    body: bytes
    crashes: int = 0
    interruptions: int = 0
    history: tuple[Mapping[str, Any], ...] = ()
    worker: str = ""
    queue: str = ""  # the key of the queue that the job came from; '' if unknown
    recorded_at: int = 0
    _envelope: Envelope | None = field(default=None, repr=False, compare=False)

    @property
    def envelope(self) -> Envelope:
        """The body, decoded once.

        Raises:
            Undecodable: the body is not valid.
        """
        if self._envelope is None:
            self._envelope = decode(self.body)
        return self._envelope

    @property
    def tries(self) -> int:
        """How many attempts count against the limit: those since a step was last recorded, or all; this one included."""
        if not 0 < self.recorded_at <= self.attempt:  # attempts count anew after a replay
            return self.attempt
        return self.attempt - self.recorded_at + 1

    @property
    def is_first(self) -> bool:
        """True if no earlier attempt, crash or interruption of the job is known: to Redis, or to arq's count in the body."""
        before = self.attempt > 1 or self.crashes or self.interruptions
        return not before and not self.envelope.attempt

"""A job as a worker receives it, and what is known of its earlier deliveries."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ledgerq.wire.envelope import Envelope, decode


@dataclass(slots=True)
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
    queue: str = ""  # the key of the queue that it came from; '' if that is not known
    _envelope: Envelope | None = field(default=None, repr=False, compare=False)

    @property
    def envelope(self) -> Envelope:
        """The body, decoded once.

        Raises:
            Undecodable: it is no job.
        """
        if self._envelope is None:
            self._envelope = decode(self.body)
        return self._envelope

    @property
    def is_first(self) -> bool:
        """True if nothing has gone wrong with the job before, as far as it is known."""
        before = self.attempt > 1 or self.crashes or self.interruptions
        return not before and not self.envelope.attempt

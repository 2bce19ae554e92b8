"""Counts the deliveries of each job as Redis does for workers: what a delivery spent, and when the job is due again.

`Deliveries.ended` follows `ledgerq.worker.executor`, which makes an ack of an outcome, and broker/lua/acknowledge.lua;
`Deliveries.crashed` follows broker/lua/claim.lua.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from ledgerq.execution.dead_letter import MAX_NOTE
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.outcome import Outcome, Retry
from ledgerq.execution.retry import Policy
from ledgerq.runtime.process_name import process_name
from ledgerq.text import one_line


class NoJitter(Policy):
    """A worker's policy without chance: a test sees the longest backoff that a worker may draw."""

    __slots__ = ()

    @classmethod
    def of(cls, policy: Policy) -> "NoJitter":
        """The policy with these settings."""
        return cls(**asdict(policy))

    def delay(self, attempt: int) -> float:
        """Seconds until the next attempt."""
        return self.longest_delay(attempt)


_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True)
class _Count:
    """What the earlier deliveries of a job have spent, a note on each that went wrong, and when the job is due again."""

    attempts: int = 0
    crashes: int = 0
    interruptions: int = 0
    history: tuple[Mapping[str, Any], ...] = ()
    due_at: datetime = _LONG_AGO


@dataclass(slots=True)
class Deliveries:
    """The deliveries of a tester's jobs. Times are those of the tester's clock."""

    # by the id of a job that has not ended
    _counts: dict[str, _Count] = field(default_factory=dict)
    _last: dict[str, Delivery] = field(default_factory=dict)

    def next(self, job_id: str, body: bytes) -> Delivery:
        """The next delivery of a job, with these bytes."""
        known = self._counts.get(job_id, _Count())
        counts = known.crashes, known.interruptions, known.history
        return Delivery(job_id, known.attempts + 1, body, *counts, process_name())

    def began(self, delivery: Delivery) -> None:
        """Note the delivery as its job's last one."""
        self._last[delivery.job_id] = delivery

    def last(self, job_id: str) -> Delivery:
        """The last delivery of a job that began.

        Raises:
            LookupError: there was none.
        """
        if job_id not in self._last:
            raise LookupError(
                f"job_id: this tester has delivered no job {job_id!r}; run it first, by run(…, job_id=)"
            )
        return self._last[job_id]

    def is_due(self, job_id: str, now: datetime) -> bool:
        """True unless the pause after the job's last delivery goes on."""
        return self._counts.get(job_id, _Count()).due_at <= now

    def ended(self, delivery: Delivery, outcome: Outcome, now: datetime) -> None:
        """Count a delivery by its outcome. A job that has ended is forgotten: under its id, attempts count anew."""
        if not isinstance(outcome, Retry):
            self._counts.pop(delivery.job_id, None)
            return
        count = self._counts.setdefault(delivery.job_id, _Count())
        count.due_at = now + timedelta(seconds=outcome.delay)
        if outcome.counts_as_attempt:
            count.attempts = delivery.attempt
        elif outcome.interrupted:
            count.interruptions += 1
        else:
            return  # a job that snoozes keeps no notes
        count.history += (_note(delivery, now, one_line(outcome.error, MAX_NOTE)),)

    def crashed(self, job_id: str, now: datetime, lease: float) -> None:
        """Count a crash in the job's last delivery. It spends no attempt; the job is due when the lease runs out."""
        count = self._counts.setdefault(job_id, _Count())
        count.due_at = now + timedelta(seconds=lease)
        count.crashes += 1
        count.history += (_note(self.last(job_id), now, "the worker died"),)


def _note(delivery: Delivery, now: datetime, error: str) -> Mapping[str, Any]:
    milliseconds = int(now.timestamp() * 1000)
    return {
        "attempt": delivery.attempt,
        "worker": delivery.worker,
        "at": milliseconds,
        "error": error,
    }

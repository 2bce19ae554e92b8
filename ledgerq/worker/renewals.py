"""Renews the leases of a worker's jobs; and says afterwards that the worker lived, if leases ran out meanwhile."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import structlog

from ledgerq.broker.claims import RenewalStatus
from ledgerq.broker.many_queues import ServedQueues, SomeQueuesFailed

log = structlog.stdlib.get_logger("ledgerq.worker")


@dataclass(slots=True)
class Renewals:
    """Renews the leases of a worker's jobs.

    If a lease runs out because the worker can't renew it, another worker claims the job, and counts a crash against the
    job. This worker takes the crash back as soon as it renews again. It does not if its process stood still for a third of a
    lease or more: the job may be the cause. A job has at most three crashes taken back.

    Args:
        broker: the worker's.
        active: answers with the ids of the jobs that the worker has.
        on_taken: is called with the id of each job that another worker has by now.
    """

    broker: ServedQueues
    active: Callable[[], Collection[str]]
    on_taken: Callable[[str], None]
    _not_renewed: set[str] = field(default_factory=set)  # the jobs of the first renewal that failed
    _stood_still: float = 0.0  # seconds, since the last renewal that did not fail

    def process_stood_still(self, seconds: float) -> None:
        """Note that the whole process stood still for so long: its leases may have run out therefore."""
        self._stood_still += seconds

    async def run_once(self) -> float:
        """Renew the leases of all jobs; answers with the seconds until the next time."""
        pause = self.broker.lease_settings.lease / 3
        held, began = sorted(self.active()), time.monotonic()
        failure: SomeQueuesFailed | None = None
        try:
            renewed: Mapping[str, int] = await self.broker.renew(held)
        except SomeQueuesFailed as failed:
            renewed, failure = failed.answers, failed
        except Exception:
            self._not_renewed = self._not_renewed or {*held}
            raise
        taken = [each for each, lease in renewed.items() if lease == RenewalStatus.TAKEN]
        for job_id in taken:
            if job_id in self.active():
                log.warning("lease.lost", job_id=job_id)
                self.on_taken(job_id)
        unanswered = {*held} - renewed.keys()
        if lost := (self._not_renewed - unanswered).union(taken):
            was_late = bool(self._not_renewed) or time.monotonic() - began > pause
            self._not_renewed |= lost  # if the review fails
            await self._review(sorted(lost), take_back=was_late and self._stood_still < pause)
        self._not_renewed = unanswered
        if failure:
            raise failure
        self._stood_still = 0.0
        return pause

    async def _review(self, job_ids: Collection[str], *, take_back: bool) -> None:
        if taken_back := await self.broker.review_crashes(job_ids, take_back=take_back):
            log.info("crash.taken_back", jobs=taken_back)

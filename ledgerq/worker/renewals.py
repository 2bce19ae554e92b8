"""Renews the leases of a worker's jobs, and tells Redis afterwards if the worker could not reach it for a while."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import structlog

from ledgerq.broker.claims import RenewalStatus
from ledgerq.broker.many_queues import ServedQueues

log = structlog.stdlib.get_logger("ledgerq.worker")


@dataclass(slots=True)
class Renewals:
    """Renews the leases of a worker's jobs.

    If a lease runs out because the worker does not reach Redis, another worker claims the job, and counts a crash against the
    job. This one takes the crash back when it reaches Redis again. It does not if its process stood still meanwhile: the job
    may have been the cause.

    Args:
        broker: the worker's.
        active: answers with the ids of the jobs that the worker has.
        on_taken: is called with the id of each job that another worker has by now.
    """

    broker: ServedQueues
    active: Callable[[], Collection[str]]
    on_taken: Callable[[str], None]
    _not_renewed: set[str] = field(
        default_factory=set
    )  # the jobs of renewals that failed, since the last that did not
    _stood_still: bool = False  # since the last renewal

    def process_stood_still(self) -> None:
        """Note that the whole process stood still, so that this was why leases ran out."""
        self._stood_still = True

    async def run_once(self) -> float:
        """Renew the leases of all jobs; answers with the seconds until the next time."""
        held = sorted(self.active())
        try:
            renewed = await self.broker.renew(held)
        except Exception:
            self._not_renewed.update(held)
            raise
        for job_id, lease in renewed.items():
            if lease is RenewalStatus.TAKEN and job_id in self.active():
                log.warning("lease.lost", job_id=job_id)
                self.on_taken(job_id)
        if self._not_renewed and not self._stood_still:
            await self._take_back(sorted(self._not_renewed))
        self._not_renewed.clear()
        self._stood_still = False
        return self.broker.lease_settings.lease / 3

    async def _take_back(self, job_ids: Collection[str]) -> None:
        if taken_back := await self.broker.take_back_crashes(job_ids):
            log.info("crash.taken_back", jobs=taken_back)

"""Claims jobs, and hands back orphaned claims, whose answer was lost. `ledgerq.worker.heartbeat` renews the leases."""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import structlog

from ledgerq.broker.claims import Ack, Claim, FetchResult
from ledgerq.broker.many_queues import ServedQueues
from ledgerq.broker.room import Room
from ledgerq.runtime.background_tasks import keep_going

log = structlog.stdlib.get_logger("ledgerq.worker")


@dataclass(slots=True)
class Claimer:
    """Claims jobs for one worker, and hands orphaned claims back.

    `running` answers with the ids of the jobs that have not ended here, `may_start` with False once the worker stops.
    """

    broker: ServedQueues
    running: Callable[[], Collection[str]]
    may_start: Callable[[], bool]
    _orphans_until: float = 0
    _claiming: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def claim(self, wanted: int, *, busy: int, room: Room) -> FetchResult:
        """Claim jobs. If Redis' answer is lost, its claims are orphaned: `run` hands them back later.

        If the worker was told to stop before the answer came, the jobs are released, and the result is without them.
        """
        async with self._claiming:
            try:
                found = await self.broker.claim(wanted, busy=busy, room=room)
                if self.may_start() or not found.jobs:
                    return found
                await self._release(found.jobs)
            except BaseException:
                self.expect_orphans()
                raise
        return replace(found, jobs=())

    async def _release(self, claims: Sequence[Claim]) -> None:
        running = self.running()  # a job that was claimed again here, for its lease had run out
        acks = [Ack(claim.job_id, "release") for claim in claims if claim.job_id not in running]
        if len(acks) < len(
            claims
        ):  # it goes on, or was just given back: then nobody knows this claim
            self.expect_orphans()
        if acks:
            await self.broker.acknowledge(acks)

    def expect_orphans(self) -> None:
        """Note that an answer was lost: Redis may hold claims of this worker that the worker does not know."""
        # Redis may still read a command from a hung socket; two leases are time enough
        self._orphans_until = time.monotonic() + 2 * self.broker.lease_settings.lease

    async def run(self) -> None:
        """Hand back orphaned claims each time that there may be some; runs until it is cancelled."""
        failed = partial(log.warning, "claims.orphans_unknown")
        await keep_going(self.run_once, Exception, failed=failed)  # as in ledgerq.worker.acker

    async def run_once(self) -> float:
        """Hand back orphaned claims if there may be some; answers with the seconds until the next round."""
        if time.monotonic() < self._orphans_until:
            try:
                await self._release_orphaned_claims()
            except Exception:
                self.expect_orphans()
                raise
        return self.broker.lease_settings.lease / 3

    async def _release_orphaned_claims(self) -> None:
        async with self._claiming:
            orphaned_claims = await self.broker.orphaned_claims(self.running())
            if orphaned_claims:
                await self.broker.acknowledge(
                    [Ack(job_id, "release") for job_id in orphaned_claims]
                )
                log.warning("claims.orphans_released", jobs=len(orphaned_claims))

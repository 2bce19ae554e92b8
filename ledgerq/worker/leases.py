"""Claims jobs, and finds out what it claimed if the answer was lost. Leases are renewed by ledgerq.worker.heartbeat."""

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial

import structlog

from ledgerq.broker.claims import Ack, FetchResult
from ledgerq.broker.many_queues import ServedQueues
from ledgerq.runtime.background_tasks import keep_going

log = structlog.stdlib.get_logger("ledgerq.worker")


@dataclass(slots=True)
class Leases:
    """The claims of one worker. `running` says which jobs it has."""

    broker: ServedQueues
    running: Callable[[], Collection[str]]
    _orphans_until: float = 0
    _claiming: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def claim(
        self, wanted: int, *, busy: int, batch_limit: int, batchable_kinds: Collection[str]
    ) -> FetchResult:
        """Claim jobs; if the answer is lost, what it said is found out and handed back later."""
        async with self._claiming:
            try:
                return await self.broker.claim(
                    wanted, busy=busy, batch_limit=batch_limit, batchable_kinds=batchable_kinds
                )
            except BaseException:
                self.expect_orphans()
                raise

    def expect_orphans(self) -> None:
        """Redis may have claimed for us what we never heard of."""
        # a command that waits in a hung socket may still be read; two leases are time enough
        self._orphans_until = time.monotonic() + 2 * self.broker.lease_settings.lease

    async def run(self) -> None:
        """Hand back what was claimed unheard, a while after there was doubt, until cancelled."""
        failed = partial(log.warning, "claims.orphans_unknown")
        await keep_going(self.run_once, Exception, failed=failed)  # as ledgerq.worker.acker

    async def run_once(self) -> float:
        """If there is doubt, find out and hand back."""
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

"""Claims jobs, and finds out what it claimed if the answer was lost. Leases are renewed by worker.heart."""

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import structlog

from worker.broker import Broker, Claimed, Ending

log = structlog.stdlib.get_logger("ledgerq.worker")


@dataclass(slots=True)
class Leases:
    """The claims of one worker. `running` says which jobs it has."""

    broker: Broker
    running: Callable[[], Collection[str]]
    _doubt_until: float = 0
    _claiming: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def claim(
        self, wanted: int, *, busy: int, beside: int, kinds: Collection[str]
    ) -> Claimed:
        """Claim jobs; if the answer is lost, what it said is found out and handed back later."""
        async with self._claiming:
            try:
                return await self.broker.claim(wanted, busy=busy, beside=beside, kinds=kinds)
            except BaseException:
                self.doubt()
                raise

    def doubt(self) -> None:
        """Redis may have claimed for us what we never heard of."""
        # a command that waits in a hung socket may still be read; two leases are time enough
        self._doubt_until = time.monotonic() + 2 * self.broker.terms.lease

    async def keep(self) -> None:
        """Hand back what was claimed unheard, a while after there was doubt, until cancelled."""
        while True:
            await asyncio.sleep(self.broker.terms.lease / 3)
            if time.monotonic() < self._doubt_until:
                try:
                    await self._hand_back_strays()
                except Exception as error:  # noqa: BLE001 - redis-py has more than its own on a cut connection
                    self.doubt()
                    log.warning("worker.strays_unknown", error=str(error))

    async def _hand_back_strays(self) -> None:
        async with self._claiming:
            strays = await self.broker.strays(self.running())
            if strays:
                await self.broker.finish([Ending(job_id, "release") for job_id in strays])
                log.warning("worker.strays_handed_back", jobs=len(strays))

"""Ends claims in batches, and again and again until Redis has heard: a lost "done" would be a second start."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from ledgerq.backoff import Backoff
from ledgerq.broker.claims import Ack, Broker
from ledgerq.text import one_line

log = structlog.stdlib.get_logger("ledgerq.worker")

MAX_AT_ONCE = 50


@dataclass(slots=True)
class Acker:
    """Takes endings from jobs that run at the same time and sends those that came together as one."""

    broker: Broker
    on_trouble: Callable[[], None]
    _waiting: list[tuple[Sequence[Ack], "asyncio.Future[list[bool]]"]] = field(default_factory=list)
    _queued: asyncio.Event = field(default_factory=asyncio.Event)

    async def acknowledge(self, acks: Sequence[Ack]) -> list[bool]:
        """Wait until Redis has ended these claims; False for each that was not ours any more."""
        told: asyncio.Future[list[bool]] = asyncio.get_running_loop().create_future()
        self._waiting.append((acks, told))
        self._queued.set()
        return await told

    async def run(self) -> None:
        """Send what has come, until cancelled."""
        backoff = Backoff()
        while True:
            await self._queued.wait()
            try:
                await self._send()
                backoff.reset()
            except Exception as error:  # noqa: BLE001 - redis-py has more than its own on a cut connection
                self.on_trouble()
                if backoff.failures == 0:
                    log.warning("ack.delayed", error=one_line(error))
                await asyncio.sleep(backoff.next())

    async def _send(self) -> None:
        batch = self._waiting[:MAX_AT_ONCE]  # stays there until Redis has answered
        answers = iter(await self.broker.acknowledge([each for some, _ in batch for each in some]))
        del self._waiting[: len(batch)]
        for acks, told in batch:
            ended = [next(answers) for _ in acks]
            if not told.done():
                told.set_result(ended)
        if not self._waiting:
            self._queued.clear()

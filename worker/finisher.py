"""Ends claims in batches, and again and again until Redis has heard: a lost "done" would be a second start."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from worker.broker import Broker, Ending
from worker.patience import Patience

log = structlog.stdlib.get_logger("ledgerq.worker")

MOST_AT_ONCE = 50


@dataclass(slots=True)
class Finisher:
    """Takes endings from jobs that run at the same time and sends those that came together as one."""

    broker: Broker
    on_trouble: Callable[[], None]
    _waiting: list[tuple[Sequence[Ending], "asyncio.Future[list[bool]]"]] = field(
        default_factory=list
    )
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def finish(self, endings: Sequence[Ending]) -> list[bool]:
        """Wait until Redis has ended these claims; False for each that was not ours any more."""
        told: asyncio.Future[list[bool]] = asyncio.get_running_loop().create_future()
        self._waiting.append((endings, told))
        self._news.set()
        return await told

    async def run(self) -> None:
        """Send what has come, until cancelled."""
        patience = Patience()
        while True:
            await self._news.wait()
            try:
                await self._send()
                patience.reset()
            except Exception as error:  # noqa: BLE001 - redis-py has more than its own on a cut connection
                self.on_trouble()
                if patience.failures == 0:
                    log.warning(
                        "worker.acknowledge_waits", error=str(error) or type(error).__name__
                    )
                await asyncio.sleep(patience.next())

    async def _send(self) -> None:
        batch = self._waiting[:MOST_AT_ONCE]  # stays there until Redis has answered
        answers = iter(await self.broker.finish([each for some, _ in batch for each in some]))
        del self._waiting[: len(batch)]
        for endings, told in batch:
            ended = [next(answers) for _ in endings]
            if not told.done():
                told.set_result(ended)
        if not self._waiting:
            self._news.clear()

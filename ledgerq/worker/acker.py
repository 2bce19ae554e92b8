"""Sends acks together, and again until Redis has answered.

A job whose ack never arrives is delivered again: a job of ledgerq's kinds then has a receipt, an arq function runs twice.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from ledgerq.broker.claims import Ack
from ledgerq.broker.many_queues import ServedQueues
from ledgerq.runtime.background_tasks import keep_going

log = structlog.stdlib.get_logger("ledgerq.worker")

_MAX_AT_ONCE = 50  # calls of `acknowledge` whose acks one command sends
_APART = 0.004  # seconds between two round trips: jobs that end meanwhile share the next one


@dataclass(slots=True)
class Acker:
    """Collects the acks of jobs that run at the same time, and sends the waiting ones in one command.

    `on_failure` is called each time that sending fails. Redis may do what was asked all the same, and late, so that this worker
    claims a job again that it still has: the claims that no task knows are then looked for.
    """

    broker: ServedQueues
    on_failure: Callable[[], None]
    _waiting: list[tuple[Sequence[Ack], "asyncio.Future[list[bool]]"]] = field(default_factory=list)
    _queued: asyncio.Event = field(default_factory=asyncio.Event)
    _sent: float = 0.0  # when the last acks were sent
    _unanswered: int = 0  # so many of the first waiting calls were sent, and no answer came

    async def acknowledge(self, acks: Sequence[Ack], *, at_once: bool = False) -> list[bool]:
        """Send acks, and wait until Redis has answered; for each ack, True if its claim ended, False if it was lost before.

        It is True as well if the acks had to be sent again: nobody knows then which time ended the claim.

        `at_once`: send now, without waiting a moment for acks of other jobs that could share the round trip.
        """
        if at_once:
            self._sent = 0.0
        told: asyncio.Future[list[bool]] = asyncio.get_running_loop().create_future()
        self._waiting.append((acks, told))
        self._queued.set()
        return await told

    async def run(self) -> None:
        """Send acks as they come, until cancelled."""
        # redis-py raises more than its own errors on a connection that was cut
        await keep_going(self.run_once, Exception, failed=partial(log.warning, "ack.delayed"))

    async def run_once(self) -> float:
        """Wait for acks, and send the waiting ones; answers with 0, the seconds until the next round."""
        await self._queued.wait()
        if (rest := self._sent + _APART - time.monotonic()) > 0:
            await asyncio.sleep(rest)
        self._sent = time.monotonic()
        try:
            await self._send()
        except Exception:
            self.on_failure()
            raise
        return 0

    async def _send(self) -> None:
        calls = self._waiting[:_MAX_AT_ONCE]  # stays there until Redis has answered
        unanswered, self._unanswered = self._unanswered, len(calls)
        answers = iter(await self.broker.acknowledge([each for some, _ in calls for each in some]))
        del self._waiting[: len(calls)]
        self._unanswered = 0
        for number, (acks, told) in enumerate(calls):
            ended = [next(answers) or number < unanswered for _ in acks]
            if not told.done():
                told.set_result(ended)
        if not self._waiting:
            self._queued.clear()

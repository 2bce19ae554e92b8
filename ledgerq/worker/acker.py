"""Sends acks together, and again until Redis has answered.

A job whose ack never arrives is delivered again: a job of ledgerq's kinds then has a receipt, an arq function runs twice.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import structlog

from ledgerq.broker.claims import Ack
from ledgerq.broker.many_queues import ServedQueues, SomeQueuesFailed
from ledgerq.runtime.background_tasks import keep_going
from ledgerq.text import one_line

log = structlog.stdlib.get_logger("ledgerq.worker")

_MAX_AT_ONCE = 50  # calls of `acknowledge` whose acks one command sends
_APART = 0.004  # seconds between two round trips: jobs that end meanwhile share the next one
_AGAIN = 1.0  # seconds until acks are sent again that one of several queues did not take


@dataclass(slots=True, eq=False)
class _Call:
    """A call of `acknowledge`: its acks, the answers that came (None: none yet), and the future that gets all of them."""

    acks: Sequence[Ack]
    told: "asyncio.Future[list[bool]]"
    answers: list[bool | None]
    times_sent: int = 0

    @property
    def unanswered(self) -> list[Ack]:
        """The acks to send."""
        known = zip(self.acks, self.answers, strict=True)
        return [ack for ack, answer in known if answer is None]

    def take(self, answers: Sequence[int | None]) -> None:
        """Take Redis' answers to the unanswered acks. After the last one, the caller is told."""
        # if an ack was sent before, that may have ended the claim
        rest = iter(None if each is None else bool(each) or self.times_sent > 1 for each in answers)
        self.answers = [next(rest) if each is None else each for each in self.answers]
        ended = [each for each in self.answers if each is not None]
        if len(ended) == len(self.acks) and not self.told.done():
            self.told.set_result(ended)


@dataclass(slots=True)
class Acker:
    """Collects the acks of jobs that run at the same time, and sends the waiting ones in one command.

    `on_failure` is called each time that sending fails. Redis may do what was asked all the same, and late, so that this worker
    claims a job again that it still has: the claims that no task knows are then looked for.
    """

    broker: ServedQueues
    on_failure: Callable[[], None]
    _waiting: list[_Call] = field(default_factory=list)
    _queued: asyncio.Event = field(default_factory=asyncio.Event)
    _sent: float = 0.0  # when the last acks were sent

    async def acknowledge(self, acks: Sequence[Ack], *, at_once: bool = False) -> list[bool]:
        """Send acks, and wait until Redis has answered; for each ack, True if its claim ended, False if it was lost before.

        It is True as well if the acks had to be sent again: nobody knows then which time ended the claim.

        `at_once`: send now, without waiting a moment for acks of other jobs that could share the round trip.
        """
        if at_once:
            self._sent = 0.0
        call = _Call(acks, asyncio.get_running_loop().create_future(), [None] * len(acks))
        self._wait([call])
        return await call.told

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
        parts = [call.unanswered for call in calls]
        acks = [each for part in parts for each in part]
        for call in calls:
            call.times_sent += 1
        failure, answers = None, list[int | None]()
        try:
            answers += await self.broker.acknowledge(acks)
        except SomeQueuesFailed as failed:
            failure, answers = failed, [failed.answers.get(each.job_id) for each in acks]
        del self._waiting[: len(calls)]
        by_ack = iter(answers)
        for call, part in zip(calls, parts, strict=True):
            call.take(list(islice(by_ack, len(part))))
        if not self._waiting:
            self._queued.clear()
        if failure:
            self._send_later([call for call in calls if call.unanswered], failure)

    def _send_later(self, calls: Sequence[_Call], failure: SomeQueuesFailed) -> None:
        """Put these calls off for a moment. The acks of other queues need not wait for theirs."""
        self.on_failure()
        if any(call.times_sent == 1 for call in calls):
            log.warning("ack.delayed", error=one_line(failure))
        asyncio.get_running_loop().call_later(_AGAIN, self._wait, calls)

    def _wait(self, calls: Sequence[_Call]) -> None:
        self._waiting += calls
        self._queued.set()

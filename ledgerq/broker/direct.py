"""Puts staged jobs on their queues right after their commit, so that they need not wait for a relay's look.

This is best effort. What does not reach Redis is in the outbox, and due for a relay ten seconds after it was staged.
"""

import asyncio

import structlog
from arq.connections import ArqRedis

from ledgerq.broker.queue import Entry, enqueue
from ledgerq.text import one_line

log = structlog.stdlib.get_logger("ledgerq.client")

_AT_ONCE = 500  # jobs in one round trip
_LONGEST = 5.0  # seconds for which anybody waits for Redis


class DirectSender:
    """Sends the staged jobs of one process, those of many commits together: the part of `JobClient` that `stage` uses."""

    def __init__(self, redis: ArqRedis) -> None:
        self._redis = redis
        self._waiting: dict[str, list[Entry]] = {}  # by the queue's key
        self._sending: asyncio.Task[None] | None = None

    def send_soon(self, queue: str, job_id: str, body: bytes) -> None:
        """Put a staged job on its queue, best effort; `ledgerq.stage` calls this after the commit, in the event loop's thread."""
        self._waiting.setdefault(queue, []).append(Entry(job_id, body))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.get_running_loop().create_task(self._send_all())

    async def sent(self) -> None:
        """Wait until the jobs that were staged with this client are on their queues; 5 s at most: a relay brings the rest."""
        if self._sending:
            await asyncio.wait([self._sending], timeout=_LONGEST)

    def leave_the_rest(self) -> None:
        """Leave to the relays what is not sent yet, because the process ends."""
        if self._sending and not self._sending.done():
            self._sending.cancel()
            log.warning("client.left_to_relay", error="the client was closed")

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                queue = next(iter(self._waiting))  # the one that waits longest
                entries = self._waiting.pop(queue)
                for start in range(0, len(entries), _AT_ONCE):
                    await enqueue(self._redis, queue, entries[start : start + _AT_ONCE], again=True)
        except Exception as error:  # noqa: BLE001 - redis-py raises more than its own errors
            self._waiting.clear()
            log.warning("client.left_to_relay", error=one_line(error))

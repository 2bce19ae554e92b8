"""Puts staged jobs on their queues right after their commit, so that they need not wait for a relay's look.

This is best effort. What does not reach Redis is in the outbox, and a relay puts it on its queue ten seconds later.
"""

import asyncio
from datetime import timedelta

import structlog
from arq.connections import ArqRedis

from ledgerq.broker.queue import Entry, enqueue
from ledgerq.text import one_line

log = structlog.stdlib.get_logger("ledgerq.client")

_AT_ONCE = 500  # jobs in one round trip
_LONGEST = 5.0  # seconds that an ending process waits for Redis


class DirectSender:
    """Sends the staged jobs of one process, those of many commits together."""

    def __init__(self, redis: ArqRedis) -> None:
        self._redis = redis
        self._waiting: dict[str, list[Entry]] = {}  # by the queue's key
        self._sending: asyncio.Task[None] | None = None

    def send_soon(self, queue: str, job_id: str, body: bytes, delay: timedelta) -> None:
        """Send this job when the event loop comes to it. Call it in the event loop's thread."""
        entry = Entry(job_id, body, int(delay.total_seconds() * 1000))
        self._waiting.setdefault(queue, []).append(entry)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.get_running_loop().create_task(self._send_all())

    async def sent(self) -> None:
        """Wait until the jobs are on their queues, or are left to the relays."""
        if self._sending:
            await asyncio.wait([self._sending], timeout=_LONGEST)
            self._sending.cancel()

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                queue, entries = self._waiting.popitem()
                for start in range(0, len(entries), _AT_ONCE):
                    await enqueue(self._redis, queue, entries[start : start + _AT_ONCE], again=True)
        except Exception as error:  # noqa: BLE001 - redis-py raises more than its own errors
            self._waiting.clear()
            log.warning("client.left_to_relay", error=one_line(error))

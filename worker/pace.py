"""When to look at the queue again: at once if something changed, at the latest after a while."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

LONGEST = 0.95  # seconds between two looks when Redis tells of changes; arq's cron wants no fewer
_APART = 0.005  # seconds between two looks of a busy worker: its own writes are changes too


class Pace:
    """Waits for whatever makes another look worth while. `poll` is for when Redis tells nothing."""

    def __init__(self, poll: float) -> None:
        self.poll = poll
        self.told: Callable[[], bool] = lambda: False  # whether Redis tells of changes now
        self.stopping = False
        self._changed = self._freed = False
        self._news = asyncio.Event()
        self._looked = 0.0

    def look(self) -> None:
        """A look begins: what happens from now on is news."""
        self._changed = self._freed = False
        self._looked = time.monotonic()

    def change(self) -> None:
        """The queue has changed."""
        self._changed = True
        self._news.set()

    def free(self) -> None:
        """A job has ended."""
        self._freed = True
        self._news.set()

    def stop(self) -> None:
        """There is nothing to wait for any more."""
        self.stopping = True
        self._news.set()

    async def until_change(self, due_in: float | None, *, busy: bool, burst: bool) -> None:
        """Wait until the queue changes, or its next job is due; in burst mode, until a job ends too."""
        longest = max(LONGEST, self.poll) if self.told() else self.poll
        longest = longest if due_in is None else min(longest, due_in + 0.001)
        await self._wait(longest, lambda: self._changed or (burst and self._freed))
        if busy:
            await self.sleep(self._looked + _APART - time.monotonic())

    async def until_free(self) -> None:
        """Wait until a job ends; not for ever, somebody may want one aborted."""
        await self._wait(max(self.poll, 0.05), lambda: self._freed)

    async def sleep(self, seconds: float) -> None:
        """Wait, unless it is time to stop."""
        await self._wait(seconds, lambda: False)

    async def _wait(self, seconds: float, enough: Callable[[], bool]) -> None:
        if seconds <= 0:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not (self.stopping or enough()):
                    self._news.clear()
                    await self._news.wait()

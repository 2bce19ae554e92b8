"""Decides when the worker polls next: at once if the queue has changed, at the latest after a time limit."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

MAX_WAIT = 0.95  # seconds between two polls while Redis notifies of changes; arq's cron needs a poll a second
_APART_AT_WORK = 0.025  # seconds between two polls while jobs run and none ends, for larger batches
_MAX_WAIT_AT_WORK = 0.25  # … while there is no room: a poll also finds jobs to abort
_TOGETHER = 0.005  # seconds in which slots that get free are filled by one poll …
_ENOUGH = 0.3  # … or until so many of them are free
_APART = 0.005  # … of a worker that finds nothing to claim after change upon change …
_MAX_APART = 0.1  # … doubled up to this: many workers must not all poll at each change
_OWN_CHANGES = 2  # that a claimed job makes by itself: its claim, and its ack


class Poller:
    """Waits until the next poll is useful. `poll`: seconds between two polls if Redis can't notify this worker of changes."""

    def __init__(self, poll: float) -> None:
        self.poll = poll
        self._is_listening = False  # Redis notifies of changes
        self.stopping = False
        self.waiting = asyncio.Event()  # set while a change is waited for
        self._changed = False
        self._freed = 0  # jobs that have ended since the last poll
        self._woken = asyncio.Event()
        self._looked = 0.0
        self._empty_polls = 0  # polls in a row after a change of others that found nothing to claim

    def start(self) -> None:
        """A poll begins: forget the news of queued jobs and free slots that came before it, since it looks at both."""
        self._changed, self._freed = False, 0
        self._looked = time.monotonic()

    def record_result(self, jobs: int) -> None:
        """Note how many jobs the poll has claimed."""
        if jobs:
            self._empty_polls = -_OWN_CHANGES

    def listening(self, is_listening: bool) -> None:
        """Note whether Redis notifies of changes from now on."""
        self._is_listening = is_listening

    def queue_changed(self) -> None:
        """Note that the queue has changed, and end the wait for a change."""
        self._changed = True
        self._woken.set()

    def job_ended(self) -> None:
        """To be called when a job has ended: ends the poller's wait for a free slot."""
        self._freed += 1
        self._woken.set()

    def stop(self) -> None:
        """End each wait, now and later, because the worker stops."""
        self.stopping = True
        self._woken.set()

    async def until_change(self, due_in: float | None, *, busy: bool, or_free: bool) -> None:
        """Wait until the queue changes or its next job is due; with `or_free`, also until a job ends.

        Args:
            due_in: seconds until the next job is due; None if there is none.
            busy: jobs are running.
            or_free: there is something to do when a job has ended: claim one for which there was no room, or stop.
        """
        longest = max(MAX_WAIT, self.poll) if self._is_listening else self.poll
        longest = longest if due_in is None else min(longest, due_in + 0.001)
        if busy:  # changes are ignored for a moment: most are this worker's own
            rest = min(longest, self._looked + _APART_AT_WORK - time.monotonic())
            await self._wait(rest, lambda: bool(self._freed))
        self.waiting.set()
        await self._wait(longest, lambda: self._changed or bool(or_free and self._freed))
        self.waiting.clear()
        self._empty_polls = self._empty_polls + 1 if self._changed else 0
        if self._empty_polls > 1:
            apart = min(_MAX_APART, _APART * 2 ** max(0, min(self._empty_polls, 10) - 2))
            rest = self._looked + apart - time.monotonic()
            await self._wait(rest, lambda: or_free and bool(self._freed))

    async def until_free(self, running: int) -> None:
        """Wait for a job to end, at most `poll` or 0.25 s, the longer one; then a moment more for a part of the `running` jobs."""
        await self._wait(max(self.poll, _MAX_WAIT_AT_WORK), lambda: bool(self._freed))
        await self._wait(_TOGETHER, lambda: self._freed >= running * _ENOUGH)

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`, or until the worker stops."""
        await self._wait(seconds, lambda: False)

    async def _wait(self, seconds: float, enough: Callable[[], bool]) -> None:
        if seconds <= 0:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not (self.stopping or enough()):
                    self._woken.clear()
                    await self._woken.wait()

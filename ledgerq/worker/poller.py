"""When to look at the queue again: at once if something changed, at the latest after a while."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

MAX_WAIT = 0.95  # seconds between two looks when Redis tells of changes; arq's cron wants no fewer
_APART_AT_WORK = 0.025  # seconds between two looks while jobs run and none ends: what comes meanwhile is one batch
_MAX_WAIT_AT_WORK = 0.25  # … when there is no room: somebody may want one aborted
_APART = 0.005  # … of a worker that is too late again and again …
_MAX_APART = 0.1  # … doubled up to here: a fleet must not look at every change of its own


class Poller:
    """Waits for whatever makes another look worth while. `poll` is for when Redis tells nothing."""

    def __init__(self, poll: float) -> None:
        self.poll = poll
        self._is_listening = False  # Redis tells of changes
        self.stopping = False
        self.waiting = asyncio.Event()  # set while a change is waited for
        self._changed = self._freed = False
        self._woken = asyncio.Event()
        self._looked = 0.0
        self._empty_polls = 0  # changes in a row after which there was nothing left to claim

    def start(self) -> None:
        """A look begins: what happens from now on is news."""
        self._changed = self._freed = False
        self._looked = time.monotonic()

    def record_result(self, jobs: int) -> None:
        """What the look brought."""
        if jobs:
            self._empty_polls = 0

    def listening(self, is_listening: bool) -> None:
        """Whether Redis tells of changes from now on."""
        self._is_listening = is_listening

    def queue_changed(self) -> None:
        """The queue has changed."""
        self._changed = True
        self._woken.set()

    def job_ended(self) -> None:
        """A job has ended."""
        self._freed = True
        self._woken.set()

    def stop(self) -> None:
        """There is nothing to wait for any more."""
        self.stopping = True
        self._woken.set()

    async def until_change(self, due_in: float | None, *, busy: bool, burst: bool) -> None:
        """Wait until the queue changes, or its next job is due; in burst mode, until a job ends too."""
        longest = max(MAX_WAIT, self.poll) if self._is_listening else self.poll
        longest = longest if due_in is None else min(longest, due_in + 0.001)
        if busy:  # news are not even read: most are of what this worker did itself
            rest = min(longest, self._looked + _APART_AT_WORK - time.monotonic())
            await self._wait(rest, lambda: self._freed)
        self.waiting.set()
        await self._wait(longest, lambda: self._changed or (burst and self._freed))
        self.waiting.clear()
        self._empty_polls = self._empty_polls + 1 if self._changed else 0
        if self._empty_polls > 1:
            apart = min(_MAX_APART, _APART * 2 ** max(0, min(self._empty_polls, 10) - 2))
            await self.sleep(self._looked + apart - time.monotonic())

    async def until_free(self) -> None:
        """Wait until a job ends; not for ever, somebody may want one aborted."""
        await self._wait(max(self.poll, _MAX_WAIT_AT_WORK), lambda: self._freed)

    async def sleep(self, seconds: float) -> None:
        """Wait, unless it is time to stop."""
        await self._wait(seconds, lambda: False)

    async def _wait(self, seconds: float, enough: Callable[[], bool]) -> None:
        if seconds <= 0:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not (self.stopping or enough()):
                    self._woken.clear()
                    await self._woken.wait()


_FIRST = 200  # jobs: a worker that knows nothing yet leaves the rest to others
_MIN_JOBS = 2  # a single job is no batch, and teaches nothing
_SHORT = 2.0  # seconds: a full batch that took less may be twice as large
_LONG = 4.0  # … and one that took more is halved: others wait 5 s for a lock
_MAX_AT_ONCE = 4  # some wait for the database or Redis while the next is made
_SLOW = 0.25  # seconds after which fewer are run at once: others may be faster at what waits


@dataclass(slots=True)
class BatchSize:
    """Large batches cost least for each job; slow ones keep jobs from other workers, and rows locked.

    `most` is the largest that is allowed. `running` batches are taken into account, with their `jobs`.
    """

    most: int
    running: int = 0
    jobs: int = 0
    _size: int = _FIRST
    _at_once: int = 1

    @property
    def next_size(self) -> int:
        """How many jobs the next batch may have; 0 if enough are running."""
        return min(self._size, self.most) if self.running < self._at_once else 0

    def began(self, jobs: int) -> None:
        """A batch of so many begins."""
        self.running += 1
        self.jobs += jobs

    def ended(self, jobs: int) -> None:
        """It has ended, however it did."""
        self.running -= 1
        self.jobs -= jobs

    def learn(self, jobs: int, seconds: float) -> None:
        """So many jobs took so long together."""
        step = -1 if seconds > _SLOW else 1
        self._at_once = min(max(1, self._at_once + step), _MAX_AT_ONCE)
        if seconds > _LONG:
            self._size = max(_MIN_JOBS, jobs // 2)
        elif seconds < _SHORT and jobs >= self._size:
            self._size = min(self.most, 2 * self._size)

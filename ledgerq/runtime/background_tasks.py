"""What runs beside the jobs for as long as the worker does, and must not end before it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from math import inf
from typing import Any

import structlog

from ledgerq.backoff import Backoff
from ledgerq.text import one_line

log = structlog.stdlib.get_logger("ledgerq.worker")


class BackgroundTasks:
    """Tasks that are ended together."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it until `end`."""
        self._tasks.append(asyncio.create_task(work))

    async def end(self, seconds: float = 5, *, again_after: float = 0.5) -> None:
        """Cancel all, and wait for them, but not for ever; those that go on are cancelled once more."""
        deadline = asyncio.get_running_loop().time() + seconds
        while left := [task for task in self._tasks if not task.done()]:
            for task in left:
                task.cancel()  # again: on Python 3.11 wait_for, inside redis-py, can swallow one
            await asyncio.wait(left, timeout=again_after)
            if asyncio.get_running_loop().time() > deadline:
                log.error("shutdown.tasks_abandoned", tasks=len(left))
                return


async def keep_going(
    run_once: Callable[[], Awaitable[float]],
    *expected: type[Exception],
    failed: Callable[..., Any],
    recovered: Callable[..., Any] | None = None,
    wake: asyncio.Event | None = None,
    longest: float = inf,
) -> None:
    """Do a part of some work again and again, until cancelled, whatever it raises.

    Args:
        run_once: does a part; answers how many seconds later to do the next one, at the latest.
        *expected: what may fail without being a fault of ours, such as a server that does not answer.
        failed: is told the first such error of several in a row, as `error`.
        recovered: is told how many failed when one does not, as `failures`.
        wake: when set, the next part is done now.
        longest: seconds that pass at most after a failure, whatever the backoff.
    """
    backoff = Backoff()
    while True:
        if wake:
            wake.clear()
        try:
            pause = await run_once()
        except expected as error:
            if backoff.failures == 0:
                failed(error=one_line(error))
            await asyncio.sleep(min(backoff.next(), longest))
        except Exception:
            log.exception("background_task.failed")
            await asyncio.sleep(min(backoff.next(), longest))
        else:
            if backoff.failures and recovered:
                recovered(failures=backoff.failures)
            backoff.reset()
            await _rest(pause, wake)


async def _rest(seconds: float, wake: asyncio.Event | None) -> None:
    if wake is None or seconds <= 0:
        await asyncio.sleep(seconds)
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await wake.wait()

"""Background tasks: loops that run beside the jobs for as long as the worker does."""

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
    """Tasks that `end` cancels together."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` as a task, until `end` cancels it."""
        self._tasks.append(asyncio.create_task(work))

    async def end(self, seconds: float = 5, *, again_after: float = 0.5) -> None:
        """Cancel all tasks, and wait for them for about `seconds`.

        Tasks that still run are cancelled again every `again_after` seconds. Tasks that run at the end are logged.
        """
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
    """Call `run_once` again and again, until cancelled. After an error, wait for a backoff and go on.

    Args:
        run_once: one round of the work; answers with the seconds until the next round.
        *expected: errors that are no defect, for example of a server that does not answer; others are logged in full.
        failed: is called with the first of several expected errors in a row: `failed(error=text)`.
        recovered: is called when a round succeeds after failures: `recovered(failures=number)`.
        wake: when set, the pause after a successful round ends at once.
        longest: the longest pause after a failure, in seconds.
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

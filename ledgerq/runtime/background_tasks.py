"""What runs beside the jobs for as long as the worker does, and must not end before it."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

log = structlog.stdlib.get_logger("ledgerq.worker")


class BackgroundTasks:
    """Keeps coroutines running until they are ended together."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run this until `end`; whatever it raises is logged, and it is begun again."""
        self._tasks.append(asyncio.create_task(_keep_running(work)))

    async def end(self, seconds: float = 5) -> None:
        """Cancel all, and wait for them, but not for ever."""
        deadline = asyncio.get_running_loop().time() + seconds
        while left := [task for task in self._tasks if not task.done()]:
            for task in left:
                task.cancel()  # again: on Python 3.11 wait_for, inside redis-py, can swallow one
            await asyncio.wait(left, timeout=0.5)
            if asyncio.get_running_loop().time() > deadline:
                log.error("shutdown.tasks_abandoned", tasks=len(left))
                return


async def _keep_running(work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
        except Exception:
            log.exception("background_task.failed")
            await asyncio.sleep(1)

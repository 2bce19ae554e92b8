"""What a task knows of its own cancellation, and how work comes to its end in spite of one."""

import asyncio
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")

_STOPPED = WeakKeyDictionary[asyncio.Task[Any], bool]()  # the tasks of `stopped_by_stop`
_LIMIT = ContextVar[asyncio.Timeout | None]("time limit", default=None)


def cancellations() -> int:
    """How many requests to cancel this task are open, also those of which a commit has swallowed the `CancelledError`."""
    task = asyncio.current_task()
    return task.cancelling() if task else 0


def told_to_stop(error: BaseException) -> bool:
    """True if this task was cancelled or closed from outside; False for a cancellation by the handler's own code."""
    if isinstance(error, GeneratorExit):
        return True
    return isinstance(error, asyncio.CancelledError) and bool(cancellations())


def stopped_by_stop(task: asyncio.Task[Any]) -> None:
    """Note that only `stop` stops this task: any other cancellation of it comes from the job's own code."""
    _STOPPED[task] = False


def stop(task: asyncio.Task[Any]) -> None:
    """Cancel a task that was given to `stopped_by_stop`. From then on the task knows that it was stopped, whatever it raises."""
    _STOPPED[task] = True
    task.cancel()


def is_stopped(task: asyncio.Task[Any] | None = None) -> bool:
    """True if `stop` was called for the task (this one), even if the job's code caught the `CancelledError`, or made an error of it.

    `cancellations` does not tell: on Python 3.11 and 3.12, a task group whose child fails leaves a request open.
    """
    task = task or asyncio.current_task()
    return task is not None and _STOPPED.get(task, False)


def time_limit(seconds: float | None) -> asyncio.Timeout:
    """A timeout for a job that this task runs; a job's code may have further ones of its own."""
    limit = asyncio.timeout(seconds)
    _LIMIT.set(limit)
    return limit


class Stopping:
    """Tells whether the task that makes this object must end: by `stop`, or because its `time_limit` is over.

    Of a task that was not given to `stopped_by_stop`, for example one of arq's own worker, nobody knows who has cancelled it.
    """

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task, self._limit = task, _LIMIT.get()

    def must_end(self, own: int) -> bool:
        """True if the task must end. `own` is the number of open requests to cancel it that are known to be the job's."""
        if self._task not in _STOPPED:
            return self._task.cancelling() > own
        return is_stopped(self._task) or (self._limit is not None and self._limit.expired())


async def to_its_end(work: Awaitable[T]) -> tuple[T, bool]:
    """Await `work` to its end, however often this task is cancelled meanwhile.

    Returns a pair: its answer, and True if this task was cancelled, which the caller must then see to. Raises what `work`
    raises; that the task was cancelled is then told by `cancellations` only.
    """
    task, cancelled = asyncio.ensure_future(work), False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True  # the waiting, not the work: no other code holds the task
    return task.result(), cancelled

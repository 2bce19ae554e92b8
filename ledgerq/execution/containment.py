"""Runs a handler, from one await to the next, in a context of its own, so that its mistakes do not reach the worker.

Values that the handler sets in context variables are dropped with its context. Whatever the handler raises, SystemExit
too, is an error of its job. If the handler cancels its own task, only the job fails. A handler that does not end
within 3 s of a stop, or of the end of its job's time limit, is abandoned; time limits and task groups of its own may take
longer. If the handler forks and the child returns here, the child ends.
"""

import asyncio
import contextvars
import os
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

import structlog

from ledgerq.database.session import JobSession
from ledgerq.runtime.cancellation import Stopping
from ledgerq.runtime.forks import leave_child
from ledgerq.runtime.lag import JOB, lag_of_running_loop

T = TypeVar("T")
Work: TypeAlias = Callable[[JobSession], Awaitable[Any]]

PATIENCE = 3.0  # seconds in which a handler must end that was told to; after that it is abandoned

log = structlog.stdlib.get_logger("ledgerq.jobs")


class HandlerMisbehaved(Exception):
    """A handler raised `error`, which is no `Exception`: for example SystemExit, or a cancellation of its own."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        super().__init__(f"the handler raised {type(error).__name__}")


async def run_apart(work: Callable[[], Awaitable[T]], bound: Mapping[str, Any]) -> T:
    """Run `work` in a copy of the caller's `contextvars` context, with `bound` in its log lines; answers with its result.

    Raises:
        HandlerMisbehaved: `work` raised an error that is no `Exception`; an `Exception` goes on as it is.
        CancelledError: this task was cancelled from outside, and `work` with it.
    """
    context = contextvars.copy_context()
    context.run(structlog.contextvars.bind_contextvars, **bound)
    context.run(JOB.set, bound)  # marks the tasks that the handler makes
    answer: T = await _Contained(_awaited(work), context, bound).take()
    return answer


async def _awaited(work: Callable[[], Awaitable[T]]) -> T:
    return await work()


class _Contained:
    """Runs a coroutine from one await to the next; a step here is such a part of it."""

    def __init__(
        self,
        work: Coroutine[Any, Any, Any],
        context: contextvars.Context,
        bound: Mapping[str, Any],
    ) -> None:
        task = asyncio.current_task()
        assert task  # noqa: S101 - a coroutine runs in one
        self._work, self._context, self._bound, self._task = work, context, bound, task
        self._stopping = Stopping(task)
        self._lag, self._pid = lag_of_running_loop(), os.getpid()
        self._waiting: asyncio.TimerHandle | None = None  # set while a told handler ends
        self._left_behind = False
        self._own_cancellations = 0

    @types.coroutine
    def take(self) -> Generator[Any, Any, Any]:
        """Run the coroutine to its end; answers with its result."""
        step: Callable[[Any], Any] = self._work.send
        value: Any = None
        try:
            while True:
                try:
                    future = self._one(step, value)
                except StopIteration as stop:
                    return stop.value
                try:
                    try:
                        step, value = self._work.send, (yield future)
                    finally:
                        self._forget_own_cancellations()
                except BaseException as error:  # noqa: BLE001 - it is handed on
                    step, value = self._work.throw, self._handed_on(error)
        finally:
            if self._waiting:
                self._waiting.cancel()

    def _one(self, step: Callable[[Any], Any], value: Any) -> Any:
        """Run one step; answers with the future that the coroutine then awaits."""
        cancelling = self._task.cancelling()
        if self._lag:
            self._lag.at_work = self._bound
        try:
            future = self._context.run(step, value)
        except BaseException as error:
            self._own_cancellations = max(0, self._task.cancelling() - cancelling)
            self._forget_own_cancellations()
            if isinstance(error, StopIteration):
                raise
            self._leave_child(error)
            stopped = isinstance(error, asyncio.CancelledError) and self._task.cancelling()
            if stopped or issubclass(type(error), Exception):
                raise
            raise HandlerMisbehaved(error) from error
        else:
            # only the handler can have made them; since Python 3.13, one that is forgotten before it is raised is not raised
            self._own_cancellations = max(0, self._task.cancelling() - cancelling)
            return future
        finally:
            self._leave_child(None)
            if self._lag:
                self._lag.at_work = None
            if self._waiting and not self._is_told:
                self._waiting.cancel()  # the cancellation was the handler's own
                self._waiting = None

    def _handed_on(self, error: BaseException) -> BaseException:
        """The error to raise at the coroutine's await: a cancellation, or the failure of the awaited future.

        Closes the coroutine, and raises, if the task is closed or the handler is abandoned.
        """
        if self._left_behind:
            self._task.uncancel()  # `_lose_patience` cancelled it
            log.error(
                "job.abandoned", **self._bound, problem="its handler did not stop when told to"
            )
        if self._left_behind or isinstance(error, GeneratorExit):
            with suppress(BaseException):  # its errors no longer count
                self._context.run(self._work.close)
            raise asyncio.CancelledError if self._left_behind else error
        told = isinstance(error, asyncio.CancelledError) and self._is_told
        if told and self._waiting is None:
            loop = asyncio.get_running_loop()
            self._waiting = loop.call_later(PATIENCE, self._lose_patience)
        return error

    def _lose_patience(self) -> None:
        if self._is_told:
            self._left_behind = True
            self._task.cancel()

    @property
    def _is_told(self) -> bool:
        """True if the handler was told to end, by the worker or by the time limit of its job."""
        return self._stopping.must_end(self._own_cancellations)

    def _forget_own_cancellations(self) -> None:
        """Undo the cancellations that the handler's last step added to its task."""
        while self._own_cancellations > 0:
            self._own_cancellations -= 1
            self._task.uncancel()

    def _leave_child(self, error: BaseException | None) -> None:
        if os.getpid() != self._pid:
            leave_child(error)

"""Runs a handler step by step in a context of its own, so that nothing it does is taken for the worker's.

What it leaves in context variables ends with it. What it raises is an error of its job, whatever its class. If it
cancels itself, that is its own affair. If it does not stop when it is told to, it is left where it is. If it forks and
the child comes back here, the child ends.
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
from ledgerq.runtime.forks import leave_child
from ledgerq.runtime.lag import lag_of_running_loop

T = TypeVar("T")
Work: TypeAlias = Callable[[JobSession], Awaitable[Any]]

JOB: contextvars.ContextVar[Mapping[str, Any] | None] = contextvars.ContextVar("job", default=None)
PATIENCE = 3.0  # seconds for a handler to end that was told to stop; then it is left where it is

log = structlog.stdlib.get_logger("ledgerq.jobs")


class HandlerMisbehaved(Exception):
    """A handler raised what is no `Exception`: an exit, a cancellation of its own. `error` is that."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        super().__init__(f"the handler raised {type(error).__name__}")


async def run_apart(work: Callable[[], Awaitable[T]], bound: Mapping[str, Any]) -> T:
    """What the work answers, done in a copy of this context, with `bound` in its log lines.

    Raises:
        HandlerMisbehaved: it raised what is no Exception.
        CancelledError: this task was told to stop.
    """
    context = contextvars.copy_context()
    context.run(structlog.contextvars.bind_contextvars, **bound)
    context.run(JOB.set, bound)  # by which a task of the handler's is known as its own
    answer: T = await _Steps(_awaited(work), context, bound).take()
    return answer


async def _awaited(work: Callable[[], Awaitable[T]]) -> T:
    return await work()


class _Steps:
    """Takes a coroutine through its steps, from one await to the next."""

    def __init__(
        self,
        work: Coroutine[Any, Any, Any],
        context: contextvars.Context,
        bound: Mapping[str, Any],
    ) -> None:
        task = asyncio.current_task()
        assert task  # noqa: S101 - a coroutine runs in one
        self._work, self._context, self._bound, self._task = work, context, bound, task
        self._lag, self._pid = lag_of_running_loop(), os.getpid()
        self._waiting: asyncio.TimerHandle | None = None  # for it to stop
        self._left_behind = False

    @types.coroutine
    def take(self) -> Generator[Any, Any, Any]:
        """The coroutine's answer."""
        step: Callable[[Any], Any] = self._work.send
        value: Any = None
        try:
            while True:
                try:
                    future = self._one(step, value)
                except StopIteration as stop:
                    return stop.value
                try:
                    step, value = self._work.send, (yield future)
                except BaseException as error:  # noqa: BLE001 - it is handed on
                    step, value = self._work.throw, self._handed_on(error)
        finally:
            if self._waiting:
                self._waiting.cancel()

    def _one(self, step: Callable[[Any], Any], value: Any) -> Any:
        """One step; what it waits for then."""
        cancelling = self._task.cancelling()
        if self._lag:
            self._lag.at_work = self._bound
        try:
            return self._context.run(step, value)
        except StopIteration:
            raise
        except BaseException as error:
            self._leave_child(error)
            self._forget_own_cancellations(cancelling)
            stopped = isinstance(error, asyncio.CancelledError) and self._task.cancelling()
            if stopped or issubclass(type(error), Exception):
                raise
            raise HandlerMisbehaved(error) from error
        finally:
            self._leave_child(None)
            self._forget_own_cancellations(cancelling)
            if self._lag:
                self._lag.at_work = None
            if self._waiting and not self._task.cancelling():
                self._waiting.cancel()  # it was a limit of the handler's own
                self._waiting = None

    def _handed_on(self, error: BaseException) -> BaseException:
        """What is raised at the await: the task is cancelled, or closed, or what was awaited has failed."""
        if self._left_behind:
            self._task.uncancel()  # that was our own
            log.error(
                "job.abandoned", **self._bound, problem="its handler did not stop when told to"
            )
        if self._left_behind or isinstance(error, GeneratorExit):
            with suppress(BaseException):  # it may do in vain what it likes
                self._context.run(self._work.close)
            raise asyncio.CancelledError if self._left_behind else error
        if isinstance(error, asyncio.CancelledError) and self._waiting is None:
            loop = asyncio.get_running_loop()
            self._waiting = loop.call_later(PATIENCE, self._lose_patience)
        return error

    def _lose_patience(self) -> None:
        if self._task.cancelling():
            self._left_behind = True
            self._task.cancel()

    def _forget_own_cancellations(self, cancelling: int) -> None:
        """Only the handler can have cancelled this task while it was at work in it."""
        while self._task.cancelling() > cancelling:
            self._task.uncancel()

    def _leave_child(self, error: BaseException | None) -> None:
        if os.getpid() != self._pid:
            leave_child(error)

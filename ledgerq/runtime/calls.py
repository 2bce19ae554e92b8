"""Calls a function, awaited or in a thread, within a time.

A thread can't be stopped: a call that is over before its thread is left to its end. It then takes no place of the others.
"""

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import structlog

from ledgerq.runtime.cancellation import to_its_end

T = TypeVar("T")

_AT_WORK = set[asyncio.Task[Any]]()  # the event loop keeps no task alive
MAX_THREADS = 32  # with a call that somebody waits for, in one event loop
MAX_LEFT = 96  # threads that were left to their end, and have not come to it
PATIENCE = 3.0  # seconds for cancelled calls to end


_LEFT = set[Future[Any]]()
_PLACES = WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]()

log = structlog.stdlib.get_logger("ledgerq.jobs")


class Calls:
    """Makes calls for one owner, for example for one run of a job. `close` cancels the calls that still run.

    Args:
        failed: is called with each exception that a call raises, before the caller gets the exception.
    """

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed
        self._tasks = set[asyncio.Task[Any]]()

    async def make(
        self, seconds: float | None, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        """Call the function by `call_within`, for at most `seconds` (None: no limit), and return its answer."""
        task = asyncio.current_task()
        assert task  # noqa: S101 - a coroutine runs in one
        is_first = task not in self._tasks
        self._tasks.add(task)
        try:
            return await call_within(seconds, function, *args, **kwargs)
        except Exception as error:
            self._failed(error)
            raise
        finally:
            if is_first:
                self._tasks.discard(task)

    async def close(self) -> None:
        """Cancel the tasks that are still in a call, except the task that calls `close`; wait for them `PATIENCE` seconds."""
        left = {each for each in self._tasks if each is not asyncio.current_task()}
        for each in left:
            each.cancel()
        if left:
            await asyncio.wait(left, timeout=PATIENCE)


async def call_within(
    seconds: float | None, function: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    """Call the function for at most `seconds` (None: no limit), and return its answer. A plain `def` runs in a thread.

    The time includes a wait for a free thread. A thread can't be stopped: after a timeout it runs on, unwatched.

    Raises:
        TimeoutError: the call took longer; the text names the function.
    """
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            if is_async(function):
                return await function(*args, **kwargs)
            work = functools.partial(
                contextvars.copy_context().run, _call, function, *args, **kwargs
            )
            answer = await _in_a_thread(work, _name(function))
            return await answer if inspect.isawaitable(answer) else answer
    except (
        SystemExit,
        KeyboardInterrupt,
    ) as error:  # in a task of its own it would end the event loop
        raise RuntimeError(f"the function raised {type(error).__name__}") from error
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise TimeoutError(f"{_name(function)} took longer than {seconds:g} s") from error


async def _in_a_thread(work: Callable[[], Any], name: str) -> Any:
    places = _PLACES.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(MAX_THREADS))
    async with places:
        if len(_LEFT) >= MAX_LEFT:
            raise RuntimeError(
                f"{name} was not called: {MAX_LEFT} threads of earlier calls have not ended; give what they call a time limit"
            )
        running = _threads().submit(work)
        try:
            return await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            if not running.done():
                _LEFT.add(running)
                running.add_done_callback(_LEFT.discard)
                log.warning("call.thread_left", function=name, threads=len(_LEFT))
            raise


def _name(function: Callable[..., Any]) -> str:
    """Without the arguments of a partial, which may be secret."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _call(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except StopIteration as error:  # no future can carry it
        raise RuntimeError("the function raised StopIteration") from error


def is_async(function: Callable[..., Any]) -> bool:
    """True for a coroutine function, an object whose `__call__` is one, or a partial of these: a call is then awaited."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - it is looked at, not asked for
    )


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MAX_THREADS + MAX_LEFT, thread_name_prefix="ledgerq-outside")


async def whatever_comes(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` to its end and return its answer; if this task was cancelled meanwhile, raise CancelledError after it."""
    task = asyncio.create_task(work)
    _AT_WORK.add(task)
    task.add_done_callback(_AT_WORK.discard)
    answer, cancelled = await to_its_end(task)
    if cancelled:
        raise asyncio.CancelledError
    return answer

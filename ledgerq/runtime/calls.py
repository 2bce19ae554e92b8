"""Calls a function, awaited or in a thread, within a time."""

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

MAX_THREADS = 32


async def call_within(
    seconds: float | None, function: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """What the function answers, in so many seconds at most. A plain function runs in a thread of a bounded pool.

    Raises:
        TimeoutError: it took longer; names the function. A thread is left to its end.
    """
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            if is_async(function):
                return await function(*args, **kwargs)
            work = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
            answer = await asyncio.get_running_loop().run_in_executor(_threads(), work)
            return await answer if inspect.isawaitable(answer) else answer
    except TimeoutError as error:
        if not limit.expired():
            raise
        name = getattr(function, "__qualname__", repr(function))
        raise TimeoutError(f"{name} took longer than {seconds:g} s") from error


def is_async(function: Callable[..., Any]) -> bool:
    """True if calling it gives something to await: a coroutine function, or an object whose `__call__` is one."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - it is looked at, not asked for
    )


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="ledgerq-outside")

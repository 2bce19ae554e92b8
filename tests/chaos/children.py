"""Guests' children: forked, started, terminated, left to come back. None lives for longer than `LIFE` seconds."""

import asyncio
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

LIFE = 5.0
_PATIENCE = 20.0  # seconds for a child to end
_PAUSE = 0.02


Way: TypeAlias = Callable[[], Awaitable[None]]


class Hanging(Exception):
    """A child did not end, or not as it was to."""


async def _ended(pid: int, *statuses: int) -> None:
    """Wait for a forked child, which must end with one of these."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        gone, status = os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - it does not wait
        if gone:
            code = os.waitstatus_to_exitcode(status)
            if code not in statuses:
                raise Hanging(f"child {pid} ended with {code}, not one of {statuses}")
            return
        await asyncio.sleep(_PAUSE)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)  # noqa: ASYNC222 - it is dead
    raise Hanging(f"child {pid} did not end")


async def fork_exits() -> None:
    """As `sys.exit` does."""
    pid = os.fork()
    if pid == 0:
        sys.exit(7)
    await _ended(pid, 7)


async def fork_returns() -> None:
    """The child comes back into its handler, which then wants the database, and so into the worker's code."""
    pid = os.fork()
    if pid:
        await _ended(pid, 0, 1)


async def fork_awaits() -> None:
    """The child waits in the worker's loop."""
    pid = os.fork()
    if pid == 0:
        await asyncio.sleep(LIFE)
    else:
        await _ended(pid, 0, 1)


async def fork_terminated() -> None:
    """A SIGTERM to the child is none to the worker."""
    pid = os.fork()
    if pid == 0:
        time.sleep(LIFE)  # noqa: ASYNC251 - in the child
        os._exit(0)
    os.kill(pid, signal.SIGTERM)
    await _ended(pid, -signal.SIGTERM)


def _by_multiprocessing(target: Callable[[], object], status: int, *, end: bool = False) -> Way:
    async def do() -> None:
        child = multiprocessing.get_context("fork").Process(target=target)
        child.start()
        if end:
            child.terminate()
        deadline = time.monotonic() + _PATIENCE
        while child.is_alive() and time.monotonic() < deadline:
            await asyncio.sleep(_PAUSE)
        if child.is_alive() or child.exitcode != status:
            raise Hanging(f"child {child.pid} ended with {child.exitcode}, not {status}")

    return do


async def started() -> None:
    """By exec: it shares nothing with the worker."""
    child = await asyncio.create_subprocess_exec("sleep", str(LIFE))
    child.terminate()
    await child.wait()


def _sleep() -> None:
    time.sleep(LIFE)


def _exit() -> None:
    sys.exit(3)


WAYS: dict[str, Way] = {
    "forks a child that exits": fork_exits,
    "forks a child that returns": fork_returns,
    "forks a child that awaits": fork_awaits,
    "forks a child and terminates it": fork_terminated,
    "a Process that is terminated": _by_multiprocessing(_sleep, -signal.SIGTERM, end=True),
    "a Process that exits": _by_multiprocessing(_exit, 3),
    "a Process that returns": _by_multiprocessing(int, 0),
    "a program that is terminated": started,
}

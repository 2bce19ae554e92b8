"""Limits the time of a command, even if a server accepts connections and does not answer."""

import asyncio
import os
import sys
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from ledgerq.cli.output import complain
from ledgerq.errors import LedgerqError

T = TypeVar("T")

LIMIT = 30.0  # seconds for a command that only reads, or changes little
HEALTH = 3.3  # seconds for `ledgerq health`
_TO_CLOSE = 1.0  # further seconds in which connections are closed


class TookTooLong(LedgerqError):
    """A command did not end within its limit."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"REDIS_URL, DATABASE_URL: no end within {seconds:g} s; a server accepts connections and does not answer"
        )


def run_within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a new event loop, for at most `seconds`, and return its answer.

    If the event loop does not close a second later, for example because code swallows the cancellation or a thread
    waits for a name server, the process exits with status 1.

    Raises:
        TookTooLong: the work has not ended within `seconds`.
    """
    last_resort = threading.Timer(seconds + _TO_CLOSE, _end_without_closing, [seconds])
    last_resort.daemon = True
    last_resort.start()
    try:
        return asyncio.run(_limited(seconds, work))
    finally:
        last_resort.cancel()


async def _limited(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await work
    except TimeoutError:
        if limit.expired():
            raise TookTooLong(seconds) from None
        raise


def _end_without_closing(seconds: float) -> None:
    complain(f"ledgerq: {TookTooLong(seconds)}")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)

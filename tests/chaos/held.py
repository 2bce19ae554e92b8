"""Which task has taken which connection out of its pool: a job that is in a step has none."""

import asyncio
from typing import Any

from sqlalchemy import event
from sqlalchemy.pool import ConnectionPoolEntry, Pool

_takers: dict[int, "asyncio.Task[Any]"] = {}  # by the id of the pool's entry


def watch() -> None:
    """From now on in this process, for each pool."""
    event.listen(Pool, "checkout", _taken)
    event.listen(Pool, "checkin", _given_back)


def _taken(_: Any, entry: ConnectionPoolEntry, *__: Any) -> None:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # a thread without an event loop
        return
    if task:
        _takers[id(entry)] = task


def _given_back(_: Any, entry: ConnectionPoolEntry) -> None:
    _takers.pop(id(entry), None)


def connections_of(task: "asyncio.Task[Any]") -> int:
    """How many connections the task has now. May be asked in any thread."""
    return sum(taker is task for taker in list(_takers.values()))

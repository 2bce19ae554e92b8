"""Records when the event loop stood still for longer than LEDGERQ_BLOCKED_AFTER, and which job blocked it.

No other job is blamed for that time. Shorter standstills count as each waiting job's own time.

The worker's heartbeat watches the loop and writes the records. For a loop without a watch there are no records: all
time then counts as the job's own.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

Stalled: TypeAlias = Callable[[float], float]  # since a moment (time.monotonic) → seconds
NEVER: Stalled = lambda since: 0.0  # noqa: E731 - a value of that type

JOB: ContextVar[Mapping[str, Any] | None] = ContextVar("job", default=None)  # in the tasks of a job
_KEPT = 100  # stalls that are kept, the latest ones


@dataclass(slots=True)
class Stall:
    """A time in which the loop stood still: from `since` to `until` (time.monotonic).

    `until` is moved on while the loop still stands. `job_id` is the job that blocked the loop, None if unknown.
    """

    since: float
    until: float
    job_id: str | None = None


@dataclass(slots=True)
class Lag:
    """The stalls of one event loop. Written by the thread that watches it, read by the loop.

    `at_work` holds the log fields of the job whose handler runs at this moment; None if no handler runs.
    """

    stalls: deque[Stall] = field(default_factory=lambda: deque(maxlen=_KEPT))
    at_work: Mapping[str, Any] | None = None

    def others(self, job_id: str, since: float) -> float:
        """Seconds after `since` (time.monotonic) in which the loop stood still, without those that this job caused."""
        return sum(
            max(0.0, stall.until - max(stall.since, since))
            for stall in tuple(self.stalls)
            if stall.job_id != job_id
        )


_watched: WeakKeyDictionary[asyncio.AbstractEventLoop, Lag] = WeakKeyDictionary()


def watched(loop: asyncio.AbstractEventLoop) -> Lag:
    """The record of this loop's stalls, which the first call creates."""
    return _watched.setdefault(loop, Lag())


def lag_of_running_loop() -> Lag | None:
    """The record of the running loop's stalls; None if nobody watches the loop."""
    return _watched.get(asyncio.get_running_loop())


def stalled_by_others(job_id: str) -> Stalled:
    """A function that answers how many seconds, since a given moment, the running loop was blocked, not by this job."""
    lag = lag_of_running_loop()
    return partial(lag.others, job_id) if lag else NEVER

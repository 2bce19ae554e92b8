"""How long the event loop stood still, and because of which job: a job must not pay for its neighbour's blocking.

Whoever watches the loop notes it here; without a watch nothing is known, and nothing is excused.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

Stalled: TypeAlias = Callable[[float], float]  # since a moment (time.monotonic) → seconds
NEVER: Stalled = lambda since: 0.0  # noqa: E731 - a value of that type

_KEPT = 100  # stalls that are remembered


@dataclass(slots=True)
class Stall:
    """The loop stood still from `since` (time.monotonic) to `until`, so far; `job_id` held it up, if known."""

    since: float
    until: float
    job_id: str | None = None


@dataclass(slots=True)
class Lag:
    """The stalls of one event loop. Written by the thread that watches it, read by the loop.

    `at_work` is what a log line says of the job whose handler runs at this moment, if one does.
    """

    stalls: deque[Stall] = field(default_factory=lambda: deque(maxlen=_KEPT))
    at_work: Mapping[str, Any] | None = None

    def others(self, job_id: str, since: float) -> float:
        """Seconds since then in which the loop stood still, but not because of this job."""
        return sum(
            max(0.0, stall.until - max(stall.since, since))
            for stall in tuple(self.stalls)
            if stall.job_id != job_id
        )


_watched: WeakKeyDictionary[asyncio.AbstractEventLoop, Lag] = WeakKeyDictionary()


def watched(loop: asyncio.AbstractEventLoop) -> Lag:
    """Where to note the stalls of this loop."""
    return _watched.setdefault(loop, Lag())


def lag_of_running_loop() -> Lag | None:
    """What is known of the running loop; None if nobody watches it."""
    return _watched.get(asyncio.get_running_loop())


def stalled_by_others(job_id: str) -> Stalled:
    """For how long, since a moment, the running loop was held up by others than this job."""
    lag = lag_of_running_loop()
    return partial(lag.others, job_id) if lag else NEVER

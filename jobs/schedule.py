"""Recurring jobs, as data. A scheduled kind's payload must be complete by its defaults."""

from collections.abc import Iterable
from dataclasses import dataclass

from jobs.kinds import PruneProcessedJobs, PurgeDeletedTasks
from jobs.registry import Payload


@dataclass(frozen=True, slots=True)
class Recurring:
    """A kind and the ticks at which it runs, UTC; None means every one. Each tick runs once."""

    payload: type[Payload]
    hour: frozenset[int] | None = None
    minute: frozenset[int] | None = frozenset({0})
    second: frozenset[int] | None = frozenset({0})

    def __post_init__(self) -> None:
        self.payload()  # a payload that needs more than its defaults fails here, at start


SCHEDULE: Iterable[Recurring] = (
    Recurring(PurgeDeletedTasks, minute=frozenset({17})),  # hourly, off the full hour's crowd
    Recurring(PruneProcessedJobs, minute=frozenset({41})),
)

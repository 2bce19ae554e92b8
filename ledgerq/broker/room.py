"""What a worker has room for, beside the jobs that each take one of its ordinary slots."""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Room:
    """How many further jobs of some kinds a worker has room for.

    Args:
        batch: maximum number of further jobs, at their first attempt, of `batchable_kinds`.
        batchable_kinds: the kinds whose jobs may share a transaction.
        outside: maximum number of further jobs of `outside_kinds`. If it is 0, these jobs are passed over: the jobs behind them
            are claimed.
        outside_kinds: the kinds that work outside of the database.
        has_suspect: a suspect, a job that may have crashed workers, works outside now: no second suspect may begin.
        has_doubtful: a job that works outside now may cause a crash, for which a suspect beside that job is not blamed.
    """

    batch: int = 0
    batchable_kinds: Collection[str] = ()
    outside: int = 0
    outside_kinds: Collection[str] = ()
    has_suspect: bool = False
    has_doubtful: bool = False


NO_ROOM = Room()

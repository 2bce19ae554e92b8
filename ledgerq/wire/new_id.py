"""Ids for jobs whose producer names none: UUIDs of version 7 (RFC 9562), as 32 hex digits.

They begin with the time, so the rows of new jobs stand side by side in the indexes on job ids. Random ids would touch
another page of a large index with nearly each job, and PostgreSQL would write that page to its log. The function
`enqueue_job` makes such ids in SQL (`ledgerq/store/versions/v3.postgresql.sql`).
"""

from os import urandom
from time import time_ns

_TICKS = 4096  # a millisecond has so many: RFC 9562 §6.2, method 3


class _Newest:
    tick = 0  # of this process's newest id


def new_job_id() -> str:
    """A new job id. It sorts after those that this thread made before, even if the clock was set back meanwhile."""
    _Newest.tick = tick = max(_Newest.tick + 1, time_ns() * _TICKS // 1_000_000)
    time = f"{tick:015x}"
    return f"{time[:12]}7{time[12:]}8{urandom(8).hex()[1:]}"  # 7 is the version, 8 the variant

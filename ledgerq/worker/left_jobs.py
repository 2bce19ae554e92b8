"""Left jobs: jobs that a worker leaves on the queue, because their bodies are foreign and no deserializer reads them.

A stock arq worker beside this one can run left jobs, and so can this one after a start with `App(arq_deserializer=…)`.
A left job is released with a delay, and no attempt is counted, so that arq's worker finds all attempts unspent. Left
jobs come back evenly, at most 50 a second: any number of them costs a worker little and delays no other job.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import structlog
from arq.connections import ArqRedis

from ledgerq.broker.claims import Ack, Claim
from ledgerq.wire.foreign import foreign_format, foreign_function

log = structlog.stdlib.get_logger("ledgerq.worker")

_FIRST = 10.0  # seconds until a job comes back, at the earliest …
_LONGEST = 1800.0  # … and at the latest
_APART = 0.02  # seconds between two that come back
_TOLD_EVERY = 60.0  # seconds between two log lines about one function
_MAX_TOLD = 1000
_AT_ONCE = 1000  # ids that Redis is asked for in one command
DESERIALIZER = (
    "give App(arq_deserializer=) what its client writes with, or run a stock arq worker too"
)
MENDED_DESERIALIZER = (
    "mend App(arq_deserializer=) or the job's client, or run a stock arq worker too"
)


@dataclass(slots=True)
class LeftJobs:
    """The jobs that one worker leaves on its queues for others, because it can't read their bodies.

    Args:
        is_burst: the worker ends when only left jobs are on its queues, so their ids are kept.
        on_wait: is called for each left job with (queue, format of the body) and a text with problem and cure.
    """

    is_burst: bool
    on_wait: Callable[[tuple[str, str], str], None]
    ids: set[str] = field(default_factory=set)  # in burst mode
    _next: float = 0.0
    _told: dict[str, float] = field(default_factory=dict)

    def leave(self, claim: Claim, problem: str) -> Ack:
        """The ack that releases the job with a delay. Logs why, once a minute for each function.

        `problem` is why the deserializer did not read the body; '' if the worker has no deserializer.
        """
        if self.is_burst:
            self.ids.add(claim.job_id)
        self._tell(claim, problem)
        now = time.monotonic()
        self._next = min(max(now + _FIRST, self._next + _APART), now + _LONGEST)
        return Ack(claim.job_id, "release", int((self._next - now) * 1000))

    async def are_all(self, redis: ArqRedis, queues: Iterable[str]) -> bool:
        """True if the queues hold no job but those that this worker left for others; also if they are empty."""
        return all([await self._are_all_on(redis, queue) for queue in queues])

    async def _are_all_on(self, redis: ArqRedis, queue: str) -> bool:
        queued = await redis.zcard(queue)
        if len(self.ids) < queued:
            return False
        ids, found = list(self.ids), 0
        for start in range(0, len(ids) if queued else 0, _AT_ONCE):
            scores = await redis.zmscore(queue, ids[start : start + _AT_ONCE])
            found += sum(score is not None for score in scores)
        return bool(found >= queued)

    def _tell(self, claim: Claim, problem: str) -> None:
        written = foreign_format(claim.body) or "foreign"
        function, now = foreign_function(claim.body) or "unknown", time.monotonic()
        cure = MENDED_DESERIALIZER if problem else DESERIALIZER
        problem = problem or f"the body is {written}, and this worker has no deserializer for it"
        self.on_wait((claim.queue, written), f"function {function}: {problem}; {cure}")
        if now - self._told.get(function, -_TOLD_EVERY) < _TOLD_EVERY:
            return
        if len(self._told) >= _MAX_TOLD:
            self._told.clear()
        self._told[function] = now
        log.warning("job.left", job_id=claim.job_id, function=function, problem=problem, cure=cure)

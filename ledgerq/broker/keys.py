"""The names of all keys on Redis. Jobs have arq's keys, so that stock arq clients and workers understand them.

arq's keys of a job contain the job id alone, so all queues of one Redis share the ids. Bodies and results of ledgerq
therefore name their queue (`ledgerq.wire.envelope.queue_of`), and the scripts check the name. ledgerq's own keys
contain the queue. A new key is also tried in `probe.lua`, which `ledgerq.broker.requirements` calls; a script that builds the key
itself gets its beginning from `FOR_SCRIPTS`. Where a job id follows, the queue's length stands before the queue: else queue `a` with the id `b:c`
would have the key of queue `a:b` with the id `c`.
"""

from collections.abc import Sequence

from arq.constants import (
    abort_jobs_ss,
    in_progress_key_prefix,
    job_key_prefix,
    result_key_prefix,
    retry_key_prefix,
)
from pydantic_core import to_json

ABORTED = abort_jobs_ss  # sorted set: the jobs that arq's clients want aborted
RUNNING = "ledgerq:running:"
FAILURES = "ledgerq:trouble:"  # the name that earlier versions know

# the scripts build their keys from these: name in Lua → the beginning of a key, or a key
FOR_SCRIPTS = {
    "ABORTED": ABORTED,
    "JOB": job_key_prefix,
    "RESULT": result_key_prefix,
    "RETRY": retry_key_prefix,
    "IN_PROGRESS": in_progress_key_prefix,
    "RUNNING": RUNNING,
    "FAILURES": FAILURES,
    "PROBE": "ledgerq:probe:",
}

__all__ = ["ABORTED", "in_progress_key_prefix", "retry_key_prefix"]


def job_key(job_id: str) -> str:
    """The key of a Redis string with the body of a job that has not ended."""
    return f"{job_key_prefix}{job_id}"


def result_key(job_id: str) -> str:
    """The key of a Redis string with the job's result, for as long as the result is kept."""
    return f"{result_key_prefix}{job_id}"


def running_key(queue: str) -> str:
    """The key of a Redis hash of the claims: job id → `token|since|attempt|worker`; `since` is milliseconds since 1970.

    An entry whose lease has run out belongs to a worker that died, or that did not renew in time.
    """
    return f"{RUNNING}{queue}"


def cancel_key(queue: str) -> str:
    """The key of a Redis sorted set: id of a job that `ledgerq cancel` waits to end → since when, in ms since 1970."""
    return f"ledgerq:cancel:{queue}"


def watched_keys(queues: Sequence[str]) -> list[str]:
    """The keys whose change tells a worker of these queues to poll again."""
    return [*queues, ABORTED, *map(cancel_key, queues)]


def failures_key(queue: str, job_id: str) -> str:
    """The key of a Redis hash with a job's failures: counts, and `log`, one JSON object a line.

    The counts are `crashes`, `interruptions` and `spared`: crashes that are not counted for this job, because the one in `beside`
    may have caused them. `owner:<token>` says what was counted and logged when that owner's lease ran out, until the owner says that
    it lives; `taken_back` is how many such crashes no longer count.
    """
    return f"{FAILURES}{len(queue.encode())}:{queue}:{job_id}"


def unique_key(queue: str, kind: str, key: str) -> str:
    """The key of a Redis string: the id of the job that holds the unique key `key`, until that key's time window is over."""
    return f"ledgerq:unique:{to_json([queue, kind, key]).decode()}"


def workers_key(queue: str) -> str:
    """The key of a Redis sorted set: name of a worker → time of its last sign of life, in seconds since 1970."""
    return f"ledgerq:workers:{queue}"


def renewal_key(queue: str) -> str:
    """The key of an empty Redis string. It exists for half a lease after an outage, while workers renew their leases."""
    return f"ledgerq:renewal:{queue}"


def waits_key(queue: str) -> str:
    """The key of a Redis hash: reason for which jobs wait → JSON with the time of the last such job and a text."""
    return f"ledgerq:waits:{queue}"


def exclusive_slot_key(queue: str) -> str:
    """The key of a Redis string, `token|job id`: the worker with this token lets its jobs end, to run that job alone."""
    return f"ledgerq:lane:{queue}"  # the name that earlier versions know


def keys_of_claim(queue: str) -> list[str]:
    """The keys that `claim.lua` takes, in its order."""
    of_queue = running_key, cancel_key, exclusive_slot_key, workers_key, renewal_key
    running, *others = (key(queue) for key in of_queue)
    return [queue, running, ABORTED, *others]


def epoch_key(queue: str) -> str:
    """The key of a Redis string: the id of the server that a relay last saw. No id, or another one: Redis has lost data."""
    return f"ledgerq:epoch:{queue}"

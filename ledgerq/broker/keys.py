"""Every key on Redis. Those of arq are as arq has them, so that stock clients and workers understand them.

arq's keys of a job hold its id only, so all queues of one Redis share the ids: a body and a result of ours name
their queue (`ledgerq.wire.envelope.queue_of`), and the scripts ask. Keys of ours carry the queue, and its length before
it where something follows: else queue `a` with the id `b:c` would meet queue `a:b` with the id `c`.
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
RUNNING, FAILURES = "ledgerq:running:", "ledgerq:trouble:"

# what the scripts build keys of, by the names that they use
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
    """The body of a queued job."""
    return f"{job_key_prefix}{job_id}"


def result_key(job_id: str) -> str:
    """What the job answered, for as long as results are kept."""
    return f"{result_key_prefix}{job_id}"


def running_key(queue: str) -> str:
    """Hash: job → `token|since|attempt|worker`, since in milliseconds, for what is claimed now.

    An entry whose lease has run out belongs to a worker that died.
    """
    return f"{RUNNING}{queue}"


def cancel_key(queue: str) -> str:
    """Sorted set: the jobs that `cancel` waits for, and since when, in milliseconds."""
    return f"ledgerq:cancel:{queue}"


def watched_keys(queues: Sequence[str]) -> list[str]:
    """The keys whose changes make it worth while for a worker of these queues to look again."""
    return [*queues, ABORTED, *map(cancel_key, queues)]


def failures_key(queue: str, job_id: str) -> str:
    """Hash: what went wrong so far: `crashes`, `interruptions`, and `log`, one JSON object a line."""
    return f"{FAILURES}{len(queue.encode())}:{queue}:{job_id}"


def unique_key(queue: str, kind: str, key: str) -> str:
    """The job that has this unique key, until its window is over."""
    return f"ledgerq:unique:{to_json([queue, kind, key]).decode()}"


def workers_key(queue: str) -> str:
    """Sorted set: worker → when it was last seen, in seconds."""
    return f"ledgerq:workers:{queue}"


def waits_key(queue: str) -> str:
    """Hash: a reason for which jobs wait → when one last did, and for what."""
    return f"ledgerq:waits:{queue}"


def exclusive_slot_key(queue: str) -> str:
    """Which worker makes room for a job that must run alone."""
    return f"ledgerq:lane:{queue}"


def epoch_key(queue: str) -> str:
    """An id of the server, noted by a relay. If it is missing or another one, Redis has lost data."""
    return f"ledgerq:epoch:{queue}"

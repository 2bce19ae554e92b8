"""Every key on Redis. Those of arq are as arq has them, so that stock clients and workers understand them."""

from arq.constants import (
    abort_jobs_ss,
    in_progress_key_prefix,
    job_key_prefix,
    result_key_prefix,
    retry_key_prefix,
)

WORKERS = "ledgerq:workers"  # sorted set: worker → when it was last seen, seconds
ABORTED = abort_jobs_ss  # sorted set: the jobs that arq's clients want aborted

__all__ = ["ABORTED", "WORKERS", "in_progress_key_prefix", "retry_key_prefix"]


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
    return f"ledgerq:running:{queue}"


def cancel_key(queue: str) -> str:
    """Sorted set: the jobs that `cancel` waits for, and since when, in milliseconds."""
    return f"ledgerq:cancel:{queue}"


def trouble_key(job_id: str) -> str:
    """Hash: what went wrong so far: `crashes`, `interruptions`, and `log`, one JSON object a line."""
    return f"ledgerq:trouble:{job_id}"


def unique_key(kind: str, key: str) -> str:
    """The job that has this unique key, until its window is over."""
    return f"ledgerq:unique:{kind}:{key}"


def lane_key(queue: str) -> str:
    """Which worker makes room for a job that must run alone."""
    return f"ledgerq:lane:{queue}"


def epoch_key(queue: str) -> str:
    """Which Redis this is: missing or changed, it has lost data."""
    return f"ledgerq:epoch:{queue}"

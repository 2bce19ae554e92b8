"""Every key on Redis. All but the last are arq's own, so that stock arq clients and workers understand them."""

from arq.constants import job_key_prefix, result_key_prefix

WORKERS = "ledgerq:workers"  # sorted set: worker → when it was last seen, seconds


def job_key(job_id: str) -> str:
    """The body of a queued job."""
    return f"{job_key_prefix}{job_id}"


def result_key(job_id: str) -> str:
    """What the job answered, for as long as results are kept."""
    return f"{result_key_prefix}{job_id}"

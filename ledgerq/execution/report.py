"""Reports how a delivery has ended: a log line, and the error for a client that waits for the result."""

from typing import assert_never

import structlog

from ledgerq.execution.delivery import Delivery
from ledgerq.execution.outcome import Buried, Completed, Dropped, Duplicate, Outcome, Retry
from ledgerq.store.tables import JobState
from ledgerq.text import one_line, shown

log = structlog.stdlib.get_logger("ledgerq.jobs")


class JobBuried(Exception):
    """The error that a waiting client gets if the job was buried."""


class JobCancelled(Exception):
    """The error that a waiting client gets if the job was cancelled."""


def failure_of(outcome: Outcome) -> JobBuried | JobCancelled | None:
    """The error that a waiting client gets; None if the job was done, is tried again, or was dropped."""
    match outcome:
        case Buried(reason, error):
            return JobBuried(f"{reason}: {one_line(error)}")
        case Duplicate(JobState.DEAD):
            return JobBuried("had ended among the dead letters; see: ledgerq job ID")
        case Duplicate(JobState.CANCELLED):
            return JobCancelled("was cancelled")
        case Completed() | Duplicate() | Retry() | Dropped():
            return None
        case _:
            assert_never(outcome)


def report(delivery: Delivery, name: str, outcome: Outcome, seconds: float) -> None:
    """One log line per delivery: which job, how it ended, and why."""
    about = {
        "job_id": delivery.job_id, "kind": name, "attempt": delivery.attempt, "seconds": round(seconds, 4),
    }  # fmt: skip
    match outcome:
        case Completed(result):
            log.info("job.completed", **about, result=shown(result))
        case Duplicate(state, result):
            log.info("job.duplicate", **about, state=state.value, result=shown(result))
        case Retry(delay, error, counts_as_attempt):
            log.warning(
                "job.retried",
                **about,
                delay=round(delay, 3),
                counts_as_attempt=counts_as_attempt,
                error=one_line(error),
            )
        case Buried(reason, error):
            log.error("job.buried", **about, reason=reason, error=one_line(error))
        case Dropped():
            log.warning("job.dropped", **about, because="its producer did not commit")
        case _:
            assert_never(outcome)

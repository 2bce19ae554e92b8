"""A job that a test ran did not complete."""

from typing import Any

from ledgerq.errors import LedgerqError
from ledgerq.execution.outcome import Buried, Completed, Dropped, Duplicate, Outcome, Retry
from ledgerq.store.tables import JobState
from ledgerq.text import one_line


class JobNotCompleted(LedgerqError, AssertionError):
    """A test ran a job that did not complete. `outcome` says how it ended; the cause is what its handler raised."""

    def __init__(self, job_id: str, kind: str, outcome: Outcome) -> None:
        self.job_id, self.outcome = job_id, outcome
        super().__init__(f"job {job_id}: {kind} {_told(outcome)}")


def result_of(job_id: str, kind: str, outcome: Outcome) -> Any:
    """The result of a job that is done, in JSON's types.

    Raises:
        JobNotCompleted: the job is not done; the cause is what its handler raised.
    """
    match outcome:
        case Completed(result) | Duplicate(JobState.DONE, result):
            return result
        case _:
            raise JobNotCompleted(job_id, kind, outcome) from error_of(outcome)


def error_of(outcome: Outcome) -> BaseException | None:
    """The error of a `Retry` or `Buried` outcome; None for any other outcome."""
    return outcome.error if isinstance(outcome, Retry | Buried) else None


def _told(outcome: Outcome) -> str:
    match outcome:
        case Retry(delay, error):
            return f"failed, and is to be tried again in {delay:.1f} s: {one_line(error)}"
        case Buried(reason, error):
            return f"was buried ({reason}): {one_line(error)}"
        case Duplicate(state):
            return f"had ended before: {state}"
        case Dropped():
            return "was staged in a transaction that was not committed"
        case Completed():
            return "was done"

"""Errors that producers and operators get when they ask for a job."""

from collections.abc import Iterable

from ledgerq.errors.base import LedgerqError


class JobFailed(LedgerqError):
    """The job was buried or cancelled. `message` says why."""

    def __init__(self, job_id: str, message: str) -> None:
        self.job_id, self.message = job_id, message
        super().__init__(f"job {job_id} failed: {message}")


class ResultExpired(LedgerqError):
    """Redis has neither the job nor its result: LEDGERQ_KEEP_RESULT seconds have passed, or there was no such job."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(f"job {job_id}: neither queued nor is its result kept")


class ResultNotKept(LedgerqError):
    """A client waits for a job whose payload says `keep_result=0`: Redis will never have the answer."""

    def __init__(self, job_id: str, kind: str) -> None:
        self.job_id, self.kind = job_id, kind
        super().__init__(
            f"job {job_id}: Redis keeps no result of {kind} (keep_result=0), so nobody can wait for it there; "
            f"read it from the database: ledgerq job {job_id}"
        )


class NotStaged(LedgerqError):
    """A worker got these jobs from the queue, but the transaction in which their producer staged them is not committed."""

    def __init__(self, job_ids: Iterable[str]) -> None:
        self.job_ids = sorted(job_ids)
        super().__init__(f"not in the outbox: {', '.join(self.job_ids)[:500]}")


class IdHeld(LedgerqError):
    """Raised by the client: another queue on the same Redis has a job of this id, or still keeps its result."""

    def __init__(self, job_id: str, queue: str) -> None:
        self.job_id, self.queue = job_id, queue
        holder = f"queue {queue!r}" if queue else "another queue, or a program that is not ours,"
        super().__init__(
            f"job_id: {holder} on the same Redis holds {job_id}, and all queues there share the ids; "
            "use an id of your own, such as one that begins with the service's name"
        )


class UnexpectedResult(LedgerqError):
    """A job's answer does not have the type that its payload names: the worker runs other code, or answers something else."""

    def __init__(self, job_id: str, kind: str, problem: str) -> None:
        self.job_id, self.kind, self.problem = job_id, kind, problem
        super().__init__(
            f"job {job_id}: what {kind} answered is not of the type that its payload names ({problem}); "
            "let the handler answer what it says, and deploy the worker and this producer together"
        )


class StillRuns(LedgerqError):
    """A job that is to be cancelled still runs after the timeout, and is not cancelled."""

    def __init__(self, job_id: str, seconds: float) -> None:
        self.job_id = job_id
        super().__init__(
            f"--timeout: job {job_id} still runs after {seconds:g} s and is not cancelled; "
            "give it longer, or let it end"
        )

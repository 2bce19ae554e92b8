"""A session or a transaction was used in a way that it can't be."""

from ledgerq.errors.base import LedgerqError


class SessionShared(LedgerqError):
    """Two tasks used one session at the same time."""

    def __init__(self) -> None:
        super().__init__(
            "one session is used by two tasks at the same time; await one after the other, or open "
            "a session in each task, inside what you hand to gather() or create_task()"
        )


class NotAllowedInJob(LedgerqError):
    """A job's handler would end the transaction that it was given. `call` is what it called."""

    def __init__(self, call: str) -> None:
        self.call = call
        super().__init__(
            f"{call} is not allowed in a job: its transaction commits when the handler returns, with the mark "
            "that it ran, and rolls back when it raises; to undo a part, use "
            "`async with session.begin_nested():`; to undo all, raise an error"
        )


class ErrorSwallowed(LedgerqError):
    """The transaction went on after an error of the database, which had ended it."""

    def __init__(self) -> None:
        super().__init__(
            "an error of the database was swallowed, and the transaction went on; nothing of it is kept: "
            "let the error pass, or put what may fail into `async with session.begin_nested():`"
        )


class JobEnded(LedgerqError):
    """A job has ended, and something that it left behind uses its session."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(
            f"the session of job {job_id} ended with the job; await what uses it before the handler "
            "returns, or open a session of its own for it"
        )


class HandlerSilent(LedgerqError):
    """A handler did not use its transaction for so long that PostgreSQL ended it. Times are seconds."""

    def __init__(self, seconds: float, limit: float) -> None:
        self.seconds, self.limit = seconds, limit
        super().__init__(
            f"the handler did not use its transaction for {seconds:.1f} s, and PostgreSQL ended it after "
            f"{limit:g} s (LEDGERQ_DB_IDLE_IN_TRANSACTION_TIMEOUT); move what is slow outside of the "
            "transaction, into a job that stages this one when it has its answer"
        )

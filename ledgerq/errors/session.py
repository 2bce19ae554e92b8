"""Errors for a wrong use of a session or a transaction."""

from ledgerq.errors.base import LedgerqError


class SessionShared(LedgerqError):
    """Two tasks used one session at the same time."""

    def __init__(self) -> None:
        super().__init__(
            "one session is used by two tasks at the same time; await one after the other, or open "
            "a session in each task, inside what you hand to gather() or create_task()"
        )


class NotAllowedInJob(LedgerqError):
    """A job's handler tried to end the transaction that it was given. `call` is the call or statement."""

    def __init__(self, call: str) -> None:
        self.call = call
        super().__init__(
            f"{call} is not allowed in a job: its transaction commits when the handler returns, with the job's "
            "receipt, and rolls back when it raises; to undo a part, use "
            "`async with session.begin_nested():`; to undo all, raise an error"
        )


class ErrorSwallowed(LedgerqError):
    """A handler went on after an error of the database, which had ended the transaction."""

    def __init__(self) -> None:
        super().__init__(
            "an error of the database was swallowed, and the transaction went on; nothing of it is kept: "
            "let the error pass, or put what may fail into `async with session.begin_nested():`"
        )


class JobEnded(LedgerqError):
    """A job's session is used after the job has ended, for example by a task that the handler left running."""

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
            f"{limit:g} s (LEDGERQ_DB_IDLE_IN_TRANSACTION_TIMEOUT); move what is slow out of the "
            "transaction: @job(outside=…)"
        )

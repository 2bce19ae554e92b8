"""Errors of jobs: why a job fails, or is given up. Errors of the database are in `ledgerq.errors.data`."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from pydantic import ValidationError

from ledgerq.errors.base import LedgerqError
from ledgerq.text import cut

MAX_PROBLEMS = 50  # the most invalid fields that an error lists
MAX_FIELD = 200  # characters of a field's name
MAX_PROBLEM = 500
MAX_DELAY = 10 * 365 * 86_400.0  # seconds


class DeadLetterReason(StrEnum):
    """Why a job was given up. Dead letters store the values, so the values never change."""

    REFUSED = "refused"  # a constraint, or a rule of the handler, refuses the data
    FAILED = "failed"  # the handler failed in each attempt
    UNAVAILABLE = "unavailable"  # the database or a lock was not available
    HANDLER_SILENT = "handler_silent"  # the handler did not use its transaction for too long
    NOT_ALLOWED_IN_JOB = "not_allowed_in_job"  # the handler ended or left its transaction
    SCHEMA_SKEW = "schema_skew"  # the code uses tables or columns that the database lacks
    MISSING_GRANT = "missing_grant"  # the worker's role lacks a privilege that the handler needs
    EXPIRED = "expired"  # Redis lost the body
    UNDECODABLE = "undecodable"
    INVALID_PAYLOAD = "invalid_payload"
    INVALID_RESULT = "invalid_result"
    RESULT_TOO_LARGE = "result_too_large"
    STEP_UNUSABLE = "step_unusable"
    IN_DOUBT = "in_doubt"
    UNKNOWN_KIND = "unknown_kind"
    PAYLOAD_MISMATCH = "payload_mismatch"
    INVALID_REQUEST = "invalid_request"
    NOT_BURIED = "not_buried"
    NOT_REPLAYABLE = "not_replayable"
    WORKER_LOST = "worker_lost"
    BLOCKED_TOO_OFTEN = "blocked_too_often"
    PERMANENT = "permanent"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a job: the field, and the problem. Never the value, which may be a secret."""

    field: str
    problem: str


class JobError(LedgerqError):
    """A job cannot be done. `problems` lists the invalid fields; `reason` is the reason in its dead letter."""

    reason: ClassVar[DeadLetterReason] = DeadLetterReason.PERMANENT

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{each.field}: {each.problem}" for each in self.problems))


class Undecodable(JobError):
    """The body on the queue is not JSON as ledgerq writes it, or the job's id is not valid."""

    reason = DeadLetterReason.UNDECODABLE

    def __init__(self, field: str, problem: str) -> None:
        super().__init__([Problem(field, problem)])


class InvalidPayload(JobError):
    """The payload breaks the kind's rules."""

    reason = DeadLetterReason.INVALID_PAYLOAD

    @classmethod
    def from_validation(cls, error: ValidationError) -> "InvalidPayload":
        """The error with the first 50 invalid fields, without values: UnknownFields if the code lacks all of them."""
        details = error.errors(include_url=False, include_input=False, include_context=False)
        unknown = all(
            each["type"] == "extra_forbidden" and str(each["loc"][-1]).isidentifier()
            for each in details  # no version of the code has a field whose name is no identifier
        )
        problems = [
            Problem(
                cut(".".join(map(str, each["loc"])) or "payload", MAX_FIELD),
                cut(each["msg"], MAX_PROBLEM),
            )
            for each in details[:MAX_PROBLEMS]
        ]
        if len(details) > MAX_PROBLEMS:
            more = f"{len(details) - MAX_PROBLEMS:,} more fields are at fault"
            problems.append(Problem("payload", more))
        return (UnknownFields if unknown else InvalidPayload)(problems)


class UnknownFields(InvalidPayload):
    """The payload has fields that this code does not know. In a rolling deploy, a newer worker may know them."""


class InvalidResult(JobError):
    """The handler's answer is not JSON, or not JSON that the database can store."""

    reason = DeadLetterReason.INVALID_RESULT

    def __init__(self, problem: str) -> None:
        super().__init__([Problem("result", problem)])


class ResultTooLarge(JobError):
    """The handler's answer is larger than LEDGERQ_MAX_RESULT."""

    reason = DeadLetterReason.RESULT_TOO_LARGE

    def __init__(self, size: int, limit: int) -> None:
        problem = (
            f"has {size} bytes of JSON; at most {limit} are kept (LEDGERQ_MAX_RESULT): "
            "answer with an id, and keep the rest in a table"
        )
        super().__init__([Problem("result", problem)])


class UnknownKind(JobError):
    """The application has no such kind. The job is tried again for some time: in a deploy, a newer worker may have it."""

    reason = DeadLetterReason.UNKNOWN_KIND

    def __init__(self, kind: str, known: Iterable[str]) -> None:
        self.kind = kind
        told = cut(", ".join(known), MAX_PROBLEM)
        super().__init__([Problem("kind", f"{kind!r} is unknown; known: {told}")])


class PayloadMismatch(JobError):
    """A job of this id, queued or ended, has another payload."""

    reason = DeadLetterReason.PAYLOAD_MISMATCH

    def __init__(self, job_id: str) -> None:
        problem = f"{job_id} already stands for another payload; use a new id for new work"
        super().__init__([Problem("job_id", problem)])


class InvalidRequest(JobError):
    """An argument is invalid, of a call about a job (such as enqueue, stage or replay) or about its steps and cursors."""

    reason = DeadLetterReason.INVALID_REQUEST

    def __init__(self, field: str, problem: str) -> None:
        super().__init__([Problem(field, problem)])


class NotBuried(JobError):
    """A job that is to be replayed or discarded has no dead letter, or no longer has one."""

    reason = DeadLetterReason.NOT_BURIED

    def __init__(self, job_ids: Iterable[str]) -> None:
        self.job_ids = tuple(job_ids)
        problem = f"not among the dead letters: {', '.join(self.job_ids)}"
        super().__init__([Problem("job_id", problem)])


class StepUnusable(JobError):
    """A step was done, and is not done again, but its answer can't be recorded or read as its type; the job is buried."""

    reason = DeadLetterReason.STEP_UNUSABLE

    def __init__(self, name: str, problem: str) -> None:
        super().__init__([Problem(f"step {name}", f"was done, and its answer {problem}")])


class InDoubt(JobError):
    """A step that is called at most once was begun, and no answer is recorded: it may have happened, or not."""

    reason = DeadLetterReason.IN_DOUBT

    def __init__(self, name: str) -> None:
        self.step = name
        super().__init__(
            [
                Problem(
                    f"step {name}",
                    "may have happened: it was begun, and no answer is recorded; look at the other side, then say which: "
                    f"ledgerq dead resolve JOB_ID --step {name!r} --happened ANSWER, or --did-not-happen",
                )
            ]
        )


class NotReplayable(JobError):
    """A dead letter lacks what a replay needs, for example the payload; the text says what to give."""

    reason = DeadLetterReason.NOT_REPLAYABLE

    def __init__(self, job_id: str, field: str, problem: str) -> None:
        self.job_id = job_id
        super().__init__([Problem(field, f"of job {job_id}, {problem}")])


class Expired(JobError):
    """The job's body is no longer on Redis, or is empty."""

    reason = DeadLetterReason.EXPIRED

    def __init__(self) -> None:
        super().__init__([Problem("body", "is gone from Redis, or empty")])


class WorkerLost(JobError):
    """Too many workers died while they had the job: no further worker runs it. Before, no other such job ran beside it."""

    reason = DeadLetterReason.WORKER_LOST

    def __init__(self, crashes: int) -> None:
        self.crashes = crashes
        problem = f"{crashes} workers died while they had it, the last one with no other suspect"
        super().__init__([Problem("job", problem)])


class BlockedTooOften(JobError):
    """The job blocked its worker's event loop for longer than the job's timeout, in each of its attempts."""

    reason = DeadLetterReason.BLOCKED_TOO_OFTEN

    def __init__(self, attempts: int, last: str) -> None:
        problem = f"{last}, in the last of {attempts} attempts; await what is slow, or use a thread"
        super().__init__([Problem("job", problem)])


class Permanent(JobError):
    """Raised by a handler if a retry cannot help: the job is buried at once.

    ```python
    raise Permanent(f"order {order.id} has no address")
    ```
    """

    def __init__(self, problem: str, *, field: str = "job") -> None:
        super().__init__([Problem(field, problem)])


class TimedOut(TimeoutError):
    """The job took longer than its timeout: its kind's, or else LEDGERQ_JOB_TIMEOUT."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"the job took longer than its timeout of {seconds:g} s")


class CancelledByItself(Exception):
    """The job's own code cancelled the task in which the job runs; neither the worker nor an operator did."""

    def __init__(self) -> None:
        super().__init__("the job cancelled the task that it runs in; nobody told it to stop")


class HeldUp(Exception):
    """The job ran into its timeout because another job blocked the event loop. `seconds` is how long."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"another job blocked the event loop for {seconds:.1f} s")


class RetryLater(Exception):
    """Raised by a handler to be called again after `delay` seconds. The job is rolled back; the attempt counts.

    ```python
    raise RetryLater(30)
    ```
    """

    def __init__(self, delay: float) -> None:
        self.delay = _in_range(delay)
        super().__init__(f"again in {delay:g} s")


class Snooze(Exception):
    """Raised by a handler to be called again after `delay` seconds. Its transaction is rolled back; no attempt is counted.

    ```python
    raise Snooze(3600)  # the shop is closed
    ```
    """

    def __init__(self, delay: float) -> None:
        self.delay = _in_range(delay)
        super().__init__(f"snoozes for {delay:g} s")


def _in_range(delay: float) -> float:
    """The delay, cut to the range 0 to MAX_DELAY; 0 if it is NaN."""
    return min(max(delay, 0.0), MAX_DELAY) if delay == delay else 0.0  # noqa: PLR0124 - NaN

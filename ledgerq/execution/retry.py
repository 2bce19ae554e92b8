"""Decides whether a failed job is tried again or buried, from its error and its delivery alone."""

import random
from dataclasses import dataclass, replace

from ledgerq.database.sqlstate import (
    is_contention,
    is_grant_missing,
    is_interruption,
    is_permanent,
    is_skew,
    is_transient,
)
from ledgerq.errors import (
    BlockedTooOften,
    HandlerSilent,
    HeldUp,
    JobError,
    NotAllowedInJob,
    Problem,
    Refused,
    RetryLater,
    Snooze,
    UnknownFields,
    UnknownKind,
)
from ledgerq.errors import DeadLetterReason as Reason
from ledgerq.execution.containment import HandlerMisbehaved
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.outcome import Buried, Retry
from ledgerq.text import MAX_ERROR, MAX_TRACEBACK, leaves
from ledgerq.wire.step_names import StepLimits

_IN_ALL = 10_000  # attempts of one job, however many steps it records on the way


@dataclass(frozen=True, slots=True)
class Policy:
    """The limits for jobs that fail. Times are seconds.

    When a job records a step of its work outside of the database, its attempts count anew from there. A job that waits
    for something that others must fix (older code or an older schema during a deploy, a missing grant,
    a lock) has `deploy_attempts_factor` times `max_attempts`. A job that lost its connection to the database spends no
    attempt, but is buried after `max_interruptions`, since the job itself may break the connection. A job whose worker
    died `isolate_after_crashes` times runs alone; after `max_crashes` it is buried; for a job that works outside of the
    database, which takes longer, both are `outside_factor` times as many. `max_result` is bytes of JSON; `max_answers` too,
    of all steps of a job together; `max_error` and `max_traceback` are the characters that a dead letter keeps.
    """

    timeout: float = 60
    max_attempts: int = 5
    backoff: float = 1
    longest_backoff: float = 300
    deploy_attempts_factor: int = 4
    max_interruptions: int = 50
    isolate_after_crashes: int = 2
    max_crashes: int = 3
    outside_factor: int = 2
    max_result: int = 262_144
    max_steps: int = 1_000
    max_answers: int = 8 * 2**20
    max_error: int = MAX_ERROR
    max_traceback: int = MAX_TRACEBACK

    @property
    def step_limits(self) -> StepLimits:
        """The limits for the steps of a job."""
        return StepLimits(self.max_steps, self.max_result, self.max_answers)

    def delay(self, attempt: int) -> float:
        """Seconds until the next attempt: exponential backoff with full jitter.

        The seconds are drawn between 0 and backoff · 2^(attempt - 1), or `longest_backoff` if that is less.
        https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        """
        return random.uniform(0, self.longest_delay(attempt))  # noqa: S311 - spreads load, guards nothing

    def longest_delay(self, attempt: int) -> float:
        """The most that `delay` may draw."""
        return min(self.longest_backoff, self.backoff * 2.0 ** min(attempt - 1, 30))


def decide(error: BaseException, delivery: Delivery, policy: Policy) -> Retry | Buried:
    """Decide whether the job is tried again or buried. Raises nothing, even if the error's own code raises."""
    try:
        error = error.error if isinstance(error, HandlerMisbehaved) else error
        outcome = _decide(decisive(error), delivery, policy)
        return replace(outcome, error=error)
    except BaseException:  # noqa: BLE001 - the error's own code runs here
        again = Retry(policy.delay(delivery.tries), error)
        return _again(again, Reason.FAILED, delivery, policy.max_attempts)


def require_not_blocked(delivery: Delivery, policy: Policy) -> None:
    """Refuse a job that has no attempt left and blocked the event loop in its last one: it would block other jobs again.

    Raises:
        BlockedTooOften: the job is refused.
    """
    last = delivery.history[-1] if delivery.history else {}
    if delivery.tries > policy.max_attempts and last.get("blocked"):
        raise BlockedTooOften(delivery.attempt - 1, str(last.get("error")))


def decisive(error: BaseException) -> BaseException:
    """The exception in a group that decides on the job; an error that is no group decides itself.

    The order: an error with which the job can never succeed; a lost connection, which may be the cause of the others;
    `RetryLater`; any other failure; `Snooze`. `Snooze` is last because it spends no attempt: if it came before a
    failure, the job could fail without end.
    """
    return min(leaves(error), key=_rank)


def _rank(error: BaseException) -> int:
    if isinstance(error, Snooze):
        return 4
    if isinstance(error, RetryLater):
        return 2
    if isinstance(error, UnknownKind | UnknownFields):
        return 3
    if isinstance(error, JobError | Refused | NotAllowedInJob) or is_permanent(error):
        return 0
    return 1 if is_interruption(error) else 3


def _decide(  # noqa: C901, PLR0911 - a case, an answer
    error: BaseException, delivery: Delivery, policy: Policy
) -> Retry | Buried:
    match error:
        case RetryLater(delay=delay):
            return _again(Retry(delay, error), Reason.FAILED, delivery, policy.max_attempts)
        case Snooze(delay=delay):
            return Retry(delay, error, counts_as_attempt=False)
        case HeldUp():
            return _interrupted(error, delivery, policy)
        case UnknownKind():
            return _patient(Reason.UNKNOWN_KIND, error, delivery, policy)
        case UnknownFields():
            return _patient(Reason.INVALID_PAYLOAD, error, delivery, policy, "unknown_fields")
        case JobError():
            return Buried(_reason(error), error, _problems(error))
        case Refused(field=field, problem=problem):
            return Buried(Reason.REFUSED, error, (Problem(field, problem),))
        case NotAllowedInJob():
            return Buried(Reason.NOT_ALLOWED_IN_JOB, error)
        case _:
            return _decide_on_foreign(error, delivery, policy)


def _decide_on_foreign(error: BaseException, delivery: Delivery, policy: Policy) -> Retry | Buried:
    """Decide on errors of the database, and on errors that ledgerq does not know."""
    if is_interruption(error):
        return _interrupted(error, delivery, policy)
    if is_skew(error):
        return _patient(Reason.SCHEMA_SKEW, error, delivery, policy)
    if is_grant_missing(error):
        return _patient(Reason.MISSING_GRANT, error, delivery, policy)
    if is_contention(error):
        return _patient(Reason.UNAVAILABLE, error, delivery, policy, "lock")
    if is_permanent(error):
        return Buried(Reason.REFUSED, error)
    reason = Reason.UNAVAILABLE if is_transient(error) else Reason.FAILED
    if isinstance(error, HandlerSilent):
        reason = Reason.HANDLER_SILENT
    again = Retry(policy.delay(delivery.tries), error)
    return _again(again, reason, delivery, policy.max_attempts)


def _again(retry: Retry, reason: Reason, delivery: Delivery, most: int) -> Retry | Buried:
    if delivery.tries < most and delivery.attempt < _IN_ALL:
        return retry
    return Buried(reason, retry.error, _problems(retry.error))


def _problems(error: BaseException) -> tuple[Problem, ...]:
    """The problems of a JobError; none for other errors, or if a service's class uses `problems` for something else."""
    try:
        found = error.problems if issubclass(type(error), JobError) else ()  # type: ignore[attr-defined]
        return tuple(each for each in found if isinstance(each, Problem))
    except BaseException:  # noqa: BLE001 - the error's own code runs here
        return ()


def _reason(error: BaseException) -> Reason:
    """The reason that the error's class has, or else its nearest base class; `PERMANENT` if none has a reason.

    A service's class may use the attribute for something else, which is ignored.
    """
    own = (vars(each).get("reason") for each in type(error).__mro__)
    return next((reason for reason in own if isinstance(reason, Reason)), Reason.PERMANENT)


def _patient(
    reason: Reason, error: BaseException, delivery: Delivery, policy: Policy, waits_for: str = ""
) -> Retry | Buried:
    """Try again with more attempts than usual: others must fix the cause, and may be about to."""
    again = Retry(policy.delay(delivery.tries), error, waits_for=waits_for or reason)
    return _again(again, reason, delivery, policy.max_attempts * policy.deploy_attempts_factor)


def _interrupted(error: BaseException, delivery: Delivery, policy: Policy) -> Retry | Buried:
    if delivery.interruptions >= policy.max_interruptions:
        return Buried(Reason.UNAVAILABLE, error)
    delay = policy.delay(min(delivery.interruptions + 1, 5))
    return Retry(delay, error, counts_as_attempt=False, interrupted=True)

"""What becomes of a job that failed: pure, from the error and what is known of the delivery."""

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
from ledgerq.errors import DeadLetterReason as Reason
from ledgerq.errors import (
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
from ledgerq.execution.delivery import Delivery
from ledgerq.execution.isolation import HandlerMisbehaved
from ledgerq.execution.outcome import Buried, Retry
from ledgerq.text import MAX_ERROR, MAX_TRACEBACK, leaves


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient we are. Times are seconds.

    A job that waits for what others have to mend (older code or an older schema while a deploy is under way, a
    missing grant, a lock that somebody holds) is given `deploy_attempts_factor` times the attempts. One whose connection to the database broke spends none, but does not go on
    for ever: it might be what breaks it. One that lost its worker `isolate_after_crashes` times runs alone,
    and after `max_crashes` never again. `max_result` is bytes of JSON, the other two are characters that are kept.
    """

    timeout: float = 60
    max_attempts: int = 5
    backoff: float = 1
    longest_backoff: float = 300
    deploy_attempts_factor: int = 4
    max_interruptions: int = 50
    isolate_after_crashes: int = 2
    max_crashes: int = 3
    max_result: int = 262_144
    max_error: int = MAX_ERROR
    max_traceback: int = MAX_TRACEBACK

    def delay(self, attempt: int) -> float:
        """Exponential backoff with full jitter: somewhere below backoff · 2^(attempt - 1).

        https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        """
        ceiling = min(self.longest_backoff, self.backoff * 2 ** min(attempt - 1, 30))
        return random.uniform(0, ceiling)  # noqa: S311 - spreads load, guards nothing


def decide(error: BaseException, delivery: Delivery, policy: Policy) -> Retry | Buried:
    """Once more, or the dead letters. Raises nothing, whatever the error does when it is looked at."""
    try:
        error = error.error if isinstance(error, HandlerMisbehaved) else error
        outcome = _decide(decisive(error), delivery, policy)
        return replace(outcome, error=error)
    except BaseException:  # noqa: BLE001 - the error's own code runs here
        again = Retry(policy.delay(delivery.attempt), error)
        return _again(again, Reason.FAILED, delivery, policy.max_attempts)


def decisive(error: BaseException) -> BaseException:
    """Of the exceptions in a group the one that decides; of an error that is no group, itself.

    What can never work comes first, then a lost connection, of which the rest may be a consequence, then a wish
    to be called again. A wish that spends no attempt comes last: beside a failure it could go on for ever.
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
    """Errors that are not ours, or are the database's."""
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
    again = Retry(policy.delay(delivery.attempt), error)
    return _again(again, reason, delivery, policy.max_attempts)


def _again(retry: Retry, reason: Reason, delivery: Delivery, most: int) -> Retry | Buried:
    if delivery.attempt < most:
        return retry
    return Buried(reason, retry.error, _problems(retry.error))


def _problems(error: BaseException) -> tuple[Problem, ...]:
    """Those of a JobError; none if a class of somebody's has made something else of the attribute."""
    try:
        found = error.problems if issubclass(type(error), JobError) else ()  # type: ignore[attr-defined]
        return tuple(each for each in found if isinstance(each, Problem))
    except BaseException:  # noqa: BLE001 - the error's own code runs here
        return ()


def _reason(error: BaseException) -> Reason:
    """Of the nearest class that names one of ours: a class of somebody's may use the name for something else."""
    own = (vars(each).get("reason") for each in type(error).__mro__)
    return next((reason for reason in own if isinstance(reason, Reason)), Reason.PERMANENT)


def _patient(
    reason: Reason, error: BaseException, delivery: Delivery, policy: Policy, waits_for: str = ""
) -> Retry | Buried:
    """Others have to mend it, and are at it maybe."""
    again = Retry(policy.delay(delivery.attempt), error, waits_for=waits_for or reason)
    return _again(again, reason, delivery, policy.max_attempts * policy.deploy_attempts_factor)


def _interrupted(error: BaseException, delivery: Delivery, policy: Policy) -> Retry | Buried:
    if delivery.interruptions >= policy.max_interruptions:
        return Buried(Reason.UNAVAILABLE, error)
    delay = policy.delay(min(delivery.interruptions + 1, 5))
    return Retry(delay, error, counts_as_attempt=False, interrupted=True)

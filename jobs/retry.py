"""What becomes of a job that failed: pure, from the error and what is known of the delivery."""

import random
from dataclasses import dataclass

from db.errors import Refused
from db.translate import is_interruption, is_permanent, is_skew, is_transient
from jobs.envelope import Delivery
from jobs.errors import JobError, Problem, RetryLater, Snooze, UnknownKind
from jobs.outcome import Buried, Retry


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient we are. Times are seconds.

    A job that meets older code or an older schema (a deploy is under way) is given `skew_patience`
    times the attempts. One whose connection to the database broke spends none, but does not go on
    for ever: it might be what breaks it. One that lost its worker `lone_crashes` times runs alone,
    and after `max_crashes` never again.
    """

    timeout: float = 60
    max_attempts: int = 5
    backoff: float = 1
    longest_backoff: float = 300
    skew_patience: int = 4
    max_interruptions: int = 50
    lone_crashes: int = 2
    max_crashes: int = 3

    def delay(self, attempt: int) -> float:
        """Exponential backoff with full jitter: somewhere below backoff · 2^(attempt - 1).

        https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        """
        ceiling = min(self.longest_backoff, self.backoff * 2 ** min(attempt - 1, 30))
        return random.uniform(0, ceiling)  # noqa: S311 - spreads load, guards nothing


def decide(error: BaseException, delivery: Delivery, policy: Policy) -> Retry | Buried:
    """Once more, or the dead letters."""
    match error:
        case RetryLater(delay=delay):
            return _again(Retry(delay, error), "failed", delivery, policy.max_attempts)
        case Snooze(delay=delay):
            return Retry(delay, error, spent=False)
        case UnknownKind():
            return _deploying("unknown_kind", error, delivery, policy)
        case JobError(problems=problems):
            return Buried(_reason(error), error, problems)
        case Refused(field=field, problem=problem):
            return Buried("refused", error, (Problem(field, problem),))
        case _:
            return _decide_on_foreign(error, delivery, policy)


def _decide_on_foreign(error: BaseException, delivery: Delivery, policy: Policy) -> Retry | Buried:
    """Errors that are not ours, or are the database's."""
    if is_interruption(error):
        return _interrupted(error, delivery, policy)
    if is_skew(error):
        return _deploying("schema_skew", error, delivery, policy)
    if is_permanent(error):
        return Buried("refused", error)
    reason = "unavailable" if is_transient(error) else "failed"
    again = Retry(policy.delay(delivery.attempt), error)
    return _again(again, reason, delivery, policy.max_attempts)


def _again(retry: Retry, reason: str, delivery: Delivery, most: int) -> Retry | Buried:
    if delivery.attempt < most:
        return retry
    problems = retry.error.problems if isinstance(retry.error, JobError) else ()
    return Buried(reason, retry.error, problems)


def _deploying(
    reason: str, error: BaseException, delivery: Delivery, policy: Policy
) -> Retry | Buried:
    again = Retry(policy.delay(delivery.attempt), error)
    return _again(again, reason, delivery, policy.max_attempts * policy.skew_patience)


def _interrupted(error: BaseException, delivery: Delivery, policy: Policy) -> Retry | Buried:
    if delivery.interruptions >= policy.max_interruptions:
        return Buried("unavailable", error)
    return Retry(policy.delay(min(delivery.interruptions + 1, 5)), error, spent=False)


def _reason(error: JobError) -> str:
    """InvalidPayload → invalid_payload."""
    name = type(error).__name__
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")

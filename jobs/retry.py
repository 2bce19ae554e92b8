"""What becomes of a job that failed: pure, from the error and the number of the attempt."""

import random
from dataclasses import dataclass

from db.errors import Refused
from db.translate import is_permanent, is_transient
from jobs.errors import JobError, Problem, RetryLater, UnknownKind
from jobs.outcome import Buried, Retry


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient we are. Times are seconds."""

    timeout: float = 60
    max_attempts: int = 5
    backoff: float = 1
    longest_backoff: float = 300

    def delay(self, attempt: int) -> float:
        """Exponential backoff with full jitter: somewhere below backoff · 2^(attempt - 1).

        https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        """
        ceiling = min(self.longest_backoff, self.backoff * 2 ** (attempt - 1))
        return random.uniform(0, ceiling)  # noqa: S311 - spreads load, guards nothing


def decide(error: Exception, attempt: int, policy: Policy) -> Retry | Buried:
    """Once more, or the dead letters."""
    match error:
        case RetryLater(delay=delay):
            return Retry(delay, error)
        case Refused(field=field, problem=problem):
            return Buried("refused", error, (Problem(field, problem),))
        case UnknownKind():
            return _again_or_buried("unknown_kind", error, attempt, policy)
        case JobError(problems=problems):
            return Buried(_reason(error), error, problems)
        case _ if is_permanent(error):
            return Buried("refused", error)
        case _:
            reason = "unavailable" if is_transient(error) else "failed"
            return _again_or_buried(reason, error, attempt, policy)


def _again_or_buried(reason: str, error: Exception, attempt: int, policy: Policy) -> Retry | Buried:
    if attempt < policy.max_attempts:
        return Retry(policy.delay(attempt), error)
    problems = error.problems if isinstance(error, JobError) else ()
    return Buried(reason, error, problems)


def _reason(error: JobError) -> str:
    """InvalidPayload → invalid_payload."""
    name = type(error).__name__
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")

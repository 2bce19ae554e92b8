"""Why a job may fail, beside what the database refuses (db.errors.Refused).

JobError
├── Undecodable         the bytes on the queue are not our JSON
├── InvalidPayload      the payload breaks the kind's rules: every field at fault is listed
├── UnknownKind         no such kind here; a newer worker may know it
└── PayloadMismatch     another payload was already done under this job id
RetryLater              not an error: a handler asks to be called again
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ValidationError

from db.errors import LedgerqError


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a job: where, and what. Never the value: it may be a secret."""

    field: str
    problem: str


class JobError(LedgerqError):
    """A job cannot be done. `problems` says which fields are at fault."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{each.field}: {each.problem}" for each in self.problems))


class Undecodable(JobError):
    """The bytes on the queue are not our JSON."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__([Problem(field, problem)])


class InvalidPayload(JobError):
    """The payload breaks the kind's rules."""

    @classmethod
    def from_validation(cls, error: ValidationError) -> "InvalidPayload":
        """Every field at fault, without its value."""
        details = error.errors(include_url=False, include_input=False, include_context=False)
        return cls(
            Problem(".".join(map(str, each["loc"])) or "payload", each["msg"]) for each in details
        )


class UnknownKind(JobError):
    """No such kind here; in a rolling deploy a newer worker may know it."""

    def __init__(self, kind: str, known: Iterable[str]) -> None:
        self.kind = kind
        super().__init__([Problem("kind", f"{kind!r} is unknown; known: {', '.join(known)}")])


class PayloadMismatch(JobError):
    """Another payload was already done under this job id."""

    def __init__(self, job_id: str) -> None:
        problem = f"{job_id} was already done with another payload; use a new id for new work"
        super().__init__([Problem("job_id", problem)])


class RetryLater(Exception):
    """Raised by a handler to be called again after `delay` seconds; the transaction is rolled back."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        super().__init__(f"again in {delay:g} s")

"""How a delivery can end. A closed union: match it and end with `assert_never`."""

from dataclasses import dataclass
from typing import Any, TypeAlias

from ledgerq.errors import DeadLetterReason, Problem
from ledgerq.store.tables import JobState


@dataclass(frozen=True, slots=True)
class Completed:
    """Committed. `result` is what the handler answered, as JSON can carry it."""

    result: Any


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The job had ended before: done with this result, cancelled, or dead; nothing was done now."""

    state: JobState
    result: Any = None


@dataclass(frozen=True, slots=True)
class Retry:
    """Rolled back; to be delivered again after `delay` seconds. With `counts_as_attempt` it spends one of its attempts.

    `interrupted` if the connection to the database was lost. `waits_for` names what others have to mend: a lock, a
    grant, a deploy.
    """

    delay: float
    error: BaseException
    counts_as_attempt: bool = True
    interrupted: bool = False
    waits_for: str = ""


@dataclass(frozen=True, slots=True)
class Buried:
    """Rolled back; never to be delivered again. It is among the dead letters."""

    reason: DeadLetterReason
    error: BaseException
    problems: tuple[Problem, ...] = ()


Outcome: TypeAlias = Completed | Duplicate | Retry | Buried

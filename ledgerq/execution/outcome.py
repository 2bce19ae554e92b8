"""How a delivery can end. A closed union: match it and end with `assert_never`."""

from dataclasses import dataclass
from typing import Any, TypeAlias

from ledgerq.errors import DeadLetterReason, Problem
from ledgerq.store.tables import JobState


@dataclass(frozen=True, slots=True)
class Completed:
    """The job's transaction is committed. `result` is the handler's result, in JSON's types."""

    result: Any


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The job had ended before this delivery: done with `result`, cancelled, or dead. Its handler was not called."""

    state: JobState
    result: Any = None


@dataclass(frozen=True, slots=True)
class Retry:
    """The job was rolled back, and is delivered again after `delay` seconds.

    `counts_as_attempt`: this delivery counts against the job's limit of attempts. `interrupted`: the connection to the
    database was lost, or the job ran out of time because other jobs blocked the event loop. `waits_for` names what others must fix first, for example a
    lock or a missing grant; '' if nothing.
    """

    delay: float
    error: BaseException
    counts_as_attempt: bool = True
    interrupted: bool = False
    waits_for: str = ""


@dataclass(frozen=True, slots=True)
class Buried:
    """The job was rolled back and given up; it is not delivered again. Its dead letter keeps these fields."""

    reason: DeadLetterReason
    error: BaseException
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Dropped:
    """The job was thrown away and not run: its producer put it on the queue, but did not commit the staged job."""


Outcome: TypeAlias = Completed | Duplicate | Retry | Buried | Dropped

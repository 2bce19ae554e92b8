"""How a delivery can end. A closed union: match it and end with `assert_never`."""

from dataclasses import dataclass
from typing import Any, TypeAlias

from jobs.errors import Problem


@dataclass(frozen=True, slots=True)
class Completed:
    """Committed. `result` is what the handler answered, as JSON can carry it."""

    result: Any


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Committed by an earlier delivery, with this result; nothing was done now."""

    result: Any


@dataclass(frozen=True, slots=True)
class Retry:
    """Rolled back; to be delivered again after `delay` seconds."""

    delay: float
    error: BaseException


@dataclass(frozen=True, slots=True)
class Buried:
    """Rolled back; never to be delivered again. It is among the dead letters."""

    reason: str
    error: BaseException
    problems: tuple[Problem, ...] = ()


Outcome: TypeAlias = Completed | Duplicate | Retry | Buried

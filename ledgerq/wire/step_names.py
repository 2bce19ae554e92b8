"""The steps of one run of a job: how many there may be, and that each name is used once."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from ledgerq.errors import InvalidRequest

MAX_NAME = 100  # characters
_BEGUN = ContextVar[str | None]("ledgerq_step_with_a_transaction", default=None)


@dataclass(frozen=True, slots=True)
class StepLimits:
    """How many steps a job may have, and how many bytes of JSON one answer and all answers may be."""

    steps: int = 1_000
    answer: int = 262_144
    answers: int = 8 * 2**20


class StepNames:
    """Checks the step names of a run: each is used once; with those of earlier runs, `known`, there are at most `limit`."""

    def __init__(self, limit: int, known: Collection[str] = ()) -> None:
        self._used, self._all = set[str](), set(known)
        self._closed, self._limit = False, limit

    def take(self, name: str) -> None:
        """Use a name.

        Raises:
            InvalidRequest: the name was used before, or is not valid; there are too many; another step's transaction is open;
                or the run is over.
        """
        self.require_step_possible(name)
        if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
            raise InvalidRequest("step", f"its name must have 1 to {MAX_NAME} printable characters")
        if name in self._used:
            raise InvalidRequest(
                f"step {name}", "is there twice in one run; in a loop, number the names"
            )
        if name not in self._all and len(self._all) >= self._limit:
            limit = f"a job has at most {self._limit:,} steps (LEDGERQ_MAX_STEPS)"
            raise InvalidRequest("step", f"{limit}; stage another job")
        self._used.add(name)
        self._all.add(name)

    def require_step_possible(self, name: str) -> None:
        """Refuse a step after the end of the run, and in another step's transaction, for whose end its record might wait.

        Raises:
            InvalidRequest: it is refused.
        """
        if self._closed:
            raise InvalidRequest(
                f"step {name}", "comes after the end of the job's function outside"
            )
        if (other := _BEGUN.get()) is not None:
            raise InvalidRequest(
                f"step {name}", f"is in the transaction of step {other}; do it before, or after"
            )

    def close(self) -> None:
        """The run is over: from now on no name is taken."""
        self._closed = True


@contextmanager
def in_transaction_of(name: str) -> Iterator[None]:
    """Mark a block as work in the transaction of the step `name`: it may contain no other step."""
    before = _BEGUN.set(name)
    try:
        yield
    finally:
        _BEGUN.reset(before)

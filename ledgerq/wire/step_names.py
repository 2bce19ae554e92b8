"""The steps of one run of a job: how many there may be, and that each name is used once."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from ledgerq.errors import InvalidRequest

MAX_NAME = 100  # characters


@dataclass(frozen=True, slots=True)
class StepLimits:
    """How many steps a job may have, and how many bytes of JSON one answer and all answers may be."""

    steps: int = 1_000
    answer: int = 262_144
    answers: int = 8 * 2**20


@dataclass(slots=True)
class _Transaction:
    """Of a step. A task that is started in it may live longer, and keeps the variable."""

    run: "StepNames"
    step: str
    is_open: bool = True


_TRANSACTION = ContextVar[_Transaction | None]("ledgerq_transaction_of_step", default=None)


class StepNames:
    """Checks the step names of a run: each is used once; with those of earlier runs, `known`, there are at most `limit`."""

    def __init__(self, limit: int, known: Collection[str] = ()) -> None:
        self._used, self._all = set[str](), set(known)
        self._closed, self._limit = False, limit

    def take(self, name: str) -> None:
        """Use a name for a step that begins now.

        Raises:
            InvalidRequest: as for `take_for_cursor`; or this is in another step's transaction.
        """
        self.require_step_possible(name)
        self.take_for_cursor(name)

    def take_for_cursor(self, name: str) -> None:
        """Use a name for a cursor.

        Raises:
            InvalidRequest: the name was used before, or is not valid; there are too many; or the run is over.
        """
        self._require_going_on(name)
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
        self._require_going_on(name)
        around = _TRANSACTION.get()
        if around and around.is_open and around.run is self:
            raise InvalidRequest(
                f"step {name}",
                f"is in the transaction of step {around.step}; do it before, or after",
            )

    def _require_going_on(self, name: str) -> None:
        if self._closed:
            raise InvalidRequest(
                f"step {name}", "comes after the end of the job's function outside"
            )

    @contextmanager
    def in_transaction_of(self, name: str) -> Iterator[None]:
        """Mark a block as work in the transaction of the step `name`: in it, no other step of this run may begin."""
        before, now = _TRANSACTION.get(), _Transaction(self, name)
        _TRANSACTION.set(now)
        try:
            yield
        finally:
            now.is_open = False
            _TRANSACTION.set(before)

    def close(self) -> None:
        """The run is over: from now on no name is taken."""
        self._closed = True

"""A kind of job, and what its handler is given."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from ledgerq.store.audit import Origin
from ledgerq.wire.payload import Payload

P = TypeVar("P", bound=Payload)


@dataclass(frozen=True, slots=True)
class JobContext:
    """One job in its transaction.

    A handler adds and changes rows through `session`, flushes when it needs an id, and never
    commits: the flow does, after the handler returns. It takes the time from `now`.
    """

    session: AsyncSession
    origin: Origin
    now: datetime


@dataclass(frozen=True, slots=True)
class Kind(Generic[P]):
    """A payload and what is done with it. `timeout` is seconds; None takes the worker's.

    Jobs of a kind that is `batchable` may share a transaction, in which they are handled one after another:
    for handlers that do nothing but use the database. `handle_many`, where there is one, does it for
    many at once, and answers with their results in the same order; `handle` is the reference.
    """

    payload: type[P]
    handle: Callable[[JobContext, P], Awaitable[Any]]
    timeout: float | None = None
    handle_many: Callable[[Sequence[JobContext], Sequence[P]], Awaitable[Sequence[Any]]] | None = (
        None
    )

    batchable: bool = False
    queue: str | None = None  # None is the process's default queue

    @property
    def name(self) -> str:
        """The name on the wire."""
        return self.payload.kind

    @property
    def is_batchable(self) -> bool:
        """True if its jobs may share a transaction."""
        return self.batchable or self.handle_many is not None

"""A kind of job: its payload, its handler, and what the handler is given.

```python
@job
async def close_order(context: JobContext, close: CloseOrder) -> int:
    order = await context.session.get_one(Order, close.order_id, with_for_update=True)
    order.status = "closed"
    return order.number
```
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, overload

from typing_extensions import TypeVar

from ledgerq import staging
from ledgerq.database.session import LedgerqSession
from ledgerq.errors import DefinitionError
from ledgerq.staging import StagedJob
from ledgerq.store import audit, unique_keys
from ledgerq.store.audit import Change, Origin
from ledgerq.wire.payload import Payload, R, require_queue
from ledgerq.wire.request import Unique
from ledgerq.wire.signature import read_handler, read_handler_of_many

P = TypeVar("P", bound=Payload[Any])
S = TypeVar("S", default=Any)  # what App(resources=…) yields

_ONE_AT_A_TIME = timedelta(hours=1)  # a part that was lost does not keep the others for longer


@dataclass(frozen=True, slots=True)
class JobContext(Generic[S]):
    """One job in its transaction.

    A handler adds and changes rows through `session`, flushes when it needs an id, and never commits: ledgerq does, after
    the handler has returned. If the handler raises, everything is rolled back. `origin` says who asked for the job.
    `now` is the time to use. `resources` is what the application's `resources=` yields.

    ```python
    async def close_order(context: JobContext, close: CloseOrder) -> int:
        order = await context.session.get_one(Order, close.order_id, with_for_update=True)
        await context.stage(SendInvoice(order_id=order.id))  # born if this job commits
        return order.number
    ```
    """

    session: LedgerqSession
    origin: Origin
    now: datetime
    resources: S = field(default=None, repr=False)  # type: ignore[assignment]

    async def stage(
        self,
        payload: Payload[Any],
        *,
        job_id: str | None = None,
        delay: timedelta = timedelta(0),
        ordering_key: str | None = None,
        unique: Unique | None = None,
        queue: str | None = None,
    ) -> StagedJob:
        """Stage a job that exists if, and only if, this one commits. Actor and trace go on with it.

        Arguments and errors are those of `ledgerq.staging.stage`.
        """
        return await staging.stage(
            self.session,
            payload,
            job_id=job_id,
            delay=delay,
            actor=self.origin.actor,
            trace_id=self.origin.trace_id or None,
            ordering_key=ordering_key,
            unique=unique,
            queue=queue,
        )

    async def record(self, *changes: Change) -> None:
        """Write audit entries that commit with this job.

        Raises:
            Refused: the log can't keep one of them; says which part.
        """
        await audit.record(self.session, self.origin, *changes)

    async def go_on(self, payload: Payload[Any], *, more: bool) -> str | None:
        """For work that comes in parts, one transaction each: if there is more, stage the same job again.

        Answers with the id of the job that goes on. However many jobs begin, one at a time goes on: the id may be that of
        another one's next part.
        """
        if self.origin.job_id is not None:
            await unique_keys.release(self.session, [self.origin.job_id])  # this part has come
        if not more:
            return None
        return (await self.stage(payload, unique=Unique("next", _ONE_AT_A_TIME))).job_id


Handler = Callable[[JobContext[Any], P], Awaitable[R]]
HandlerOfMany = Callable[[Sequence[JobContext[Any]], Sequence[P]], Awaitable[Sequence[R]]]


@dataclass(frozen=True, slots=True)
class Kind(Generic[P, R]):
    """A payload and what is done with it. `@job` makes one of a handler; calling it calls the handler.

    ```python
    number = await close_order(context, CloseOrder(order_id=order.id))
    ```

    Args:
        payload: the class of what the job carries.
        handle: does the work of one job, and answers with what JSON can carry.
        timeout: the longest run in seconds; None takes the worker's.
        handle_many: does the work of many at once, with their results in the same order; `handle` is the reference.
        shares_commit: jobs of the kind may share a transaction, in which they are handled one after another. It is for
            handlers that do nothing but use the database. A kind with `handle_many` always may.
        queue: where its jobs wait; None is the payload's, or else the process's default queue.

    Raises:
        DefinitionError: the payload names another queue, it can be no queue, or the timeout is no number of seconds.
    """

    payload: type[P]
    handle: Callable[[JobContext[Any], P], Awaitable[R]]
    timeout: float | None = None
    handle_many: (
        Callable[[Sequence[JobContext[Any]], Sequence[P]], Awaitable[Sequence[R]]] | None
    ) = None
    shares_commit: bool = False
    queue: str | None = None

    def __post_init__(self) -> None:
        """The payload says where its jobs wait: producers import nothing else."""
        said = self.payload.queue
        if self.queue is not None and said not in {None, self.queue}:
            raise DefinitionError(
                f"{self.payload.__qualname__}(queue=)",
                f"is {said!r}, and its job says {self.queue!r}",
                "name the queue in one place",
            )
        if self.timeout is not None and not self.timeout > 0:
            raise DefinitionError(
                f"{self.payload.__qualname__}: timeout", "must be seconds, more than 0", "set it so"
            )
        require_queue(f"{self.payload.__qualname__}: job(queue=)", self.queue)
        if self.queue is not None:
            self.payload.queue = self.queue
        object.__setattr__(self, "queue", self.payload.queue)

    @property
    def name(self) -> str:
        """The name on the wire."""
        return self.payload.kind

    @property
    def is_batchable(self) -> bool:
        """True if its jobs may share a transaction."""
        return self.shares_commit or self.handle_many is not None

    async def __call__(self, context: JobContext[Any], payload: P) -> R:
        """What the handler answers, as for a function that was not decorated."""
        return await self.handle(context, payload)

    def many(self, handler: HandlerOfMany[P, R]) -> HandlerOfMany[P, R]:
        """Take a function that does the work of many jobs at once, in one transaction; a decorator.

        ```python
        @close_order.many
        async def close_orders(contexts: Sequence[JobContext], closes: Sequence[CloseOrder]) -> list[int]:
            return [await close_order(*each) for each in zip(contexts, closes)]
        ```

        Raises:
            DefinitionError: its annotations don't fit the kind's, or there is one already.
        """
        if self.handle_many is not None:
            raise DefinitionError(
                f"{self.name}.many", "there is a function for many already", "remove one of them"
            )
        read_handler_of_many(handler, JobContext, self.payload)
        object.__setattr__(self, "handle_many", handler)
        return handler


@overload
def job(handler: Callable[[JobContext[S], P], Awaitable[R]], /) -> Kind[P, R]: ...


@overload
def job(
    *, timeout: float | None = None, shares_commit: bool = False, queue: str | None = None
) -> Callable[[Callable[[JobContext[S], P], Awaitable[R]]], Kind[P, R]]: ...


def job(
    handler: Callable[[JobContext[Any], P], Awaitable[R]] | None = None,
    /,
    *,
    timeout: float | None = None,
    shares_commit: bool = False,
    queue: str | None = None,
) -> Any:
    """Make a kind of job of its handler. Payload and result are read off the annotations; nothing is registered.

    ```python
    @job(timeout=30, shares_commit=True)
    async def close_order(context: JobContext, close: CloseOrder) -> int:
        order = await context.session.get_one(Order, close.order_id)
        order.status = "closed"
        return order.number
    ```

    Args:
        handler: a coroutine function of a `JobContext` and a payload.
        timeout: as in `Kind`.
        shares_commit: as in `Kind`.
        queue: as in `Kind`.

    Raises:
        DefinitionError: the handler can't be a job as it is written; says what to change.
    """

    def made(of: Callable[[JobContext[Any], P], Awaitable[R]]) -> Kind[P, R]:
        payload = read_handler(of, JobContext)
        return Kind(payload, of, timeout=timeout, shares_commit=shares_commit, queue=queue)

    return made if handler is None else made(handler)

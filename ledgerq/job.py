"""A kind of job: its payload, its handler, and the context that the handler gets.

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

_ONE_AT_A_TIME = timedelta(hours=1)  # after a next part was lost, how long go_on stages no other


@dataclass(frozen=True, slots=True)
class JobContext(Generic[S]):
    """What a handler gets beside the payload: the job's transaction, its origin, the time, the resources.

    A handler adds and changes rows through `session`, flushes when it needs an id, and never commits: ledgerq does, after
    the handler has returned. If the handler raises, everything is rolled back. `origin` says who asked for the job.
    `now` is the UTC time at which the handling began; use it in place of the clock. `resources` is what
    `App(resources=)` yields.

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
        """Stage a job that exists if, and only if, this job commits. It gets this job's actor and trace id.

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
            Refused: a change can't be stored in the audit log; the error names the field.
        """
        await audit.record(self.session, self.origin, *changes)

    async def go_on(self, payload: Payload[Any], *, more: bool) -> str | None:
        """For work in parts, each in its own transaction: if there is `more`, stage `payload` as the next part.

        Returns the id of the job that does the next part; None if there is no more. One next part of a kind waits at a
        time: if another job has staged one already, nothing is staged, and the id is that part's.
        """
        if self.origin.job_id is not None:
            await unique_keys.release(self.session, [self.origin.job_id])  # this part waits no more
        if not more:
            return None
        return (await self.stage(payload, unique=Unique("next", _ONE_AT_A_TIME))).job_id


Handler = Callable[[JobContext[Any], P], Awaitable[R]]
HandlerOfMany = Callable[[Sequence[JobContext[Any]], Sequence[P]], Awaitable[Sequence[R]]]


@dataclass(frozen=True, slots=True)
class Kind(Generic[P, R]):
    """A kind of job: its payload, its handler, how its jobs run. `@job` makes a Kind; calling it calls the handler.

    ```python
    number = await close_order(context, CloseOrder(order_id=order.id))
    ```

    Args:
        payload: the class of the payload.
        handle: the handler: does the work of one job and returns a value that JSON can carry.
        timeout: the longest run in seconds; None takes the worker's LEDGERQ_JOB_TIMEOUT.
        handle_many: does the work of many jobs at once and returns their results in the same order; `handle` still does
            the work of a job that is alone in its transaction.
        shares_commit: True lets jobs of the kind share a transaction, in which they run one after another. Only for
            handlers that do nothing but use the database. Jobs of a kind with `handle_many` always share.
        queue: the queue of the kind's jobs; None is the queue of the payload's class, or else the default queue.

    Raises:
        DefinitionError: the payload's class names another queue, the name is not valid, or the timeout is not above 0.
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
        """Tell the payload's class the queue too: producers import only that class."""
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
        """Call the handler, as if it were not decorated."""
        return await self.handle(context, payload)

    def many(self, handler: HandlerOfMany[P, R]) -> HandlerOfMany[P, R]:
        """Decorate the function that does the work of many jobs of this kind at once, in one transaction.

        ```python
        @close_order.many
        async def close_orders(contexts: Sequence[JobContext], closes: Sequence[CloseOrder]) -> list[int]:
            return [await close_order(*each) for each in zip(contexts, closes)]
        ```

        Raises:
            DefinitionError: its annotations don't fit the kind's, or the kind has such a function already.
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
    """Decorate a handler: make a `Kind` of it, by its annotations. A worker runs the kind if `App(jobs=)` lists it.

    ```python
    @job(timeout=30, shares_commit=True)
    async def close_order(context: JobContext, close: CloseOrder) -> int:
        order = await context.session.get_one(Order, close.order_id)
        order.status = "closed"
        return order.number
    ```

    Args:
        handler: a coroutine function that takes a `JobContext` and a payload.
        timeout: as in `Kind`.
        shares_commit: as in `Kind`.
        queue: as in `Kind`.

    Raises:
        DefinitionError: the handler can't be a job as it is written; the error says what to change.
    """

    def made(of: Callable[[JobContext[Any], P], Awaitable[R]]) -> Kind[P, R]:
        payload = read_handler(of, JobContext)
        return Kind(payload, of, timeout=timeout, shares_commit=shares_commit, queue=queue)

    return made if handler is None else made(handler)

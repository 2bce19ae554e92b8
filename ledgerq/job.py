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
from dataclasses import dataclass
from typing import Any, Generic, Literal, overload

from typing_extensions import TypeVar

from ledgerq.context import JobContext, S
from ledgerq.errors import DefinitionError
from ledgerq.outside import Outside
from ledgerq.wire.payload import Payload, R, require_queue
from ledgerq.wire.payload_fields import require_no_secret
from ledgerq.wire.signature import read_handler, read_handler_of_many, read_outside

__all__ = ["Handler", "HandlerOfMany", "JobContext", "Kind", "job"]

P = TypeVar("P", bound=Payload[Any])
O = TypeVar("O")  # noqa: E741 - the answer of an outside function

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
        outside: runs before the transaction, and waits for work outside of the database; the handler's third argument is
            its answer. Jobs of such a kind share no transaction.

    Raises:
        DefinitionError: the payload's class names another queue, the queue's name is not valid, the timeout is not above
            0, or a kind with `outside` shares commits.
    """

    payload: type[P]
    handle: Callable[..., Awaitable[R]]
    timeout: float | None = None
    handle_many: (
        Callable[[Sequence[JobContext[Any]], Sequence[P]], Awaitable[Sequence[R]]] | None
    ) = None
    shares_commit: bool = False
    queue: str | None = None
    outside: Callable[[Outside[Any], P], Any] | None = None

    def __post_init__(self) -> None:
        """Tell the payload's class the queue too: producers import only that class."""
        said = self.payload.queue
        if self.queue is not None and said not in {None, self.queue}:
            raise DefinitionError(
                f"{self.payload.__qualname__}(queue=)",
                f"is {said!r}, and its job says {self.queue!r}",
                "name the queue in one place",
            )
        if self.timeout is not None and not _is_seconds(self.timeout):
            raise DefinitionError(
                f"{self.payload.__qualname__}: timeout",
                "must be seconds, more than 0",
                "give a number, as in timeout=30",
            )
        if self.outside is not None and self.is_batchable:
            raise DefinitionError(
                f"{self.payload.__qualname__}: outside",
                "its jobs can't share a commit: each waits by itself",
                "leave out shares_commit= and the function for many",
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

    async def __call__(self, context: JobContext[Any], payload: P, *answer: Any) -> R:
        """Call the handler, as if it were not decorated."""
        return await self.handle(context, payload, *answer)

    def many(self, handler: HandlerOfMany[P, R]) -> HandlerOfMany[P, R]:
        """Decorate the function that does the work of many jobs of this kind at once, in one transaction.

        ```python
        @close_order.many
        async def close_orders(contexts: Sequence[JobContext], closes: Sequence[CloseOrder]) -> list[int]:
            return [await close_order(*each) for each in zip(contexts, closes)]
        ```

        Raises:
            DefinitionError: the function's annotations don't fit the kind, the kind has such a function already, or the
                kind has an `outside` function.
        """
        if self.outside is not None:
            raise DefinitionError(
                f"{self.name}.many",
                "its jobs wait outside of the database, each by itself",
                "remove the function for many, or outside=",
            )
        if self.handle_many is not None:
            raise DefinitionError(
                f"{self.name}.many", "there is a function for many already", "remove one of them"
            )
        read_handler_of_many(handler, JobContext, self.payload)
        object.__setattr__(self, "handle_many", handler)
        return handler


def _is_seconds(timeout: object) -> bool:
    return isinstance(timeout, int | float) and not isinstance(timeout, bool) and timeout > 0


@overload
def job(handler: Callable[[JobContext[S], P], Awaitable[R]], /) -> Kind[P, R]: ...


@overload
def job(
    *, timeout: float | None = None, shares_commit: bool = False, queue: str | None = None
) -> Callable[[Callable[[JobContext[S], P], Awaitable[R]]], Kind[P, R]]: ...


@overload
def job(
    *,
    outside: Callable[[Outside[S], P], Awaitable[O]],
    timeout: float | None = None,
    queue: str | None = None,
) -> Callable[[Callable[[JobContext[S], P, O], Awaitable[R]]], Kind[P, R]]: ...


@overload
def job(
    *,
    outside: Callable[[Outside[S], P], O],
    in_thread: Literal[True],
    timeout: float | None = None,
    queue: str | None = None,
) -> Callable[[Callable[[JobContext[S], P, O], Awaitable[R]]], Kind[P, R]]: ...


def job(
    handler: Callable[..., Awaitable[R]] | None = None,
    /,
    *,
    timeout: float | None = None,
    shares_commit: bool = False,
    queue: str | None = None,
    outside: Callable[[Outside[Any], Any], Any] | None = None,
    in_thread: bool = False,
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
        timeout: the longest run in seconds; None takes the worker's LEDGERQ_JOB_TIMEOUT.
        shares_commit: True lets jobs of the kind share a transaction; only for handlers that just use the database.
        queue: the queue of the kind's jobs; None is the queue of the payload's class, or else the default queue.
        outside: a coroutine function of an `Outside` and the payload. It is called before the transaction, for work outside
            of the database; the handler gets its answer as third argument.
        in_thread: True if `outside` is a plain `def`, which runs in a thread. It can await nothing, so it takes no steps.

    Raises:
        DefinitionError: the handler can't be a job as it is written; the error says what to change.
    """

    def made(of: Callable[..., Awaitable[R]]) -> Kind[Any, R]:
        if isinstance(of, Kind):
            raise DefinitionError(of.name, "is a job already", "put @job above the function once")
        before = read_outside(outside, Outside, in_thread=in_thread) if outside else None
        payload = read_handler(of, JobContext, before)
        require_no_secret(payload)
        return Kind(
            payload, of, timeout=timeout, shares_commit=shares_commit, queue=queue, outside=outside
        )

    return made if handler is None else made(handler)

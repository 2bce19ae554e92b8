"""The one flush-then-commit. Nothing else in the code base commits, so nothing commits half a job."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Literal, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from ledgerq.database.engine import Sessions
from ledgerq.database.session import LedgerqSession
from ledgerq.database.sqlite import WRITES
from ledgerq.database.sqlstate import FOREIGN, connecting, translated
from ledgerq.errors import Deadlock, SerializationFailure

T = TypeVar("T")
Isolation = Literal["REPEATABLE READ", "SERIALIZABLE"]


@asynccontextmanager
async def transaction(
    sessions: Sessions, *, isolation: Isolation | None = None
) -> AsyncIterator[LedgerqSession]:
    """One transaction: all of the block's writes, or none. At READ COMMITTED unless said otherwise.

    ```python
    async with transaction(sessions) as session:
        session.add(order)
        await stage(session, CloseOrder(order_id=order.id))
    ```

    When the block ends, what it added is flushed and committed. When it raises, anything, a
    cancellation included, everything is rolled back and the exception goes on; an error of the
    database goes on as ours, where we have one (ledgerq.errors).

    A cancellation never cuts a commit in half: the commit is waited for, and what it did is what
    this reports. If it committed, the block ends normally, though it was cancelled; the request
    to stop stays visible in `asyncio.current_task().cancelling()`. If it failed, its error is raised.
    One that comes in the middle of a rollback goes on in place of the error.
    """
    session = sessions()
    try:
        with connecting():
            level = {"isolation_level": isolation} if isolation else {}
            options = {WRITES: True, **level}
            session.opened = await session.connection(execution_options=options)
        with translated():
            yield session
            await session.flush()
    except BaseException as error:
        cancelled = await _to_its_end(_abandon(session))
        if cancelled and isinstance(
            error, Exception
        ):  # else who catches the error goes on for ever
            raise asyncio.CancelledError from error
        raise
    with translated():
        await _to_its_end(_commit_and_close(session))


async def in_transaction(
    sessions: Sessions,
    work: Callable[[LedgerqSession], Awaitable[T]],
    *,
    attempts: int = 4,
    isolation: Isolation | None = None,
) -> T:
    """Do the work in a transaction; do all of it again if another transaction came first.

    ```python
    async def close(session: LedgerqSession) -> None:
        (await session.get_one(Order, order.id)).status = "closed"

    await in_transaction(sessions, close, isolation="SERIALIZABLE")
    ```

    Serialization failures and deadlocks are tried again, with full jitter, in a new session: so
    `work` must not keep what it read in an earlier try, nor do anything that can't be rolled back.

    Raises:
        SerializationFailure, Deadlock: in each of the attempts.
    """
    cancellations = _cancellations()
    for attempt in range(1, attempts):
        try:
            async with transaction(sessions, isolation=isolation) as session:
                return await work(session)
        except (SerializationFailure, Deadlock) as error:
            if getattr(error, FOREIGN, False):
                raise  # another database's
            if _cancellations() > cancellations:  # one came while it would commit
                raise asyncio.CancelledError from error
            await asyncio.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 - spreads load
    async with transaction(sessions, isolation=isolation) as session:
        return await work(session)


@asynccontextmanager
async def savepoint(session: AsyncSession) -> AsyncIterator[None]:
    """A part that may fail alone: its writes are rolled back, the transaction around it goes on.

    ```python
    with suppress(AlreadyExists):
        async with savepoint(session):
            session.add(order)
            await session.flush()
    ```
    """
    with translated():
        async with session.begin_nested():
            yield


async def _commit_and_close(session: LedgerqSession) -> None:
    try:
        await session.commit()
    except BaseException:
        await _abandon(session)
        raise
    await session.close()


async def _abandon(session: LedgerqSession) -> None:
    """Roll back and give the connection back; one that can't roll back is closed, and its writes are gone."""
    try:
        await session.close()
    except Exception:  # noqa: BLE001 - whatever is wrong with it, it must not be lost to the pool
        connection = session.opened
        if connection is not None and not connection.closed:
            with suppress(Exception):
                await connection.invalidate()
            with suppress(Exception):
                await connection.close()


async def _to_its_end(work: Coroutine[None, None, None]) -> bool:
    """Await `work` to its end, however often this task is cancelled meanwhile; True if it was."""
    task, cancelled = asyncio.ensure_future(work), False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True  # the waiting, not the work: nobody else holds the task
    task.result()
    return cancelled


def _cancellations() -> int:
    task = asyncio.current_task()
    return task.cancelling() if task else 0

"""The one flush-then-commit. Nothing else in the code base commits, so nothing commits half a job."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Literal, TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from db.engine import Sessions
from db.errors import Deadlock, SerializationFailure
from db.sqlite import WRITES
from db.translate import connecting, translated

T = TypeVar("T")
Isolation = Literal["REPEATABLE READ", "SERIALIZABLE"]


@asynccontextmanager
async def transaction(
    sessions: Sessions, *, isolation: Isolation | None = None
) -> AsyncIterator[AsyncSession]:
    """One transaction: all of the block's writes, or none. At READ COMMITTED unless said otherwise.

    When the block ends, what it added is flushed and committed. When it raises, anything, a
    cancellation included, everything is rolled back and the exception goes on; an error of the
    database goes on as ours, where we have one (db.errors).

    A cancellation never cuts a commit in half: the commit is waited for, and what it did is what
    this reports. If it committed, the block ends normally, though it was cancelled; the request
    to stop stays visible in `asyncio.current_task().cancelling()`. If it failed, its error is raised.
    """
    session = sessions()
    try:
        with connecting():
            level = {"isolation_level": isolation} if isolation else {}
            await session.connection(execution_options={WRITES: True, **level})
        with translated():
            yield session
            await session.flush()
    except BaseException:
        with suppress(SQLAlchemyError):  # a connection that can't roll back is gone, its writes too
            await _to_its_end(session.close())  # which rolls back
        raise
    with translated():
        await _to_its_end(_commit_and_close(session))


async def in_transaction(
    sessions: Sessions,
    work: Callable[[AsyncSession], Awaitable[T]],
    *,
    attempts: int = 4,
    isolation: Isolation | None = None,
) -> T:
    """Do the work in a transaction; do all of it again if another transaction came first.

    Serialization failures and deadlocks are tried again, with full jitter, in a new session: so
    `work` must not keep what it read in an earlier try, nor do anything that can't be rolled back.

    Raises:
        SerializationFailure, Deadlock: in each of the attempts.
    """
    for attempt in range(1, attempts):
        try:
            async with transaction(sessions, isolation=isolation) as session:
                return await work(session)
        except (SerializationFailure, Deadlock):
            await asyncio.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 - spreads load
    async with transaction(sessions, isolation=isolation) as session:
        return await work(session)


@asynccontextmanager
async def savepoint(session: AsyncSession) -> AsyncIterator[None]:
    """A part that may fail alone: its writes are rolled back, the transaction around it goes on."""
    with translated():
        async with session.begin_nested():
            yield


async def _commit_and_close(session: AsyncSession) -> None:
    try:
        await session.commit()
    finally:
        await session.close()


async def _to_its_end(work: Coroutine[None, None, None]) -> None:
    """Await `work` to its end, however often this task is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            continue  # of the waiting, not of the work: nobody else holds the task
    task.result()

"""Transactions. No other module commits, so nothing can commit half a job."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Literal, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from ledgerq.database.engine import Sessions
from ledgerq.database.session import LedgerqSession
from ledgerq.database.sqlite import WRITES
from ledgerq.database.sqlstate import FOREIGN, connecting, translated
from ledgerq.errors import Deadlock, SerializationFailure
from ledgerq.runtime.cancellation import cancellations, to_its_end

T = TypeVar("T")
Isolation = Literal["REPEATABLE READ", "SERIALIZABLE"]


@asynccontextmanager
async def transaction(
    sessions: Sessions, *, isolation: Isolation | None = None
) -> AsyncIterator[LedgerqSession]:
    """One transaction: all of the block's writes are committed, or none. READ COMMITTED, unless `isolation` is given.

    ```python
    async with transaction(sessions) as session:
        session.add(order)
        await stage(session, CloseOrder(order_id=order.id))
    ```

    When the block ends, the session is flushed and committed. When the block raises, or is cancelled, everything is
    rolled back and the exception goes on; a database error goes on as one of `ledgerq.errors`, if there is one for it.

    A cancellation during the commit waits for the commit's end. If the commit succeeded, the block ends normally,
    although the task was cancelled; `asyncio.current_task().cancelling()` still shows the request. If the commit
    failed, its error is raised. A cancellation during a rollback is raised in place of the error.
    """
    session = sessions()
    try:
        with connecting():
            level = {"isolation_level": isolation} if isolation else {}
            options = {WRITES: True, **level}
            session.opened = await session.connection(execution_options=options)
        with translated():
            yield session
            # a flush refuses a task that still uses the session; to flush nothing costs more than to look
            if session._user or session.new or session.dirty or session.deleted:  # noqa: SLF001 - ours
                await session.flush()
    except BaseException as error:
        _, cancelled = await to_its_end(_abandon(session))
        # if the error went on, a caller that catches it would never learn of the cancellation
        if cancelled and isinstance(error, Exception):
            raise asyncio.CancelledError from error
        raise
    with translated():
        await to_its_end(_commit_and_close(session))


@asynccontextmanager
async def reading(sessions: Sessions) -> AsyncIterator[LedgerqSession]:
    """A session for reading, with its connection: what goes wrong while it is opened is `Unavailable` or `Disconnected`."""
    async with sessions() as session:
        with connecting():
            await session.connection()
        with translated():
            yield session


async def in_transaction(
    sessions: Sessions,
    work: Callable[[LedgerqSession], Awaitable[T]],
    *,
    attempts: int = 4,
    isolation: Isolation | None = None,
) -> T:
    """Do the work in a transaction, commit it, return its result; do all of it again if another transaction made it fail.

    ```python
    async def close(session: LedgerqSession) -> None:
        (await session.get_one(Order, order.id)).status = "closed"

    await in_transaction(sessions, close, isolation="SERIALIZABLE")
    ```

    After a serialization failure or a deadlock, `work` runs again in a new session, after a random pause. So `work`
    must not use what it read in an earlier attempt, nor do anything that can't be rolled back.

    Raises:
        SerializationFailure, Deadlock: the last of the `attempts` failed by it.
    """
    before = cancellations()
    for attempt in range(1, attempts):
        try:
            async with transaction(sessions, isolation=isolation) as session:
                return await work(session)
        except (SerializationFailure, Deadlock) as error:
            if getattr(error, FOREIGN, False):
                raise  # an error of another database
            if cancellations() > before:  # the task was cancelled during the commit
                raise asyncio.CancelledError from error
            await asyncio.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 - spreads load
    async with transaction(sessions, isolation=isolation) as session:
        return await work(session)


@asynccontextmanager
async def savepoint(session: AsyncSession) -> AsyncIterator[None]:
    """A part of a transaction that may fail alone: if the block raises, only the block's writes are rolled back.

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
    if session.in_transaction():  # a listener of the service has begun another one
        await session.close()
    else:
        session.sync_session.close()  # nothing to send: no greenlet is needed


async def _abandon(session: LedgerqSession) -> None:
    """Roll back and give the connection back to the pool; if that fails, close it, which drops its writes too."""
    try:
        await session.close()
    except Exception:  # noqa: BLE001 - the pool must not lose the connection, whatever the error is
        connection = session.opened
        if connection is not None and not connection.closed:
            with suppress(Exception):
                await connection.invalidate()
            with suppress(Exception):
                await connection.close()

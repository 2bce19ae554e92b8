"""The one flush-then-commit. Nothing else in the code base commits, so nothing commits half a job."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from db.engine import Sessions
from db.sqlite import WRITES


@asynccontextmanager
async def transaction(sessions: Sessions) -> AsyncIterator[AsyncSession]:
    """One transaction: all of the block's writes, or none.

    When the block ends, what it added is flushed and committed. When it raises, anything, a
    cancellation included, everything is rolled back and the exception goes on.

    A cancellation never cuts a commit in half: the commit is waited for, and what it did is what
    this reports. If it committed, the block ends normally, though it was cancelled; the request
    to stop stays visible in `asyncio.current_task().cancelling()`. If it failed, its error is raised.
    """
    session = sessions()
    try:
        if session.get_bind().dialect.name == "sqlite":
            await session.connection(execution_options={WRITES: True})
        yield session
        await session.flush()
    except BaseException:
        with suppress(SQLAlchemyError):  # a connection that can't roll back is gone, its writes too
            await _to_its_end(session.close())  # which rolls back
        raise
    await _to_its_end(_commit_and_close(session))


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

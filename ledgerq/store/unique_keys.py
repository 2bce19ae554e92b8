"""Unique keys: for as long as a window lasts, a job under the same key is the one that has it already."""

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import delete, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from ledgerq.bounds import MAX_PRUNED, chunks, require_limit, storable
from ledgerq.columns import clock, utc_now
from ledgerq.store.tables import UniqueKey


async def take(
    session: AsyncSession, kind: str, key: str, job_id: str, *, window: timedelta
) -> str:
    """Take the key for this job, or find the job that has it; answers with the id of either.

    The window begins now, by the database's clock. A second taker waits until the first one's
    transaction has ended.
    """
    on_sqlite = session.get_bind().dialect.name == "sqlite"
    insert = (sqlite.insert if on_sqlite else postgresql.insert)(UniqueKey)
    values = insert.values(kind=kind, key=key, job_id=job_id, expires_at=clock(window))
    taken = await session.scalar(
        values.on_conflict_do_update(
            index_elements=["kind", "key"],
            set_={"job_id": values.excluded.job_id, "expires_at": values.excluded.expires_at},
            where=col(UniqueKey.expires_at) <= clock(),
        ).returning(col(UniqueKey.job_id))
    )
    if taken is not None:
        return str(taken)
    holder = select(col(UniqueKey.job_id)).where(
        col(UniqueKey.kind) == kind, col(UniqueKey.key) == key
    )
    return str((await session.scalars(holder)).one())


async def release(session: AsyncSession, job_ids: Collection[str]) -> None:
    """The keys of these jobs are free again: they were cancelled or discarded, so none of them counts."""
    for some in chunks(storable(job_ids)):
        await session.execute(
            delete(UniqueKey).where(col(UniqueKey.job_id).in_(some)),
            execution_options={"synchronize_session": False},
        )


async def forget_expired(session: AsyncSession, *, limit: int) -> int:
    """Remove keys whose window is over, so many at most, the first to end first. Answers with how many."""
    require_limit(limit, MAX_PRUNED)
    old = (
        select(col(UniqueKey.kind), col(UniqueKey.key))
        .where(col(UniqueKey.expires_at) <= utc_now())
        .order_by(col(UniqueKey.expires_at))
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("old", nesting=True)  # a statement that begins with WITH has no rowcount on SQLite
    )
    both = tuple_(col(UniqueKey.kind), col(UniqueKey.key))
    gone = await session.execute(
        delete(UniqueKey).where(both.in_(select(old.c.kind, old.c.key))),
        execution_options={"synchronize_session": False},
    )
    return int(gone.rowcount)  # type: ignore[attr-defined]

"""Unique keys: a job holds its key while the key's window lasts; staging under the key then yields that job."""

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
    """Take the key for this job, unless another job holds it. Returns the id of the job that holds the key now.

    The window begins now, by the database's clock. If another transaction is taking the key, this call waits until that
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
    """Free the keys that these jobs hold, for example because the jobs were cancelled or discarded."""
    for some in chunks(storable(job_ids)):
        await session.execute(
            delete(UniqueKey).where(col(UniqueKey.job_id).in_(some)),
            execution_options={"synchronize_session": False},
        )


async def forget_expired(session: AsyncSession, *, limit: int) -> int:
    """Delete at most `limit` keys whose window is over, the earliest first. Returns how many were deleted."""
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

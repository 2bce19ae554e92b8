"""Unique keys: for as long as a window lasts, a job under the same key is the one that has it already."""

from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from db.models import UniqueKey


async def take(
    session: AsyncSession, kind: str, key: str, job_id: str, *, now: datetime, window: timedelta
) -> str:
    """Take the key for this job, or find the job that has it; answers with the id of either.

    A second taker waits until the first one's transaction has ended.
    """
    on_sqlite = session.get_bind().dialect.name == "sqlite"
    insert = (sqlite.insert if on_sqlite else postgresql.insert)(UniqueKey)
    values = insert.values(kind=kind, key=key, job_id=job_id, expires_at=now + window)
    taken = await session.scalar(
        values.on_conflict_do_update(
            index_elements=["kind", "key"],
            set_={"job_id": values.excluded.job_id, "expires_at": values.excluded.expires_at},
            where=col(UniqueKey.expires_at) <= now,
        ).returning(col(UniqueKey.job_id))
    )
    if taken is not None:
        return str(taken)
    holder = select(col(UniqueKey.job_id)).where(
        col(UniqueKey.kind) == kind, col(UniqueKey.key) == key
    )
    return str((await session.scalars(holder)).one())


async def forget_expired(session: AsyncSession, now: datetime) -> int:
    """Remove the keys whose window is over. Answers with how many."""
    gone = await session.execute(
        delete(UniqueKey).where(col(UniqueKey.expires_at) <= now),
        execution_options={"synchronize_session": False},
    )
    return int(gone.rowcount)  # type: ignore[attr-defined]

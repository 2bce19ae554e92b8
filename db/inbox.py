"""The inbox: which jobs are done. Its row commits with the job's effects, so a second delivery finds it."""

from typing import Any

from sqlalchemy import update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from db.models import ProcessedJob


async def remember(session: AsyncSession, job_id: str, kind: str, payload_hash: bytes) -> bool:
    """Note that this transaction does the job; False if one that committed did it already.

    Must be the first statement of the transaction: two deliveries of one job meet here, and the
    second waits until the first one has committed or rolled back.
    """
    dialect = session.get_bind().dialect.name
    insert = sqlite.insert if dialect == "sqlite" else postgresql.insert
    note = insert(ProcessedJob).values(job_id=job_id, kind=kind, payload_hash=payload_hash)
    added = await session.execute(
        note.on_conflict_do_nothing(index_elements=["job_id"]).returning(col(ProcessedJob.job_id))
    )
    return added.first() is not None


async def keep_result(session: AsyncSession, job_id: str, result: Any) -> None:
    """Keep what the job answered, so that a duplicate can answer the same."""
    row = update(ProcessedJob).where(col(ProcessedJob.job_id) == job_id)
    await session.execute(row.values(result=result))


async def recall(session: AsyncSession, job_id: str) -> ProcessedJob:
    """The row of a job that is known to be done."""
    return await session.get_one(ProcessedJob, job_id)


async def find(session: AsyncSession, job_id: str) -> ProcessedJob | None:
    """The row of a job if it is done."""
    return await session.get(ProcessedJob, job_id)

"""The dead letters: jobs that will not be tried again, with the reason and what it takes to replay them."""

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from db.models import DeadLetter


@dataclass(frozen=True, slots=True)
class Letter:
    """What is kept of a buried job. `problems` lists each field at fault and what is wrong with it."""

    job_id: str
    kind: str | None
    payload: Any
    raw: bytes | None
    reason: str
    error: str
    problems: list[dict[str, str]]
    traceback: str | None
    attempt: int


async def bury(session: AsyncSession, letter: Letter) -> None:
    """Keep the letter. A job has one: a redelivered or replayed job that fails again replaces it."""
    dialect = session.get_bind().dialect.name
    insert = sqlite.insert if dialect == "sqlite" else postgresql.insert
    values = asdict(letter)
    changes = {**values, "buried_at": func.now()}
    await session.execute(
        insert(DeadLetter)
        .values(values)
        .on_conflict_do_update(index_elements=["job_id"], set_=changes)
    )


async def find(session: AsyncSession, job_id: str) -> DeadLetter | None:
    """The letter of a job if it is buried."""
    letter = select(DeadLetter).where(col(DeadLetter.job_id) == job_id)
    return (await session.scalars(letter)).one_or_none()


async def count(session: AsyncSession) -> int:
    """How many jobs are buried."""
    return await session.scalar(select(func.count()).select_from(DeadLetter)) or 0

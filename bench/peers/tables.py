"""The jobs' work as a user of SQLModel writes it, on the product's own tables.

Runs in a peer's virtual environment and imports nothing of the product.
"""

import os
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, create_engine
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, sessionmaker
from sqlmodel import Field, SQLModel

from bench.peers import calls
from bench.peers.common import CONCURRENCY

DATABASE_URL = os.environ.get("DATABASE_URL", "")


def _no_list() -> list[str]:
    # not `list`: pydantic asks for the factory's signature at each new row, which takes 0.1 ms for a built-in
    return []


def _no_dict() -> dict[str, Any]:
    return {}


class Task(SQLModel, table=True):
    """The product's task table: what the database fills in is left to it."""

    __tablename__ = "task"

    id: int | None = Field(default=None, primary_key=True, sa_type=BigInteger)
    title: str
    description: str | None = None
    status: str = "todo"
    priority: str = "normal"
    tags: list[str] = Field(default_factory=_no_list, sa_type=JSONB)
    project_id: int = Field(sa_type=BigInteger)
    assignee_id: int | None = Field(default=None, sa_type=BigInteger)
    created_by_id: int | None = Field(default=None, sa_type=BigInteger)
    parent_task_id: int | None = Field(default=None, sa_type=BigInteger)
    due_at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))
    version: int = 1


class AuditLog(SQLModel, table=True):
    """The product's audit table."""

    __tablename__ = "audit_log"

    id: int | None = Field(default=None, primary_key=True, sa_type=BigInteger)
    entity_type: str
    entity_id: str
    action: str
    actor: str = "bench"
    before: dict[str, Any] = Field(default_factory=_no_dict, sa_type=JSONB)
    after: dict[str, Any] = Field(default_factory=_no_dict, sa_type=JSONB)
    job_id: str | None = None
    kind: str | None = None
    attempt: int | None = None


def asynchronous() -> tuple[AsyncEngine, async_sessionmaker[AsyncSession]]:
    """An engine with a connection for each job that runs at once; SQLAlchemy's own pool, if most of them wait for a call."""
    url = DATABASE_URL.replace("postgresql:", "postgresql+asyncpg:")
    pool = {} if calls.SERVICE else {"pool_size": CONCURRENCY, "max_overflow": 0}
    engine = create_async_engine(url, **pool)
    return engine, async_sessionmaker(engine, expire_on_commit=False)


def synchronous() -> sessionmaker[Session]:
    """The same for processes that run one job at a time."""
    url = DATABASE_URL.replace("postgresql:", "postgresql+psycopg:")
    return sessionmaker(create_engine(url, pool_size=1), expire_on_commit=False)


async def add(sessions: async_sessionmaker[AsyncSession], title: str) -> int:
    """A task without an entry, in one transaction."""
    async with sessions() as session:
        task = Task(title=title, project_id=1)
        session.add(task)
        await session.commit()
    return task.id or 0


async def create(sessions: async_sessionmaker[AsyncSession], job_id: str, title: str) -> int:
    """A task and its audit entry, in one transaction."""
    async with sessions() as session:
        task = Task(title=title, project_id=1)
        session.add(task)
        await session.flush()
        session.add(created(task, job_id))
        await session.commit()
    return task.id or 0


async def move(sessions: async_sessionmaker[AsyncSession], job_id: str, task_id: int) -> int:
    """A change of status and its audit entry, in one transaction, the row locked."""
    async with sessions() as session:
        task = await session.get_one(Task, task_id, with_for_update=True)
        session.add(moved(task, job_id))
        await session.commit()
    return task_id


def created(task: Task, job_id: str) -> AuditLog:
    """The entry of a new task."""
    return _entry(task, job_id, action="create", kind="create_task", before={}, after=shown(task))


def shown(task: Task) -> dict[str, Any]:
    """What the entry of a new task says of it."""
    return {
        "title": task.title,
        "status": task.status,
        "priority": task.priority,
        "project_id": task.project_id,
    }


def moved(task: Task, job_id: str) -> AuditLog:
    """Change the status; the entry of it."""
    before = {"status": task.status}
    task.status, task.version = "in_progress", task.version + 1
    after = {"status": task.status}
    return _entry(
        task, job_id, action="update", kind="change_task_status", before=before, after=after
    )


def _entry(
    task: Task,
    job_id: str,
    *,
    action: str,
    kind: str,
    before: dict[str, Any],
    after: dict[str, Any],
) -> AuditLog:
    return AuditLog(
        entity_type="task",
        entity_id=str(task.id),
        action=action,
        before=before,
        after=after,
        job_id=job_id,
        kind=kind,
        attempt=1,
    )

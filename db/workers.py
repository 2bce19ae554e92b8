"""Reads and changes of workers: the people and agents, not the processes. Functions flush and never commit."""

from collections.abc import Sequence

from sqlalchemy import update as update_rows
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from db import lookups, writes
from db.inputs import NewWorker, WorkerChanges
from db.models import Task, Worker
from db.models.soft_delete import INCLUDE_DELETED
from ledgerq import audit
from ledgerq.audit import Action, Change, Origin


async def get(session: AsyncSession, worker_id: int) -> Worker:
    """One worker.

    Raises:
        NotFound: there is no such worker.
    """
    return await lookups.get(session, Worker, worker_id)


async def page(session: AsyncSession, *, after_id: int = 0, limit: int = 50) -> Sequence[Worker]:
    """A page of workers, oldest first. For the next page, pass this page's last id as `after_id`."""
    return await lookups.page(session, Worker, after_id=after_id, limit=limit)


async def create(session: AsyncSession, origin: Origin, new: NewWorker) -> Worker:
    """Add a worker."""
    worker = Worker(**new.model_dump())
    await writes.add(session, origin, worker)
    return worker


async def update(
    session: AsyncSession,
    origin: Origin,
    worker_id: int,
    changes: WorkerChanges,
    *,
    expected_version: int | None = None,
) -> Worker:
    """Change the fields that are set in `changes`.

    Raises:
        NotFound: there is no such worker.
        VersionConflict: the worker is no longer at `expected_version`.
    """
    worker = await writes.lock(session, Worker, worker_id, expected_version)
    await writes.change(session, origin, worker, writes.what_was_set(changes))
    return worker


async def delete(
    session: AsyncSession,
    origin: Origin,
    worker_id: int,
    *,
    expected_version: int | None = None,
) -> None:
    """Delete a worker's row. Its tasks stay, with nobody as assignee or creator (set null).

    Raises:
        NotFound: there is no such worker.
        VersionConflict: the worker is no longer at `expected_version`.
    """
    worker = await writes.lock(session, Worker, worker_id, expected_version)
    left = [
        *await _let_go(session, "assignee_id", worker.id),
        *await _let_go(session, "created_by_id", worker.id),
    ]
    await session.delete(worker)
    await session.flush()
    await audit.record(session, origin, *left, Change.gone(worker, Action.DELETE))


async def _let_go(session: AsyncSession, field: str, worker_id: int) -> list[Change]:
    """Set the field to NULL in all tasks that name the worker, in one statement; returns the changes."""
    column = getattr(Task, field)
    tasks = (
        update_rows(Task)
        .where(column == worker_id)
        .values({field: None, "version": Task.version + 1})
        .returning(col(Task.id))
        .execution_options(**{INCLUDE_DELETED: True})
    )
    ids = sorted(await session.scalars(tasks))
    return [Change("task", i, Action.UPDATE, {field: worker_id}, {field: None}) for i in ids]

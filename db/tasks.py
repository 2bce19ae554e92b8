"""Reading and changing tasks. Functions flush and never commit: the caller's transaction does."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete as delete_rows
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col

from db import audit
from db.audit import Change, Origin
from db.errors import IllegalStatusChange, NotFound
from db.inputs import NewTask
from db.models import LEGAL_MOVES, Action, Task, TaskStatus
from db.translate import translated


async def create(session: AsyncSession, origin: Origin, new: NewTask) -> Task:
    """Add a task.

    Raises:
        MissingReference: its project, parent, assignee or creator does not exist.
    """
    task = Task(**new.model_dump())
    session.add(task)
    with translated():
        await session.flush()
    await audit.record(session, origin, Change.created(task))
    return task


async def change_status(
    session: AsyncSession, origin: Origin, task_id: int, status: TaskStatus
) -> Task:
    """Move a task to another status.

    Raises:
        NotFound: there is no such task, or it is deleted.
        IllegalStatusChange: `LEGAL_MOVES` does not list the move.
    """
    task = await _lock(session, task_id)
    current = task.status
    legal = LEGAL_MOVES[current]
    if status not in legal:
        raise IllegalStatusChange(task_id, current, status, legal)
    task.status = status
    await session.flush()
    change = Change(task, Action.UPDATE, {"status": current}, {"status": status})
    await audit.record(session, origin, change)
    return task


async def delete(
    session: AsyncSession, origin: Origin, task_id: int, *, now: datetime
) -> Sequence[Task]:
    """Mark a task and all its subtasks, however deep, as deleted; the rows stay until they are purged.

    Returns the tasks that it marked; those deleted before keep their time.

    Raises:
        NotFound: there is no such task, or it is deleted.
    """
    await _lock(session, task_id)
    tasks = await _living_subtree(session, task_id)
    for task in tasks:
        task.deleted_at = now
    await session.flush()
    changes = [
        Change(task, Action.DELETE, {"deleted_at": None}, {"deleted_at": now}) for task in tasks
    ]
    await audit.record(session, origin, *changes)
    return tasks


async def purge(
    session: AsyncSession, origin: Origin, *, deleted_before: datetime, limit: int
) -> int:
    """Remove for good at most `limit` tasks that were deleted before then, longest gone first.

    A task whose subtask still exists stays until that one can go too. The audit log keeps what
    each row held. Returns how many went.
    """
    child = aliased(Task)
    old = (
        select(Task)
        .where(col(Task.deleted_at) < deleted_before)
        .where(~select(col(child.id)).where(col(child.parent_task_id) == Task.id).exists())
        .order_by(col(Task.deleted_at), col(Task.id))
        .limit(limit)
        .with_for_update(skip_locked=True, of=Task)
    )
    tasks = (await session.scalars(old)).all()
    await audit.record(session, origin, *map(Change.purged, tasks))
    ids = [task.id for task in tasks]
    await session.execute(delete_rows(Task).where(col(Task.id).in_(ids)))
    return len(ids)


async def _lock(session: AsyncSession, task_id: int) -> Task:
    """The living task, held until the transaction ends: two changes of one task take turns."""
    living = select(Task).where(col(Task.id) == task_id, col(Task.deleted_at).is_(None))
    task = await session.scalar(living.with_for_update())
    if task is None:
        raise NotFound("task", task_id)
    return task


async def _living_subtree(session: AsyncSession, task_id: int) -> Sequence[Task]:
    tree = select(col(Task.id)).where(col(Task.id) == task_id).cte("tree", recursive=True)
    tree = tree.union_all(select(col(Task.id)).join(tree, col(Task.parent_task_id) == tree.c.id))
    living = (
        select(Task)
        .where(col(Task.id).in_(select(tree.c.id)), col(Task.deleted_at).is_(None))
        .order_by(col(Task.id))
        .with_for_update()
    )
    return (await session.scalars(living)).all()

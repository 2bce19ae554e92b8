"""Changes of tasks, one at a time. Functions flush and never commit: the caller's transaction commits.

db.task_reads reads tasks, db.task_bulk changes many at once.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, select
from sqlalchemy import delete as delete_rows
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col

from db import writes
from db.errors import IllegalStatusChange, NotFound
from db.inputs import NewTask, TaskChanges
from db.models import LEGAL_MOVES, Project, Task, TaskStatus
from db.models.soft_delete import INCLUDE_DELETED
from ledgerq import audit
from ledgerq.audit import Action, Change, Origin
from ledgerq.bounds import MAX_IN_A_LIST, is_id, require_limit, require_moment
from ledgerq.errors import MissingReference, Refused

# deleted tasks too; loaded attributes are overwritten with the rows' values
_WITH_DELETED = {INCLUDE_DELETED: True, "populate_existing": True}


async def create(session: AsyncSession, origin: Origin, new: NewTask) -> Task:
    """Add a task.

    Raises:
        MissingReference: the project, parent, assignee or creator does not exist.
        Refused: the parent belongs to another project.
    """
    if new.parent_task_id is not None:
        await require_parents(session, {new.parent_task_id: new.project_id})
    task = Task(**new.model_dump())
    await writes.add(session, origin, task)
    return task


async def update(
    session: AsyncSession,
    origin: Origin,
    task_id: int,
    changes: TaskChanges,
    *,
    expected_version: int | None = None,
) -> Task:
    """Change the fields that are set in `changes`.

    Raises:
        NotFound: there is no such task, or it is deleted.
        VersionConflict: the task is no longer at `expected_version`.
        MissingReference: the new assignee or parent does not exist.
        Refused: the new parent belongs to another project, or is the task itself or a subtask of it.
    """
    task = await writes.lock(session, Task, task_id, expected_version)
    if changes.parent_task_id is not None:
        await _require_no_cycle(session, task, changes.parent_task_id)
    await writes.change(session, origin, task, writes.what_was_set(changes))
    return task


async def change_status(
    session: AsyncSession,
    origin: Origin,
    task_id: int,
    status: TaskStatus,
    *,
    expected_version: int | None = None,
) -> Task:
    """Change a task's status.

    Raises:
        NotFound: there is no such task, or it is deleted.
        VersionConflict: the task is no longer at `expected_version`.
        IllegalStatusChange: `LEGAL_MOVES` does not allow the change.
    """
    task = await writes.lock(session, Task, task_id, expected_version)
    require_legal(task, status)
    await writes.change(session, origin, task, {"status": status})
    return task


async def delete(
    session: AsyncSession,
    origin: Origin,
    task_id: int,
    *,
    now: datetime,
    expected_version: int | None = None,
) -> Sequence[Task]:
    """Mark a task and its subtasks at any depth as deleted (cascade). Returns the marked tasks.

    The rows stay until a purge. Subtasks that were deleted before keep their time of deletion.

    Raises:
        NotFound: there is no such task, or it is deleted.
        VersionConflict: the task is no longer at `expected_version`.
        Refused: `now` has no time zone, or is out of the database's range.
    """
    require_moment("now", now)
    task = await writes.lock(session, Task, task_id, expected_version)
    living = col(Task.deleted_at).is_(None)
    tasks = await _subtree(session, task.id, living)
    # a transaction that adds a subtask locks the parent; a read that waited for that lock may not
    # have seen the new subtask: so read until no more are found
    while len(again := await _subtree(session, task.id, living)) > len(tasks):
        tasks = again
    return await _mark(session, origin, tasks, now, Action.DELETE)


async def restore(session: AsyncSession, origin: Origin, task_id: int) -> Sequence[Task]:
    """Bring back a deleted task and the subtasks that were deleted with it; returns them.

    Raises:
        NotFound: there is no deleted task of this id.
        Refused: the task's parent is deleted.
    """
    if not is_id(task_id):
        raise NotFound("task", task_id)
    row = select(Task).where(col(Task.id) == task_id, col(Task.deleted_at).is_not(None))
    task = await session.scalar(row.with_for_update(), execution_options=_WITH_DELETED)
    if task is None or task.deleted_at is None:
        raise NotFound("task", task_id)
    if task.parent_task_id is not None:
        parents = {task.parent_task_id: task.project_id}
        try:
            await require_parents(session, parents)
        except MissingReference:
            raise Refused(
                "task_id", f"the parent of task {task_id} is deleted; restore it"
            ) from None
    tasks = await _subtree(session, task_id, col(Task.deleted_at) == task.deleted_at)
    return await _mark(session, origin, tasks, None, Action.RESTORE)


async def purge(
    session: AsyncSession, origin: Origin, *, deleted_before: datetime, limit: int
) -> int:
    """Delete the rows of at most `limit` tasks that were marked as deleted before a time, the earliest first.

    A task that has a subtask stays until the subtask's row is deleted. The audit log keeps the values of each row.
    Returns how many rows were deleted.

    Raises:
        Refused: the limit is out of range; or `deleted_before` has no time zone, or is out of the database's range.
    """
    require_limit(limit, MAX_IN_A_LIST)
    require_moment("deleted_before", deleted_before)
    child = aliased(Task)
    old = (
        select(Task)
        .where(col(Task.deleted_at) < deleted_before)
        .where(~select(col(child.id)).where(col(child.parent_task_id) == Task.id).exists())
        .order_by(col(Task.deleted_at), col(Task.id))
        .limit(limit)
        .with_for_update(skip_locked=True, of=Task)
    )
    tasks = (await session.scalars(old, execution_options=_WITH_DELETED)).all()
    await audit.record(session, origin, *(Change.gone(task, Action.PURGE) for task in tasks))
    gone = delete_rows(Task).where(col(Task.id).in_([task.id for task in tasks]))
    await session.execute(gone)
    return len(tasks)


def require_legal(task: Task, status: TaskStatus) -> None:
    """Check that the task may move to the status.

    Raises:
        IllegalStatusChange: `LEGAL_MOVES` does not allow the change.
    """
    legal = LEGAL_MOVES[task.status]
    if status not in legal:
        raise IllegalStatusChange(task.id, task.status, status, legal)


async def require_parents(session: AsyncSession, wanted: dict[int, int]) -> None:
    """Check the parents (id → the project of the subtask), and lock them, so that none is deleted meanwhile.

    Raises:
        MissingReference: a parent does not exist, or is deleted.
        Refused: a parent belongs to another project, or there are too many.
    """
    if len(wanted) > MAX_IN_A_LIST:
        raise Refused("parent_task_id", f"at most {MAX_IN_A_LIST} different parents at once")
    possible = list(filter(is_id, wanted))
    parents = select(Task).where(col(Task.id).in_(possible)).order_by(col(Task.id))
    held = (await session.scalars(parents.with_for_update(read=True, key_share=True))).all()
    if len(held) < len(wanted):
        raise MissingReference("fk_task_parent_task_id_task", ("parent_task_id",))
    for parent in held:
        if parent.project_id != wanted[parent.id]:
            problem = f"task {parent.id} belongs to project {parent.project_id}, not to this one"
            raise Refused("parent_task_id", problem)


async def _require_no_cycle(session: AsyncSession, task: Task, parent_id: int) -> None:
    """Refuse a parent that is below the task. Locks the project: two moves at once could form a cycle unnoticed."""
    project = select(col(Project.id)).where(col(Project.id) == task.project_id)
    await session.execute(project.with_for_update(key_share=True))
    await require_parents(session, {parent_id: task.project_id})
    line = select(col(Task.id), col(Task.parent_task_id)).where(col(Task.id) == parent_id)
    above = line.cte("above", recursive=True)
    above = above.union(
        select(col(Task.id), col(Task.parent_task_id)).join(
            above, col(Task.id) == above.c.parent_task_id
        )
    )
    found = await session.scalars(select(above.c.id), execution_options=_WITH_DELETED)
    if task.id in set(found):
        raise Refused("parent_task_id", f"task {parent_id} is a part of task {task.id} itself")


async def _subtree(
    session: AsyncSession, task_id: int, which: ColumnElement[bool]
) -> Sequence[Task]:
    """The task and its subtasks at any depth that match the condition, locked in the order of their ids."""
    tree = select(col(Task.id)).where(col(Task.id) == task_id).cte("tree", recursive=True)
    tree = tree.union(select(col(Task.id)).join(tree, col(Task.parent_task_id) == tree.c.id))
    rows = select(Task).where(col(Task.id).in_(select(tree.c.id)), which).order_by(col(Task.id))
    found = await session.scalars(rows.with_for_update(), execution_options=_WITH_DELETED)
    return found.all()


async def _mark(
    session: AsyncSession,
    origin: Origin,
    tasks: Sequence[Task],
    deleted_at: datetime | None,
    action: Action,
) -> Sequence[Task]:
    before, after = [{"deleted_at": task.deleted_at} for task in tasks], {"deleted_at": deleted_at}
    await writes.update_rows(session, tasks, after)
    changes = [Change.of(t, b, after, action) for t, b in zip(tasks, before, strict=True)]
    await audit.record(session, origin, *changes)
    return tasks

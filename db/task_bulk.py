"""Changes of many tasks in few statements. Functions flush and never commit."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from db import tasks, writes
from db.errors import NotFound
from db.inputs import NewTask, TaskChanges
from db.models import Task, TaskStatus
from db.models.base import FixedList
from ledgerq import audit
from ledgerq.audit import Change, Origin
from ledgerq.bounds import is_id
from ledgerq.errors import Refused
from ledgerq.sessions import BulkUpdate, insert_returning_ids, lock_rows, naming_references


async def create_many(session: AsyncSession, origin: Origin, news: Sequence[NewTask]) -> list[int]:
    """Add tasks with their audit entries; returns their ids, in the order given.

    Raises:
        MissingReference: a project, parent, assignee or creator does not exist.
        Refused: a parent belongs to another project.
    """
    return await create_of_many(session, [(origin, new) for new in news])


async def create_of_many(
    session: AsyncSession, news: Sequence[tuple[Origin, NewTask]]
) -> list[int]:
    """As `create_many`, for tasks of several origins."""
    if not news:
        return []
    await _require_parents(session, [new for _, new in news])
    values = [new.model_dump() for _, new in news]
    async with naming_references(session, (Task(**value) for value in values)):
        ids = await insert_returning_ids(session, Task, values)
    await audit.record_many(
        session,
        [
            (origin, Change.inserted("task", task_id, value))
            for task_id, (origin, _), value in zip(ids, news, values, strict=True)
        ],
    )
    return ids


async def update_many(
    session: AsyncSession, origin: Origin, task_ids: Sequence[int], changes: TaskChanges
) -> int:
    """Change the fields that are set in `changes`, in all of these tasks; returns how many tasks have changed.

    Raises:
        NotFound: a task does not exist, or is deleted.
        MissingReference: the new assignee does not exist.
        Refused: the parent is among the fields, which only `tasks.update` changes; or there are too many tasks.
    """
    if "parent_task_id" in changes.model_fields_set:
        raise Refused("parent_task_id", "tasks move one at a time: use tasks.update")
    wanted = set(task_ids)
    if len(wanted) > writes.MAX_AT_ONCE:
        raise Refused("task_ids", f"at most {writes.MAX_AT_ONCE} tasks in one update")
    for impossible in sorted(task_id for task_id in wanted if not is_id(task_id)):
        raise NotFound("task", impossible)
    rows = select(Task).where(col(Task.id).in_(wanted)).order_by(col(Task.id)).with_for_update()
    found = (await session.scalars(rows, execution_options={"populate_existing": True})).all()
    for missing in sorted(wanted - {task.id for task in found}):
        raise NotFound("task", missing)
    what = writes.what_was_set(changes)
    if "tags" in what:
        what["tags"] = FixedList(what["tags"])  # all of the tasks share this list
    changed = [(task, change) for task in found if (change := writes.difference(task, what))]
    await writes.update_rows(session, [task for task, _ in changed], what)
    await audit.record(session, origin, *(change for _, change in changed))
    return len(changed)


async def change_status_of_many(
    session: AsyncSession, moves: Sequence[tuple[Origin, int, TaskStatus]]
) -> None:
    """As `tasks.change_status` for each origin, task and status, in this order.

    Raises:
        NotFound, IllegalStatusChange: as `tasks.change_status`.
    """
    steps = [(origin, task_id, {"status": status}, None) for origin, task_id, status in moves]
    await _change_many(session, steps)


async def update_of_many(
    session: AsyncSession, updates: Sequence[tuple[Origin, int, TaskChanges, int | None]]
) -> None:
    """As `tasks.update` for each origin, task, changes and expected version, in this order.

    Raises:
        NotFound, VersionConflict, MissingReference, Refused: as `tasks.update`.
    """
    if any(changes.parent_task_id is not None for _, _, changes, _ in updates):
        for origin, task_id, changes, version in updates:  # a move under a parent reads many rows
            await tasks.update(session, origin, task_id, changes, expected_version=version)
        return
    await _change_many(session, [(o, t, writes.what_was_set(c), v) for o, t, c, v in updates])


async def _change_many(
    session: AsyncSession, steps: Sequence[tuple[Origin, int, Mapping[str, Any], int | None]]
) -> None:
    """Make each step's changes of its task, which must be at the version that the step expects."""
    rows = await lock_rows(session, Task, (task_id for _, task_id, *_ in steps if is_id(task_id)))
    changed = []
    async with BulkUpdate(session) as updates:
        for origin, task_id, changes, expected_version in steps:
            task = writes.among(rows, Task, task_id, expected_version)
            if "status" in changes:
                tasks.require_legal(task, changes["status"])
            if change := writes.set_fields(task, changes):
                updates.add(task)
                changed.append((origin, change))
    await audit.record_many(session, changed)


async def _require_parents(session: AsyncSession, news: Sequence[NewTask]) -> None:
    wanted: dict[int, int] = {}
    for new in news:
        if new.parent_task_id is None:
            continue
        if wanted.setdefault(new.parent_task_id, new.project_id) != new.project_id:
            raise Refused("parent_task_id", f"task {new.parent_task_id} can't be in two projects")
    if wanted:
        await tasks.require_parents(session, wanted)

"""What may be done with tasks."""

from datetime import UTC, datetime, timedelta

import pytest

from db import tasks
from db.errors import IllegalStatusChange, NotFound
from db.models import LEGAL_MOVES, Task, TaskStatus
from ledgerq.database.engine import Database, Sessions
from ledgerq.database.transaction import transaction
from ledgerq.errors import MissingReference
from ledgerq.store.tables import Action
from tests.support import ORIGIN, count, history, new_task, rows

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


async def move(sessions: Sessions, task_id: int, status: TaskStatus) -> None:
    async with transaction(sessions) as session:
        await tasks.change_status(session, ORIGIN, task_id, status)


async def delete(sessions: Sessions, task_id: int, now: datetime = NOW) -> list[int]:
    async with transaction(sessions) as session:
        return [task.id for task in await tasks.delete(session, ORIGIN, task_id, now=now)]


async def purge(sessions: Sessions, deleted_before: datetime, limit: int = 100) -> int:
    async with transaction(sessions) as session:
        return await tasks.purge(session, ORIGIN, deleted_before=deleted_before, limit=limit)


@pytest.mark.parametrize("field", ["project_id", "assignee_id", "created_by_id", "parent_task_id"])
async def test_a_missing_reference_is_named(any_database: Database, field: str) -> None:
    """By its field, on SQLite too."""
    with pytest.raises(MissingReference) as refused:
        await new_task(any_database.sessions, **{field: 999})
    assert refused.value.fields == (field,)
    if field != "parent_task_id":
        assert refused.value.constraint


@pytest.mark.parametrize("current", list(TaskStatus))
async def test_a_status_moves_as_the_table_says(
    any_sessions: Sessions, current: TaskStatus
) -> None:
    """Every legal move works, every other one is refused and leaves nothing."""
    for wanted in TaskStatus:
        task = await new_task(any_sessions, status=current)
        if wanted in LEGAL_MOVES[current]:
            await move(any_sessions, task.id, wanted)
            assert len(await history(any_sessions, "task", task.id)) == 2
        else:
            with pytest.raises(IllegalStatusChange, match=f"from {current} to {wanted}"):
                await move(any_sessions, task.id, wanted)
            assert len(await history(any_sessions, "task", task.id)) == 1


async def test_deleting_takes_the_subtasks_along(any_sessions: Sessions) -> None:
    """At any depth, each with its own audit entry; one deleted before keeps its time."""
    root = await new_task(any_sessions)
    fields = {"project_id": root.project_id}
    child = await new_task(any_sessions, parent_task_id=root.id, **fields)
    grandchild = await new_task(any_sessions, parent_task_id=child.id, **fields)
    gone = await new_task(any_sessions, parent_task_id=root.id, **fields)
    other = await new_task(any_sessions, **fields)
    await delete(any_sessions, gone.id, NOW - timedelta(days=1))

    assert await delete(any_sessions, root.id) == [root.id, child.id, grandchild.id]

    stored = {task.id: task.deleted_at for task in await rows(any_sessions, Task)}
    assert stored[grandchild.id] == NOW
    assert stored[gone.id] == NOW - timedelta(days=1)
    assert stored[other.id] is None
    entry = (await history(any_sessions, "task", grandchild.id))[-1]
    assert entry.action == Action.DELETE
    assert entry.before == {"deleted_at": None}


async def test_a_deleted_task_is_not_there(any_sessions: Sessions) -> None:
    """It can be neither moved nor deleted again."""
    task = await new_task(any_sessions)
    await delete(any_sessions, task.id)
    with pytest.raises(NotFound, match=f"there is no task {task.id}"):
        await move(any_sessions, task.id, TaskStatus.DONE)
    with pytest.raises(NotFound):
        await delete(any_sessions, task.id)


async def test_purging_removes_what_was_deleted_long_ago(any_sessions: Sessions) -> None:
    """The row goes, the log keeps what it held; the living and the lately deleted stay."""
    old, late, living = [await new_task(any_sessions, title=t) for t in ("old", "late", "living")]
    await delete(any_sessions, old.id, NOW - timedelta(days=40))
    await delete(any_sessions, late.id, NOW)

    assert await purge(any_sessions, NOW - timedelta(days=30)) == 1

    assert {task.id for task in await rows(any_sessions, Task)} == {late.id, living.id}
    entry = (await history(any_sessions, "task", old.id))[-1]
    assert (entry.action, entry.before["title"], entry.after) == (Action.PURGE, "old", {})


async def test_purging_goes_from_the_leaves_to_the_root(any_sessions: Sessions) -> None:
    """A parent waits until its subtasks are gone; the limit holds."""
    root = await new_task(any_sessions)
    for _ in range(3):
        await new_task(any_sessions, project_id=root.project_id, parent_task_id=root.id)
    await delete(any_sessions, root.id)
    later = NOW + timedelta(seconds=1)
    assert await purge(any_sessions, later, limit=2) == 2
    assert await purge(any_sessions, later) == 1
    assert await purge(any_sessions, later) == 1
    assert await count(any_sessions, Task) == 0

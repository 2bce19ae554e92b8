"""Create, read, update and delete, for every entity, on PostgreSQL and SQLite."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import text

from db import projects, task_bulk, task_reads, tasks, workers
from db.errors import NotFound, VersionConflict
from db.inputs import NewProject, NewTask, NewWorker, ProjectChanges, TaskChanges, WorkerChanges
from db.models import Project, Task, TaskPriority, WorkerType
from ledgerq.database.engine import Sessions
from ledgerq.database.transaction import transaction
from ledgerq.errors import AlreadyExists, MissingReference, Refused
from ledgerq.store import audit
from ledgerq.store.tables import Action, AuditLog
from tests.support import (
    ORIGIN,
    count,
    eventually,
    history,
    new_project,
    new_task,
    rows,
    waiting_for_a_lock,
)

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


async def new_worker(sessions: Sessions, name: str = "Ada") -> int:
    async with transaction(sessions) as session:
        return (await workers.create(session, ORIGIN, NewWorker(name=name))).id


async def update_task(sessions: Sessions, task_id: int, **changes: Any) -> Task:
    version = changes.pop("expected_version", None)
    async with transaction(sessions) as session:
        wanted = TaskChanges(**changes)
        return await tasks.update(session, ORIGIN, task_id, wanted, expected_version=version)


async def test_only_what_was_set_is_updated(any_sessions: Sessions) -> None:
    """A field left out stays; a field set to nothing is emptied; the entry holds what changed."""
    due = datetime(2027, 1, 1, tzinfo=UTC)
    task = await new_task(any_sessions, title="old", description="keep", tags=["a"], due_at=due)
    await update_task(any_sessions, task.id, title="new", due_at=None, tags=["a"])
    (stored,) = await rows(any_sessions, Task)
    assert (stored.title, stored.description, stored.due_at) == ("new", "keep", None)
    entry = (await history(any_sessions, "task", task.id))[-1]
    assert entry.before == {"title": "old", "due_at": "2027-01-01T00:00:00Z"}
    assert entry.after == {"title": "new", "due_at": None}


async def test_an_update_that_changes_nothing_leaves_nothing(any_sessions: Sessions) -> None:
    """No new version, no entry."""
    task = await new_task(any_sessions, title="same")
    same = await update_task(any_sessions, task.id, title="same")
    assert same.version == 1
    assert len(await history(any_sessions, "task", task.id)) == 1


async def test_a_lost_update_is_refused(any_sessions: Sessions) -> None:
    """Two have read version 1; the first one's write makes it 2; the second is told."""
    task = await new_task(any_sessions)
    first = await update_task(any_sessions, task.id, title="first", expected_version=1)
    assert first.version == 2
    with pytest.raises(VersionConflict, match="version 2 by now, not 1"):
        await update_task(any_sessions, task.id, title="second", expected_version=1)
    (stored,) = await rows(any_sessions, Task)
    assert stored.title == "first"


async def test_of_two_updates_at_once_one_is_refused(sessions: Sessions) -> None:
    """The row lock lets them take turns; the version tells the second one."""
    task = await new_task(sessions)
    attempts = (update_task(sessions, task.id, title=t, expected_version=1) for t in "ab")
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Task", "VersionConflict"]


@pytest.mark.parametrize("field", ["title", "priority", "tags"])
def test_what_must_have_a_value_cannot_be_emptied(field: str) -> None:
    """Null is not the same as left out."""
    with pytest.raises(ValidationError):
        TaskChanges.model_validate({field: None})


async def test_projects_and_workers_are_updated_alike(any_sessions: Sessions) -> None:
    """With versions and entries of their own."""
    project_id, worker_id = await new_project(any_sessions), await new_worker(any_sessions)
    async with transaction(any_sessions) as session:
        project = await projects.update(
            session, ORIGIN, project_id, ProjectChanges(name="Renamed", key="REN")
        )
        changes = WorkerChanges(type=WorkerType.AGENT)
        worker = await workers.update(session, ORIGIN, worker_id, changes, expected_version=1)
        assert (project.version, worker.version) == (2, 2)
    async with any_sessions() as session:
        assert (await projects.get(session, project_id)).key == "REN"
        assert (await workers.get(session, worker_id)).type is WorkerType.AGENT
        assert [each.id for each in await projects.page(session)] == [project_id]
        assert [each.id for each in await workers.page(session)] == [worker_id]
        assert await workers.page(session, after_id=worker_id) == []
    assert (await history(any_sessions, "worker", worker_id))[-1].after == {"type": "agent"}


async def test_what_is_not_there_is_not_found(any_sessions: Sessions) -> None:
    """By every function that takes an id."""
    async with any_sessions() as session:
        for missing in (
            projects.get(session, 9),
            workers.get(session, 9),
            task_reads.get(session, 9),
            task_reads.tree(session, 9),
            projects.update(session, ORIGIN, 9, ProjectChanges(name="x")),
            workers.update(session, ORIGIN, 9, WorkerChanges(name="x")),
            tasks.update(session, ORIGIN, 9, TaskChanges(title="x")),
            tasks.restore(session, ORIGIN, 9),
            projects.delete(session, ORIGIN, 9),
            workers.delete(session, ORIGIN, 9),
            task_bulk.update_many(session, ORIGIN, [9], TaskChanges(title="x")),
        ):
            with pytest.raises(NotFound, match="9"):
                await missing


async def test_deleting_a_worker_leaves_the_tasks_to_nobody(any_sessions: Sessions) -> None:
    """Set null, in deleted tasks too, with an entry for each task."""
    worker_id = await new_worker(any_sessions)
    kept = await new_task(any_sessions, assignee_id=worker_id, created_by_id=worker_id)
    gone = await new_task(any_sessions, project_id=kept.project_id, assignee_id=worker_id)
    async with transaction(any_sessions) as session:
        await tasks.delete(session, ORIGIN, gone.id, now=NOW)
    async with transaction(any_sessions) as session:
        await workers.delete(session, ORIGIN, worker_id)
    assert {(t.assignee_id, t.created_by_id) for t in await rows(any_sessions, Task)} == {
        (None, None)
    }
    fields = [entry.before for entry in await history(any_sessions, "task", kept.id)]
    assert fields[1:] == [{"assignee_id": worker_id}, {"created_by_id": worker_id}]
    last = (await history(any_sessions, "worker", worker_id))[-1]
    assert (last.action, last.before["name"]) == (Action.DELETE, "Ada")


async def test_an_empty_project_can_be_deleted(any_sessions: Sessions) -> None:
    """The row goes, the log keeps what it held."""
    project_id = await new_project(any_sessions)
    async with transaction(any_sessions) as session:
        await projects.delete(session, ORIGIN, project_id, expected_version=1)
    assert await count(any_sessions, Project) == 0
    assert (await history(any_sessions, "project", project_id))[-1].before == {"name": "Launch"}


async def test_restoring_brings_back_what_was_deleted_together(any_sessions: Sessions) -> None:
    """A subtask deleted before stays deleted; one whose parent is deleted can't come back alone."""
    root = await new_task(any_sessions)
    fields = {"project_id": root.project_id, "parent_task_id": root.id}
    child, earlier = [await new_task(any_sessions, **fields) for _ in range(2)]
    async with transaction(any_sessions) as session:
        await tasks.delete(session, ORIGIN, earlier.id, now=NOW - timedelta(days=1))
    async with transaction(any_sessions) as session:
        await tasks.delete(session, ORIGIN, root.id, now=NOW)
    with pytest.raises(Refused, match="parent of task"):
        async with transaction(any_sessions) as session:
            await tasks.restore(session, ORIGIN, child.id)
    async with transaction(any_sessions) as session:
        back = await tasks.restore(session, ORIGIN, root.id)
    assert [task.id for task in back] == [root.id, child.id]
    assert (await history(any_sessions, "task", child.id))[-1].action == Action.RESTORE
    async with transaction(any_sessions) as session:
        await tasks.restore(session, ORIGIN, earlier.id)
    assert {task.deleted_at for task in await rows(any_sessions, Task)} == {None}


async def test_a_parent_that_would_close_a_circle_is_refused(any_sessions: Sessions) -> None:
    """At any depth, and a task is not its own parent."""
    a = await new_task(any_sessions)
    b = await new_task(any_sessions, project_id=a.project_id, parent_task_id=a.id)
    c = await new_task(any_sessions, project_id=a.project_id, parent_task_id=b.id)
    for parent in (a, b, c):
        with pytest.raises(Refused, match="parent_task_id"):
            await update_task(any_sessions, a.id, parent_task_id=parent.id)
    moved = await update_task(any_sessions, c.id, parent_task_id=a.id)
    assert moved.parent_task_id == a.id


async def test_two_moves_at_once_cannot_close_a_circle(sessions: Sessions) -> None:
    """A under B and B under A: moves within a project take turns, so one sees the other."""
    a = await new_task(sessions)
    b = await new_task(sessions, project_id=a.project_id)
    results = await asyncio.gather(
        update_task(sessions, a.id, parent_task_id=b.id),
        update_task(sessions, b.id, parent_task_id=a.id),
        return_exceptions=True,
    )
    failed = [result for result in results if isinstance(result, Exception)]
    assert len(failed) == 1
    parents = {task.id: task.parent_task_id for task in await rows(sessions, Task)}
    assert list(parents.values()).count(None) == 1


async def test_moves_far_apart_cannot_close_a_circle_either(sessions: Sessions) -> None:
    """A over B and C over D: A under D and C under B touch no common row, and still take turns."""
    a = await new_task(sessions)
    fields = {"project_id": a.project_id}
    b = await new_task(sessions, parent_task_id=a.id, **fields)
    c = await new_task(sessions, **fields)
    d = await new_task(sessions, parent_task_id=c.id, **fields)
    results = await asyncio.gather(
        update_task(sessions, a.id, parent_task_id=d.id),
        update_task(sessions, c.id, parent_task_id=b.id),
        return_exceptions=True,
    )
    assert sorted(type(result).__name__ for result in results) == ["Refused", "Task"]


async def test_a_subtask_added_while_its_branch_is_deleted_goes_too(sessions: Sessions) -> None:
    """The delete waits for who holds the parent, then looks again."""
    root = await new_task(sessions)
    fields = {"project_id": root.project_id}
    child = await new_task(sessions, parent_task_id=root.id, **fields)

    async def delete_root() -> list[int]:
        async with transaction(sessions) as session:
            return [task.id for task in await tasks.delete(session, ORIGIN, root.id, now=NOW)]

    async with transaction(sessions) as session:
        late = NewTask(title="late", parent_task_id=child.id, project_id=root.project_id)
        grandchild = (await tasks.create(session, ORIGIN, late)).id
        deletion = asyncio.create_task(delete_root())
        await eventually(lambda: waiting_for_a_lock(sessions, "WITH RECURSIVE"))
    assert await deletion == [root.id, child.id, grandchild]


async def test_what_was_read_before_does_not_hide_what_others_wrote(sessions: Sessions) -> None:
    """Versions go on from the row as it is, not as this session once saw it."""
    async with transaction(sessions) as session:
        project = await projects.create(session, ORIGIN, NewProject(name="one", key="K"))
    task = await new_task(sessions, project_id=project.id)
    async with transaction(sessions) as session:
        await projects.get(session, project.id)
        await session.get(Task, task.id)
        async with transaction(sessions) as other:
            await projects.update(other, ORIGIN, project.id, ProjectChanges(name="two"))
            await tasks.update(other, ORIGIN, task.id, TaskChanges(title="two"))
        (back,) = await projects.upsert_many(session, ORIGIN, [NewProject(name="one", key="K")])
        (gone,) = await tasks.delete(session, ORIGIN, task.id, now=NOW)
        assert (back.version, gone.version, gone.title) == (3, 3, "two")
    entry = (await history(sessions, "project", project.id))[-1]
    assert (entry.before, entry.after) == ({"name": "two"}, {"name": "one"})


async def test_what_a_write_gives_back_can_be_shown(any_sessions: Sessions) -> None:
    """Times and versions that the database filled in are there, after the session too."""
    task = await new_task(any_sessions)
    async with transaction(any_sessions) as session:
        changed = await tasks.update(session, ORIGIN, task.id, TaskChanges(title="x"))
        (gone,) = await tasks.delete(session, ORIGIN, task.id, now=NOW)
    assert changed.updated_at >= task.updated_at
    assert "updated_at" in gone.model_dump()


async def test_an_id_is_not_given_twice(any_sessions: Sessions) -> None:
    """Or the history of the new one would begin with the old one's."""
    first = await new_project(any_sessions)
    async with transaction(any_sessions) as session:
        await projects.delete(session, ORIGIN, first)
    assert await new_project(any_sessions) > first


async def test_a_subtask_in_another_project_is_refused(any_sessions: Sessions) -> None:
    """Before the database is asked, with the field; for one task, for many and for a move."""
    parent = await new_task(any_sessions)
    other = await new_project(any_sessions, "other")
    stray = await new_task(any_sessions, project_id=other)
    news = [NewTask(title="x", project_id=other, parent_task_id=parent.id)]
    with pytest.raises(Refused, match=r"parent_task_id: task .* belongs to project"):
        await new_task(any_sessions, project_id=other, parent_task_id=parent.id)
    with pytest.raises(Refused, match="belongs to project"):
        async with transaction(any_sessions) as session:
            await task_bulk.create_many(session, ORIGIN, news)
    with pytest.raises(Refused, match="belongs to project"):
        await update_task(any_sessions, stray.id, parent_task_id=parent.id)


async def test_a_deleted_task_takes_no_subtasks(any_sessions: Sessions) -> None:
    """It would be a task that nobody can see."""
    parent = await new_task(any_sessions)
    async with transaction(any_sessions) as session:
        await tasks.delete(session, ORIGIN, parent.id, now=NOW)
    with pytest.raises(MissingReference):
        await new_task(any_sessions, project_id=parent.project_id, parent_task_id=parent.id)


@pytest.mark.parametrize("size", [1, 10_000])
async def test_bulk_creation_keeps_the_order_and_leaves_every_entry(
    any_sessions: Sessions, size: int
) -> None:
    """Ten thousand tasks with their audit entries in one transaction, ids in the order given."""
    project_id = await new_project(any_sessions)
    news = [NewTask(title=f"№{n}", project_id=project_id, tags=["bulk"]) for n in range(size)]
    async with transaction(any_sessions) as session:
        ids = await task_bulk.create_many(session, ORIGIN, news)
    titles = {task.id: task.title for task in await rows(any_sessions, Task)}
    assert [titles[task_id] for task_id in ids] == [new.title for new in news]
    entries = {
        int(e.entity_id): e for e in await rows(any_sessions, AuditLog) if e.entity_type == "task"
    }
    assert entries.keys() == titles.keys()
    assert entries[ids[-1]].after == {
        "title": news[-1].title,
        "project_id": project_id,
        "status": "todo",
        "priority": "normal",
        "tags": ["bulk"],
    }


async def test_bulk_creation_is_all_or_nothing(any_sessions: Sessions) -> None:
    """One bad row among many leaves none."""
    project_id = await new_project(any_sessions)
    news = [NewTask(title="x", project_id=project_id) for _ in range(50)]
    with pytest.raises(MissingReference):
        async with transaction(any_sessions) as session:
            await task_bulk.create_many(session, ORIGIN, [*news, NewTask(title="x", project_id=99)])
    assert await count(any_sessions, Task) == 0
    async with transaction(any_sessions) as session:
        assert await task_bulk.create_many(session, ORIGIN, []) == []


async def test_bulk_update_changes_what_differs(any_sessions: Sessions) -> None:
    """An entry for each task that was not so before; a missing one stops all."""
    made = [await new_task(any_sessions, priority=p) for p in (TaskPriority.LOW, TaskPriority.HIGH)]
    ids = [task.id for task in made]
    async with transaction(any_sessions) as session:
        urgent = TaskChanges(priority=TaskPriority.HIGH)
        assert await task_bulk.update_many(session, ORIGIN, ids, urgent) == 1
    assert {task.priority for task in await rows(any_sessions, Task)} == {TaskPriority.HIGH}
    assert [len(await history(any_sessions, "task", i)) for i in ids] == [2, 1]
    with pytest.raises(NotFound):
        async with transaction(any_sessions) as session:
            await task_bulk.update_many(session, ORIGIN, [*ids, 999], TaskChanges(title="x"))
    with pytest.raises(Refused, match="one at a time"):
        async with transaction(any_sessions) as session:
            await task_bulk.update_many(session, ORIGIN, ids, TaskChanges(parent_task_id=None))


async def test_a_missing_reference_among_many_is_named(any_sessions: Sessions) -> None:
    """By its field in bulk creation and bulk update too, on SQLite as well."""
    task = await new_task(any_sessions)
    stray = NewTask(title="x", project_id=task.project_id, created_by_id=99)
    with pytest.raises(MissingReference) as refused:
        async with transaction(any_sessions) as session:
            await task_bulk.create_many(session, ORIGIN, [stray])
    assert refused.value.fields == ("created_by_id",)
    with pytest.raises(MissingReference) as refused:
        async with transaction(any_sessions) as session:
            changes = TaskChanges(assignee_id=99)
            await task_bulk.update_many(session, ORIGIN, [task.id], changes)
    assert refused.value.fields == ("assignee_id",)


async def test_upsert_by_natural_key(any_sessions: Sessions) -> None:
    """New keys are created, known ones changed, equal ones left alone; the entries say which."""

    async def upsert(**names: str) -> list[Project]:
        async with transaction(any_sessions) as session:
            news = [NewProject(key=key, name=name) for key, name in names.items()]
            return await projects.upsert_many(session, ORIGIN, news)

    first = await upsert(OPS="Operations", WEB="Website")
    second = await upsert(WEB="Web", OPS="Operations", NEW="New")
    assert [project.key for project in second] == ["WEB", "OPS", "NEW"]
    assert {p.id for p in first} < {p.id for p in second}
    actions = {
        project.key: [e.action for e in await history(any_sessions, "project", project.id)]
        for project in second
    }
    assert actions == {
        "WEB": [Action.CREATE, Action.UPDATE],
        "OPS": [Action.CREATE],
        "NEW": [Action.CREATE],
    }
    with pytest.raises(Refused, match="key"):
        async with transaction(any_sessions) as session:
            await projects.upsert_many(session, ORIGIN, [NewProject(name="no key")])


async def test_upserts_at_the_same_time_do_not_collide(sessions: Sessions) -> None:
    """In any order of keys: each key is created once, nobody waits for ever."""

    async def upsert(*keys: str) -> None:
        async with transaction(sessions) as session:
            news = [NewProject(key=key, name=key) for key in keys]
            await projects.upsert_many(session, ORIGIN, news)

    await asyncio.gather(
        *(upsert("A", "B", "C") if n % 2 else upsert("C", "B", "A") for n in range(8))
    )
    assert sorted(project.key or "" for project in await rows(sessions, Project)) == ["A", "B", "C"]
    assert await count(sessions, AuditLog) == 3


async def test_a_key_belongs_to_one_project(any_sessions: Sessions) -> None:
    """The natural key is unique, on create and on update."""
    async with transaction(any_sessions) as session:
        await projects.create(session, ORIGIN, NewProject(name="One", key="ONE"))
        other = await projects.create(session, ORIGIN, NewProject(name="Two"))
    with pytest.raises(AlreadyExists, match="key"):
        async with transaction(any_sessions) as session:
            await projects.update(session, ORIGIN, other.id, ProjectChanges(key="ONE"))


async def test_updated_at_is_kept_by_the_database(any_sessions: Sessions) -> None:
    """Whoever writes, past the ORM too."""
    task = await new_task(any_sessions)
    await asyncio.sleep(0.002)  # SQLite's clock has milliseconds
    async with transaction(any_sessions) as session:
        await session.execute(text("UPDATE task SET description = 'by hand'"))
    (stored,) = await rows(any_sessions, Task)
    assert stored.updated_at > stored.created_at
    assert stored.created_at == task.created_at


async def test_history_is_paged_oldest_first(any_sessions: Sessions) -> None:
    """Page after page, nothing twice and nothing left out."""
    task = await new_task(any_sessions, title="0")
    for n in range(1, 7):
        await update_task(any_sessions, task.id, title=str(n))
    seen: list[str] = []
    last = 0
    async with any_sessions() as session:
        while found := await audit.history(session, "task", task.id, after_id=last, limit=3):
            seen += [entry.after["title"] for entry in found]
            last = found[-1].id
    assert seen == ["0", "1", "2", "3", "4", "5", "6"]

"""What the tables hold and refuse, on PostgreSQL and SQLite alike."""

import copy
import operator
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import joinedload, selectinload

from db import task_bulk, task_reads, tasks, workers
from db.errors import ChangedInPlace, NotLoaded
from db.inputs import NewTask, NewWorker, TaskChanges
from db.models import Project, Task, TaskPriority, TaskStatus, Worker, WorkerType
from ledgerq.database.engine import Sessions
from ledgerq.database.transaction import transaction
from ledgerq.errors import ConstraintError
from tests.support import ORIGIN, new_project, new_task, rows


async def test_a_task_comes_back_as_it_went_in(any_sessions: Sessions) -> None:
    """Unicode, tags, enums and a time in another zone survive; the database fills in the rest."""
    tokyo = timezone(timedelta(hours=9))
    task = await new_task(
        any_sessions,
        title="移动应用 – naïve 🛠",
        description="line\nline",
        tags=["größe", "日本語"],
        priority=TaskPriority.URGENT,
        due_at=datetime(2027, 1, 1, 9, tzinfo=tokyo),
    )
    (stored,) = await rows(any_sessions, Task)
    assert stored.id == task.id
    assert (stored.title, stored.tags) == ("移动应用 – naïve 🛠", ["größe", "日本語"])
    assert (stored.priority, stored.status) == (TaskPriority.URGENT, TaskStatus.TODO)
    assert stored.due_at == datetime(2027, 1, 1, tzinfo=UTC)
    assert stored.due_at.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - stored.created_at) < timedelta(minutes=1)
    assert stored.deleted_at is None


async def test_a_naive_datetime_is_refused(any_sessions: Sessions) -> None:
    """A time without a zone is a guess."""
    with pytest.raises(StatementError, match="naive datetime"):
        async with transaction(any_sessions) as session:
            session.add(
                Task(
                    title="x",
                    project_id=1,
                    due_at=datetime(2027, 1, 1),  # noqa: DTZ001 - that is the point
                )
            )


async def test_parents_and_subtasks_find_each_other(any_sessions: Sessions) -> None:
    """A task refers to its parent; the parent lists its subtasks."""
    parent = await new_task(any_sessions, title="parent")
    child = await new_task(
        any_sessions, title="child", project_id=parent.project_id, parent_task_id=parent.id
    )
    async with any_sessions() as session:
        loaded = (
            await session.scalars(
                select(Task).where(Task.id == parent.id).options(selectinload(Task.subtasks))  # type: ignore[arg-type]
            )
        ).one()
        assert [task.id for task in loaded.subtasks] == [child.id]


async def test_a_forgotten_eager_load_is_an_error_that_names_it(any_sessions: Sessions) -> None:
    """No hidden query, no MissingGreenlet."""
    await new_task(any_sessions)
    (task,) = await rows(any_sessions, Task)
    with pytest.raises(NotLoaded, match=r"joinedload\(Task\.project\)"):
        _ = task.project
    with pytest.raises(NotLoaded, match=r"selectinload\(Task\.subtasks\)"):
        _ = task.subtasks


@pytest.mark.parametrize(
    "row",
    [
        Project(name=""),
        Project(name="x" * 201),
        Project(name="x", key=""),
        Worker(name="", type=WorkerType.AGENT),
        Task(title="", project_id=1),
        Task(title="x" * 501, project_id=1),
        Task(title="x", project_id=99),
        Task(title="x", project_id=1, parent_task_id=99),
        Task(title="x", project_id=1, assignee_id=99),
        Task(title="x"),
    ],
    ids=lambda row: repr(row)[:60],
)
async def test_the_database_refuses_what_must_not_be(
    any_sessions: Sessions, row: Project | Worker | Task
) -> None:
    """Whoever writes, past our input models or beside them, meets the constraints."""
    await new_project(any_sessions)
    with pytest.raises(ConstraintError):
        async with transaction(any_sessions) as session:
            session.add(type(row)(**row.model_dump(exclude_unset=True)))


async def test_updated_at_moves_with_a_change(sessions: Sessions) -> None:
    """The time of the last change is the database's."""
    task = await new_task(sessions)
    async with transaction(sessions) as session:
        changed = await session.get_one(Task, task.id)
        before = changed.updated_at
        changed.title = "Another title"
    (stored,) = await rows(sessions, Task)
    assert stored.updated_at > before
    assert stored.created_at == before


async def test_every_relationship_can_be_loaded(any_sessions: Sessions) -> None:
    """Project and tasks, assignee and assigned tasks, creator, parent and subtasks."""
    async with transaction(any_sessions) as session:
        ada = (await workers.create(session, ORIGIN, NewWorker(name="Ada"))).id
        bob = (await workers.create(session, ORIGIN, NewWorker(name="Bob"))).id
    parent = await new_task(any_sessions, assignee_id=ada, created_by_id=bob)
    child = await new_task(any_sessions, project_id=parent.project_id, parent_task_id=parent.id)
    everything = [getattr(Task, name) for name in ("project", "assignee", "created_by", "parent")]
    async with any_sessions() as session:
        single = select(Task).options(*map(joinedload, everything), selectinload(Task.subtasks))  # type: ignore[arg-type]
        found = {task.id: task for task in (await session.scalars(single)).unique()}
        assert found[parent.id].project.name == "Launch"
        assert found[parent.id].assignee.name == "Ada"  # type: ignore[union-attr]
        assert found[parent.id].created_by.name == "Bob"  # type: ignore[union-attr]
        assert found[child.id].parent is found[parent.id]
        assert found[parent.id].subtasks == [found[child.id]]
    async with any_sessions() as session:
        projects = select(Project).options(selectinload(Project.tasks))  # type: ignore[arg-type]
        assert len((await session.scalars(projects)).one().tasks) == 2
        assigned = select(Worker).options(selectinload(Worker.assigned_tasks))  # type: ignore[arg-type]
        tasks = {worker.name: worker.assigned_tasks for worker in await session.scalars(assigned)}
        assert ([task.id for task in tasks["Ada"]], tasks["Bob"]) == ([parent.id], [])


async def test_the_database_fills_in_what_is_left_out(any_sessions: Sessions) -> None:
    """Server defaults: for who writes SQL by hand."""
    project_id = await new_project(any_sessions)
    async with transaction(any_sessions) as session:
        await session.execute(
            text("INSERT INTO task (title, project_id) VALUES ('by hand', :p)"), {"p": project_id}
        )
        await session.execute(text("INSERT INTO worker (name) VALUES ('by hand')"))
    (task,) = await rows(any_sessions, Task)
    assert (task.status, task.priority, task.tags) == (TaskStatus.TODO, TaskPriority.NORMAL, [])
    assert (task.version, task.created_at) == (1, task.updated_at)
    assert (await rows(any_sessions, Worker))[0].type is WorkerType.PERSON


async def test_tags_cannot_be_changed_in_place(any_sessions: Sessions) -> None:
    """However the task came to the session: added, read, updated, updated with many others."""
    task = await new_task(any_sessions, tags=["a"])
    async with transaction(any_sessions) as session:
        read = await session.get_one(Task, task.id)
        must_be_replaced(read.tags)
        must_be_replaced((await task_reads.get(session, task.id)).tags)
        must_be_replaced(
            (await tasks.update(session, ORIGIN, task.id, TaskChanges(tags=["b"]))).tags
        )
        new = await tasks.create(session, ORIGIN, NewTask(title="o", project_id=1, tags=["x"]))
        must_be_replaced(new.tags)
        changes = TaskChanges(tags=["c"])
        assert await task_bulk.update_many(session, ORIGIN, [task.id, new.id], changes) == 2
        must_be_replaced(read.tags)
        read.tags = [*read.tags, "replaced"]
        must_be_replaced(read.tags)
    stored = {each.id: each.tags for each in await rows(any_sessions, Task)}
    assert stored == {task.id: ["c", "replaced"], new.id: ["c"]}
    for copied in (copy.copy(read.tags), read.model_dump()["tags"]):
        copied.append("of its own")
    for deep in (
        copy.deepcopy(read.tags),
        copy.deepcopy(read).tags,
        read.model_copy(deep=True).tags,
    ):
        assert deep == read.tags
        must_be_replaced(deep)
    assert read.tags == ["c", "replaced"]


def must_be_replaced(tags: list[str]) -> None:
    """Every way to change it says so."""
    ways: list[Callable[[], object]] = [
        lambda: tags.append("x"),
        lambda: tags.extend(["x"]),
        lambda: tags.insert(0, "x"),
        lambda: tags.remove(tags[0]),
        tags.sort,
        tags.reverse,
        tags.clear,
        tags.pop,
        lambda: operator.setitem(tags, 0, "x"),
        lambda: operator.delitem(tags, 0),
        lambda: tags.__iadd__(["x"]),
        lambda: tags.__imul__(2),
        lambda: tags.__init__(["x"]),  # type: ignore[misc]
    ]
    for way in ways:
        with pytest.raises(ChangedInPlace, match="replace it"):
            way()
